"""Numbers that decide what a network computes or fits, beside its arguments and weights.

A model keeps those that it was built with, and its checkpoint names them, so that editing one here changes new models
and no published one. Sizes of random weights at the start are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Constants:
    """All of them.

    Attributes:
        limit_atoms: (start, most) of ``nn.limit`` for features of atoms: molecules of the training sets reach 1.4,
            squeezed by 10 % 5.
        limit_pairs: the same for features of pairs: 5.5, squeezed 14.
        cutoff_power: p of ``embedding.polynomial_cutoff`` in messages, triangles, chains and latent charges.
        filter_channels: channels of the element pair in filter networks (``embedding.RadialMLP``).
        product_l_max: largest l that takes part in products of an atom's features (``interaction.SelfProduct``).
        neighbours: about how many are summed in a message, so that sums are of order one.
        triangle_l_max: largest l of what third atoms say of a pair; 2 suffices for s and p shells.
        charge_widths: Bohr, narrowest and widest Gaussian of latent charges at the start.
        response_potential, response_field: factors that bring potentials (some 50 mEh in molecules) and fields (half of
            that) to order one.
        charge_per_electrons: valence electrons, a closed shell, per which atoms are told the charge of their molecule.
        charge_least_share: of an atom in a molecule's charge before shares are normalised, so that somebody carries it.
        two_centre_shortest: Å, centre of the first Gaussian of two-centre functions.
        two_centre_width: widths of these Gaussians, relative to their distances.
        two_centre_decay: Å, of the exponential in two-centre functions, as bonds' integrals fall.
        two_centre_ridge: of their fit, relative to the mean diagonal of the normal matrix.
        scale_floor, overlap_scale_floor: smallest scale of residuals of H (Eh) and of S.
        scale_bins, scale_bin_width: number and width (Å) of the bins of distance, scales are fitted to.
        scale_steepest: 1/Å, fastest fall of a scale with distance.
        scale_spread: Å^2, variance of distances below which an element pair takes the slope of all pairs.
        overlap_step: Bohr, of the table of free atoms' overlaps; 0.02 leaves 1e-9.
        shrink: largest eigenvalue of S0^-1 Q that is left as it is, and the one that none exceeds (``nn.overlap``).
        shrink_orthogonal: the same where H is learned in orthogonal functions: steep weights leave S eigenvalues of
            0.07 S0 (``wqvo``, 319 molecules of QM9) and less, which hurt nothing there.
        prior_temperature: K, of the prior's electrons, as GFN2-xTB's own; it keeps degenerate levels of an open shell
            equally filled, hence the density matrix invariant.
        prior_widths: Bohr, of the Gaussians whose charges make the potentials of the prior.
        prior_ranges: Bohr, how fast neighbours' charges fade in its features.
        prior_softening: added to squares of lengths of its tensors, so that their roots are smooth at 0.
        prior_narrowest: smallest width by which one of its scalars is divided.
        prior_limit: standard deviations beyond which its scalars saturate.
    """

    limit_atoms: tuple[float, float] = (4.0, 8.0)
    limit_pairs: tuple[float, float] = (16.0, 32.0)
    cutoff_power: int = 6
    filter_channels: int = 16
    product_l_max: int = 2
    neighbours: float = 10.0
    triangle_l_max: int = 2
    charge_widths: tuple[float, float] = (0.8, 3.0)
    response_potential: float = 20.0
    response_field: float = 40.0
    charge_per_electrons: float = 8.0
    charge_least_share: float = 1e-3
    two_centre_shortest: float = 0.7
    two_centre_width: float = 1.3
    two_centre_decay: float = 1.0
    two_centre_ridge: float = 1e-4
    scale_floor: float = 1e-5
    overlap_scale_floor: float = 1e-6
    scale_bins: int = 24
    scale_bin_width: float = 0.5
    scale_steepest: float = 3.0
    scale_spread: float = 0.1
    overlap_step: float = 0.02
    shrink: tuple[float, float] = (0.9, 0.995)
    shrink_orthogonal: tuple[float, float] = (0.98, 0.999)
    prior_temperature: float = 300.0
    prior_widths: tuple[float, ...] = (0.8, 1.5, 3.0)
    prior_ranges: tuple[float, ...] = (1.0, 2.0)
    prior_softening: float = 1e-6
    prior_narrowest: float = 1e-3
    prior_limit: float = 8.0

    @classmethod
    def of(cls, given: Mapping[str, Any] | None = None) -> Constants:
        """Those given, and today's for the others.

        Args:
            given: as a checkpoint holds them.

        Raises:
            ValueError: an unknown name.
        """
        given = given or {}
        if unknown := sorted(given.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"no constant of networks is called {', '.join(unknown)}")
        return cls(**asdict(today()) | {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint holds them: tuples as lists."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}


_TODAY = Constants()


def today() -> Constants:
    """Those of a network built now."""
    return _TODAY
