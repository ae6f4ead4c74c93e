"""The generalised symmetric eigenproblem H C = S C diag(e), batched over padded molecules, differentiable.

Backward. With Q = C^T dL/dC, g = dL/de, h = C^T dH C and s = C^T dS C, differentiating H C = S C diag(e)
and C^T S C = 1 gives

    de_i = h_ii - e_i s_ii,      dC = C X,      X_ij = F_ij (h_ij - (e_i + e_j) s_ij / 2) - s_ij / 2,

with F_ij = 1 / (e_j - e_i) for i != j and F_ii = 0. Native ``eigh`` uses this F: NaN for equal levels and
arbitrarily wrong numbers for nearly equal ones. Here F_ij = d / (d^2 + 1e-12 Eh^2), d = e_j - e_i: zero for equal
levels, off by one part in 1e-12/d^2 for others. That is right for every loss which does not change when degenerate
orbitals are mixed, as long as it weighs the members of a degenerate set equally to first order; where the weight
varies with the energy (smeared occupations, projected densities of states) ``physics.spectral`` has exact divided
differences. The normalisation term -s_ij / 2 stands apart from F, so it survives for degenerate pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.errors import UserError

#: Eh^2, broadening of 1 / (e_j - e_i).
BROADENING = 1e-12


def pad(matrix: Tensor, orbital_mask: Tensor, diagonal: float) -> Tensor:
    """Replace whatever stands in padding by 0, and by ``diagonal`` on the diagonal; float64.

    Args:
        matrix: [B, M, M].
        orbital_mask: [B, M] bool.

    Returns:
        [B, M, M] float64. No gradient reaches the padding of ``matrix``, NaN there included.
    """
    real = orbital_mask.unsqueeze(-1) & orbital_mask.unsqueeze(-2)
    out = torch.where(real, matrix.to(torch.float64), 0.0)
    return out + torch.diag_embed(torch.where(orbital_mask, 0.0, float(diagonal)).to(torch.float64))


def _standard_form(hamiltonian: Tensor, overlap: Tensor, orbital_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L^-1 H L^-T with staggered padding, L of S = L L^T, and which molecules are sound [B] bool."""
    lower, info = torch.linalg.cholesky_ex(overlap)
    eye = torch.eye(overlap.shape[-1], dtype=torch.float64, device=overlap.device)
    sound = (info == 0) & hamiltonian.isfinite().flatten(1).all(1) & lower.isfinite().flatten(1).all(1)
    # an unsound molecule must not stop the batch: it is solved as zero and comes back as NaN
    lower = torch.where(sound[:, None, None], lower, eye)
    hamiltonian = torch.where(sound[:, None, None], hamiltonian, 0.0)
    half = torch.linalg.solve_triangular(lower, hamiltonian, upper=False)
    standard = torch.linalg.solve_triangular(lower, half.mT, upper=False)
    standard = (standard + standard.mT) / 2
    return _staggered(standard, orbital_mask), lower, sound


def _staggered(standard: Tensor, orbital_mask: Tensor) -> Tensor:
    """A standard problem with padding above every real level."""
    # Gershgorin: no real level lies above the largest row sum; padding stands above it, each level a step higher
    bound = 1.0 + standard.abs().sum(-1).amax(-1, keepdim=True)
    steps = torch.arange(1, standard.shape[-1] + 1, dtype=torch.float64, device=standard.device)
    return standard + torch.diag_embed(torch.where(orbital_mask, 0.0, bound * (1.0 + steps / standard.shape[-1])))


