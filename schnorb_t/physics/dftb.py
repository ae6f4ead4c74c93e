"""DFTB2 and DFTB3 of whole batches: energy, forces, charges from Slater-Koster tables.

    E = Tr(P H0) + second order (gamma) + third order (Gamma) - width * entropy + repulsion

(Elstner et al., Phys. Rev. B 58, 7260 (1998); Gaus, Cui, Elstner, J. Chem. Theory Comput. 7, 931 (2011)). E is
stationary in the density, so that forces need no response of the charges:

    dE = Tr(P dH0) + Tr((P o V - W) dS) + sum q_k q_l dgamma_kl / 2 + sum q_A(k) q_k q_l dGamma_kl / 3 + dE_rep,

V_mn = (v_m + v_n) / 2 and W the energy-weighted density. That holds with smearing (E is then Mermin's free energy) and
with degenerate levels alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from torch import Tensor, nn

from schnorb_t import keys, units
from schnorb_t.errors import UserError
from schnorb_t.physics.coulomb import Coulomb, Sites, atoms_as_sites, coulomb, shells_as_sites
from schnorb_t.physics.dipole import sum_over_molecules
from schnorb_t.physics.energies import RepulsiveEnergy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.orbitals import atom_and_slot
from schnorb_t.physics.repulsion import Repulsion
from schnorb_t.physics.scc import SelfConsistentCharges, self_consistent_charges
from schnorb_t.physics.set_parameters import read_set_parameters
from schnorb_t.physics.skf import SlaterKosterSet
from schnorb_t.physics.slater_koster import SlaterKoster
from schnorb_t.physics.state import energy_weighted_density_matrix


@dataclass(frozen=True)
class DFTBResult:
    """What ``DFTB`` gives; float64.

    Attributes:
        energy: [B], Eh, total: Mermin's free energy where levels are smeared. Its parts are in ``parts``.
        charges: [N], e, Mulliken, of atoms.
        site_charges: [Q], e, of ``sites``: shells where charges are shell-resolved, otherwise the same as ``charges``.
        sites: where ``site_charges`` sit.
        parts: [B] each, Eh: ``band``, ``coulomb``, ``third_order``, ``mermin``, ``repulsion``; their sum is ``energy``.
        scc: orbitals, density and the rest of the self-consistent solution.
        converged: [B] bool.
    """

    energy: Tensor
    charges: Tensor
    site_charges: Tensor
    sites: Sites
    parts: dict[str, Tensor]
    scc: SelfConsistentCharges
    converged: Tensor


@dataclass(frozen=True)
class _Inputs:
    """What the electrons see, a function of positions and parameters."""

    h0: Tensor
    s: Tensor
    coulomb: Coulomb
    repulsion: Tensor

    def tensors(self) -> list[Tensor]:
        third = [] if self.coulomb.third is None else [self.coulomb.third]
        return [self.h0, self.s, self.coulomb.second, *third, self.repulsion]

    def detached(self) -> _Inputs:
        c = self.coulomb
        third = None if c.third is None else c.third.detach()
        return _Inputs(
            self.h0.detach(), self.s.detach(), Coulomb(c.second.detach(), third, c.same_atom), self.repulsion.detach()
        )


class DFTB(nn.Module):
    """Batch -> ``DFTBResult``. Everything is differentiable, in positions and in the parameters below.

    Args:
        tables: the set, ``skf.read_skf_set``.
        order: 2 or 3.
        shell_resolved: charges and U per shell instead of per atom (with the s shell's U), as gold's set wants.
        hubbard_derivatives: symbol or Z -> U^d, Eh / e, third order; from the set's README where left out.
        damping_exponent: zeta of the damping of pairs with hydrogen; 0 for none. Where left out: third order takes the
            README's (4.0 if it has none), second order none.
        smearing: how levels are filled.
        repulsion: batch -> [B], Eh; the set's own if left out.
        spacing: see ``SlaterKoster``.
        tolerance, max_iterations, mixing: see ``self_consistent_charges``.

    Attributes:
        basis: batches must be built with it.
        hubbard: parameter [119] or, shell-resolved, [119, shells], Eh.
        hubbard_derivatives: parameter [119], Eh / e; ``None`` in second order.
        valence_charges: [119, shells], electrons of neutral atoms' shells.
        spin_constants: Z -> W [l, l'], Eh, where the set's README has them. No energy here needs them.

    Raises:
        UserError: no Hubbard derivative for an element.
        ValueError: another order than 2 or 3.
    """

    valence_charges: Tensor

    def __init__(
        self,
        tables: SlaterKosterSet,
        order: int = 2,
        shell_resolved: bool = False,
        hubbard_derivatives: Mapping[str | int, float] | None = None,
        damping_exponent: float | None = None,
        smearing: Smearing = ZERO_TEMPERATURE,
        repulsion: RepulsiveEnergy | None = None,
        spacing: float | None = None,
        tolerance: float = 1e-10,
        max_iterations: int = 200,
        mixing: float = 0.3,
    ):
        super().__init__()
        if order not in (2, 3):
            raise ValueError(f"order {order!r}: DFTB is there in second and third order, 2 or 3")
        self.basis, self.order, self.shell_resolved = tables.basis, order, shell_resolved
        self.slater_koster = SlaterKoster(tables, spacing)
        self.repulsion = Repulsion(tables) if repulsion is None else repulsion
        self.smearing, self.tolerance, self.max_iterations, self.mixing = smearing, tolerance, max_iterations, mixing
        folder = next(iter(tables.files.values())).path.parent
        published = read_set_parameters(folder)
        self.spin_constants = published.spin_constants
        if damping_exponent is None:
            damping_exponent = (published.damping_exponent or 4.0) if order == 3 else 0.0
        self.damping_exponent = damping_exponent
        if shell_resolved:
            u = torch.stack([torch.tensor(tables.shell_table(1, s)) for s in range(len(self.basis.layout))], -1)
        else:
            u = torch.tensor(tables.hubbard)
        self.hubbard = nn.Parameter(u)
        self.hubbard_derivatives = None
        if order == 3:
            given = published.hubbard_derivatives if hubbard_derivatives is None else hubbard_derivatives
            self.hubbard_derivatives = nn.Parameter(_derivative_table(given, self.basis.elements, folder.name))
        valence = [torch.tensor(tables.shell_table(2, s)) for s in range(len(self.basis.layout))]
        self.register_buffer("valence_charges", torch.stack(valence, -1), persistent=False)

    # --- doors --------------------------------------------------------------------------------------------------------

    def forward(
        self,
        batch: dict[str, Tensor],
        charge: Tensor | None = None,
        names: Sequence[str] | None = None,
        check: bool = True,
    ) -> DFTBResult:
        """Energy and charges; gradients by the implicit function theorem (``energy_and_forces`` is cheaper for forces).

        Args:
            batch: ``keys.ATOMIC_NUMBERS``, ``POSITIONS`` (Å), ``MOLECULE``, ``ORBITAL_INDEX``, ``ORBITAL_MASK``, built
                with ``self.basis``.
            charge: [B], e, of the molecules; neutral if left out.
            names: [B], what messages call the molecules; their place in the batch if left out.
            check: raise where charges have not converged; otherwise ``converged`` says it.

        Raises:
            UserError: no convergence, or no solution (singular overlap).
        """
        sites, hubbard, derivatives = self._sites(batch)
        inputs = self._inputs(batch, batch[keys.POSITIONS], sites, hubbard, derivatives)
        return self._solve(batch, inputs, sites, charge, names, check)

    def energy_and_forces(
        self,
        batch: dict[str, Tensor],
        charge: Tensor | None = None,
        names: Sequence[str] | None = None,
        check: bool = True,
        create_graph: bool = False,
    ) -> tuple[DFTBResult, Tensor]:
        """``forward`` and forces [N, 3], Eh/Bohr, by the formula above.

        Args:
            create_graph: result and forces can be differentiated further, for training on them. Otherwise they carry no
                gradient, which is cheaper.
        """
        with torch.enable_grad():
            positions = batch[keys.POSITIONS].to(torch.float64)
            if not (create_graph and positions.requires_grad):
                positions = positions.detach().requires_grad_()
            sites, hubbard, derivatives = self._sites(batch)
            inputs = self._inputs(batch, positions, sites, hubbard, derivatives)
        with torch.set_grad_enabled(create_graph):
            result = self._solve(batch, inputs if create_graph else inputs.detached(), sites, charge, names, check)
            scc = result.scc
            density = scc.density
            v = _of_orbitals(scc.potential, sites)
            shift = (v.unsqueeze(-1) + v.unsqueeze(-2)) / 2
            q = scc.excess
            weights = [
                density,
                density * shift - energy_weighted_density_matrix(scc.state),
                q.unsqueeze(-1) * q.unsqueeze(-2) / 2,
            ]
            if self.order == 3:
                whole = (inputs.coulomb.same_atom @ q.unsqueeze(-1)).squeeze(-1)
                weights.append((whole * q).unsqueeze(-1) * q.unsqueeze(-2) / 3)
            weights.append(torch.ones_like(result.energy))
        with torch.enable_grad():
            pairs = [(t, w) for t, w in zip(inputs.tensors(), weights, strict=True) if t.requires_grad]
            if not pairs:
                return result, torch.zeros_like(positions)
            (gradient,) = torch.autograd.grad(
                [t for t, _ in pairs], positions, [w for _, w in pairs], create_graph=create_graph, allow_unused=True
            )
        gradient = torch.zeros_like(positions) if gradient is None else gradient
        return result, -gradient * units.BOHR

    # --- inside -------------------------------------------------------------------------------------------------------

    def _sites(self, batch: dict[str, Tensor]) -> tuple[Sites, Tensor, Tensor | None]:
        """Sites, their U [Q] and U^d [Q]."""
        z, molecule = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE]
        atom, slot = atom_and_slot(batch[keys.ORBITAL_INDEX], molecule, batch[keys.ORBITAL_MASK])
        if self.shell_resolved:
            sites = shells_as_sites(z, molecule, atom, slot, self.basis)
            hubbard = self.hubbard[z[sites.atom], sites.shell]
        else:
            sites = atoms_as_sites(molecule, atom)
            hubbard = self.hubbard[z]
        derivatives = None if self.hubbard_derivatives is None else self.hubbard_derivatives[z[sites.atom]]
        return sites, hubbard, derivatives

    def _inputs(self, batch, positions: Tensor, sites: Sites, hubbard: Tensor, derivatives: Tensor | None) -> _Inputs:
        batch = {**batch, keys.POSITIONS: positions}
        h0, s = self.slater_koster(batch)
        hydrogen = batch[keys.ATOMIC_NUMBERS] == 1 if self.damping_exponent else None
        bohr = units.angstrom_to_bohr(positions.to(torch.float64))
        pairs = coulomb(bohr, hubbard, sites, len(h0), derivatives, hydrogen, self.damping_exponent)
        return _Inputs(h0, s, pairs, self.repulsion(batch).to(torch.float64))

    def _solve(self, batch, inputs: _Inputs, sites: Sites, charge, names, check: bool) -> DFTBResult:
        z, molecule = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE]
        b = len(inputs.h0)
        if self.shell_resolved:
            valence = self.valence_charges[z[sites.atom], sites.shell]
        else:
            valence = self.valence_charges[z].sum(-1)
        n_electrons = sum_over_molecules(valence, sites.molecule, b)
        if charge is not None:
            n_electrons = n_electrons - charge.to(n_electrons)
        scc = self_consistent_charges(
            inputs.h0,
            inputs.s,
            batch[keys.ORBITAL_MASK],
            sites.of_orbital,
            sites.molecule,
            inputs.coulomb.second,
            valence,
            n_electrons,
            self.smearing,
            self.tolerance,
            self.max_iterations,
            self.mixing,
            inputs.coulomb.third,
            inputs.coulomb.same_atom,
        )
        if check:
            self._check(scc, names)
        charges = scc.charges.new_zeros(len(molecule)).index_add(0, sites.atom, scc.charges)
        parts = {**scc.parts, "repulsion": inputs.repulsion}
        return DFTBResult(scc.energy + inputs.repulsion, charges, scc.charges, sites, parts, scc, scc.converged)

    def _check(self, scc: SelfConsistentCharges, names: Sequence[str] | None) -> None:
        bad = (~scc.converged).nonzero().flatten().tolist()
        if not bad:
            return
        lines = []
        for b in bad:
            name = names[b] if names is not None else f"molecule {b} of the batch"
            if scc.energy[b].isfinite():
                lines.append(f"{name}: charges have not converged in {self.max_iterations} iterations")
            else:
                lines.append(f"{name}: no solution, overlap singular or not finite (are atoms too close?)")
        advice = "smear the levels, mix less (mixing), or allow more iterations (max_iterations)"
        raise UserError(f"{'; '.join(lines)}; {advice}")


def _of_orbitals(values: Tensor, sites: Sites) -> Tensor:
    """Values of padded sites [B, Q] on their orbitals [B, M], 0 in padding."""
    first = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    counts = first.index_add(0, sites.molecule, torch.ones_like(sites.molecule))
    local = sites.of_orbital - (counts.cumsum(0) - counts).unsqueeze(-1)
    real = sites.of_orbital >= 0
    return torch.where(real, values.gather(-1, torch.where(real, local, 0)), 0.0)


def _derivative_table(
    given: Mapping[int, float] | Mapping[str | int, float], elements: Sequence[int], name: str
) -> Tensor:
    table = torch.zeros(119, dtype=torch.float64)
    known = {number_of[k] if isinstance(k, str) else int(k): v for k, v in given.items()}
    missing = [chemical_symbols[z] for z in elements if z not in known]
    if missing:
        raise UserError(
            f"{name}: no Hubbard derivative of {', '.join(missing)}, which third order needs; "
            f"give hubbard_derivatives={{{missing[0]!r}: ...}}, or take order=2"
        )
    for z in elements:
        table[z] = known[z]
    return table