def _separated(energies: Tensor, coefficients: Tensor, orbital_mask: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Orbitals whose real and padded parts do not mix; NaN of unsound molecules."""
    # the two blocks do not couple; make that exact
    level_is_real = torch.arange(energies.shape[-1], device=energies.device) < orbital_mask.sum(-1, keepdim=True)
    coefficients = torch.where(orbital_mask.unsqueeze(-1) == level_is_real.unsqueeze(-2), coefficients, 0.0)
    energies = torch.where(sound[:, None], energies, torch.nan)
    return energies, torch.where(sound[:, None, None], coefficients, torch.nan)


class _GeneralisedEigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hamiltonian, overlap, orbital_mask):
        standard, lower, sound = _standard_form(hamiltonian, overlap, orbital_mask)
        energies, vectors = torch.linalg.eigh(standard)
        coefficients = torch.linalg.solve_triangular(lower.mT, vectors, upper=True)
        energies, coefficients = _separated(energies, coefficients, orbital_mask, sound)
        ctx.save_for_backward(energies, coefficients)
        return energies, coefficients

    @staticmethod
    def backward(ctx, grad_energies, grad_coefficients):
        e, c = ctx.saved_tensors
        d = e.unsqueeze(-2) - e.unsqueeze(-1)
        q = c.mT @ grad_coefficients
        inner = q * d / (d * d + BROADENING)
        mean = (e.unsqueeze(-2) + e.unsqueeze(-1)) / 2
        grad_h = c @ (inner + torch.diag_embed(grad_energies)) @ c.mT
        grad_s = -c @ (inner * mean + q / 2 + torch.diag_embed(grad_energies * e)) @ c.mT
        return (grad_h + grad_h.mT) / 2, (grad_s + grad_s.mT) / 2, None


def solve(hamiltonian: Tensor, overlap: Tensor, orbital_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Orbital energies and coefficients of padded molecules, always in float64, on the inputs' device.

    H and S must be symmetric (the gradient is that of symmetric matrices). Padding is replaced: 1 on S's diagonal,
    on H's staggered values above every real level, so padded levels come last and never mix with real ones; no
    gradient reaches it. Nothing here waits for the device, except ``torch.linalg.eigh``'s own check.

    Args:
        hamiltonian: [B, M, M], Eh, any float dtype.
        overlap: [B, M, M].
        orbital_mask: [B, M] bool.

    Returns:
        energies [B, M] float64 (Eh, ascending; padding last, not meaningful) and coefficients [B, M, M] float64
        (columns are orbitals, C^T S C = 1). A molecule whose S is not positive definite, or whose H or S is not
        finite, comes back as NaN and leaves the rest of the batch alone; ``solve_checked`` names it instead.
    """
    return _GeneralisedEigh.apply(pad(hamiltonian, orbital_mask, 0.0), pad(overlap, orbital_mask, 1.0), orbital_mask)


def energies_only(hamiltonian: Tensor, overlap: Tensor, orbital_mask: Tensor) -> Tensor:
    """Orbital energies [B, M] as ``solve`` gives them; cheaper where no gradient is asked for."""
    if torch.is_grad_enabled() and (hamiltonian.requires_grad or overlap.requires_grad):
        return solve(hamiltonian, overlap, orbital_mask)[0]
    standard, _, sound = _standard_form(
        pad(hamiltonian, orbital_mask, 0.0), pad(overlap, orbital_mask, 1.0), orbital_mask
    )
    return torch.where(sound[:, None], torch.linalg.eigvalsh(standard), torch.nan)


def orbitals(matrices: Mapping[str, Tensor], orbital_mask: Tensor) -> tuple[Tensor, Tensor]:
    """``solve`` of what a model says of a batch; for prediction, without gradients through S^(-1/2).

    A model that learns H in orthogonal functions has S^(-1/2) at hand: then the eigenproblem is an ordinary one.

    Args:
        matrices: ``hamiltonian`` and ``overlap`` [B, M, M]; from such a model also ``orthogonal_hamiltonian`` and
            ``overlap_inverse_root`` (``schnorb_t.keys``).
        orbital_mask: [B, M] bool.
    """
    if keys.ORTHOGONAL_HAMILTONIAN not in matrices:
        return solve(matrices[keys.HAMILTONIAN], matrices[keys.OVERLAP], orbital_mask)
    with torch.no_grad():
        standard = pad(matrices[keys.ORTHOGONAL_HAMILTONIAN], orbital_mask, 0.0)
        root = matrices[keys.OVERLAP_INVERSE_ROOT].double()
        sound = standard.isfinite().flatten(1).all(1) & root.isfinite().flatten(1).all(1)
        standard = torch.where(sound[:, None, None], standard, 0.0)
        energies, vectors = torch.linalg.eigh(_staggered(standard, orbital_mask))
        coefficients = (root + torch.diag_embed((~orbital_mask).double())) @ vectors
        return _separated(energies, coefficients, orbital_mask, sound)


def solve_checked(
    hamiltonian: Tensor, overlap: Tensor, orbital_mask: Tensor, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """``solve`` for a command's door: waits for the device and raises where a molecule has no solution.

    Args:
        names: [B] what to call each molecule in the message; its place in the batch if left out.

    Raises:
        UserError: a matrix is not finite or an overlap is not positive definite; names the molecules.
    """
    return orbitals_checked({keys.HAMILTONIAN: hamiltonian, keys.OVERLAP: overlap}, orbital_mask, names)


def orbitals_checked(
    matrices: Mapping[str, Tensor], orbital_mask: Tensor, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """``orbitals``, with the errors of ``solve_checked``."""
    hamiltonian, overlap = matrices[keys.HAMILTONIAN], matrices[keys.OVERLAP]
    energies, coefficients = orbitals(matrices, orbital_mask)
    bad = energies[:, :1].isnan().any(1).nonzero().flatten().tolist()
    if bad:
        problems = []
        for b in bad:
            m = orbital_mask[b]
            h, s = hamiltonian[b][m][:, m].double(), overlap[b][m][:, m].double()
            name = names[b] if names is not None else f"molecule {b} of the batch"
            if not (h.isfinite().all() and s.isfinite().all()):
                problems.append(f"{name}: Hamiltonian or overlap holds NaN or infinity")
            else:
                lowest = torch.linalg.eigvalsh(s)[0].item()
                problems.append(
                    f"{name}: overlap is not positive definite (lowest eigenvalue {lowest:.2e}); "
                    "check for coinciding atoms, or a basis or model that does not guarantee a positive definite S"
                )
        raise UserError("; ".join(problems))
    return energies, coefficients


def frontier(energies: Tensor, n_occupied: Tensor, orbital_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """HOMO, LUMO and gap of closed shells.

    Args:
        energies: [B, M], ascending, padding last.
        n_occupied: [B] int64, doubly occupied orbitals.
        orbital_mask: [B, M] bool; with it a molecule without a virtual level gets NaN rather than a padded one.

    Returns:
        homo, lumo, gap, each [B], unit of ``energies``; NaN where there is no such level.
    """
    n_levels = torch.full_like(n_occupied, energies.shape[-1]) if orbital_mask is None else orbital_mask.sum(-1)

    def level(index: Tensor) -> Tensor:
        exists = (index >= 0) & (index < n_levels)
        value = energies.gather(-1, index.clamp(0, energies.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        return torch.where(exists, value, torch.nan)

    homo, lumo = level(n_occupied - 1), level(n_occupied)
    return homo, lumo, lumo - homo


def occupations(energies: Tensor, n_occupied: Tensor) -> Tensor:
    """2 for the lowest ``n_occupied`` levels, 0 above, [B, M] in the dtype of ``energies``.

    Closed shells with a gap; ``physics.occupations`` fills degenerate frontier levels evenly and smears.
    """
    index = torch.arange(energies.shape[-1], device=energies.device)
    return 2.0 * (index < n_occupied.unsqueeze(-1)).to(energies.dtype)
