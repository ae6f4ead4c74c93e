"""Second-order self-consistent-charge DFTB on top of given H0, S and Hubbard U (Elstner et al., PRB 58, 7260 (1998)).

With dn_A the excess electrons (Mulliken) of atom A and v_A = sum_B gamma_AB dn_B,

    H_mn = H0_mn + S_mn (v_A(m) + v_A(n)) / 2,      E = Tr(P H0) + sum_AB gamma_AB dn_A dn_B / 2 (- width * entropy).

Gradients go through the fixed point n = f(n, theta) by the implicit function theorem, not through the iterations:
dL/dtheta = lambda^T df/dtheta with lambda = (1 - df/dn)^-T dL/dn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t.physics.anderson import AndersonMixer
from schnorb_t.physics.charges import orbital_populations
from schnorb_t.physics.energies import entropy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.orbitals import first_atoms, membership
from schnorb_t.physics.state import ElectronicState, density_matrix, electronic_state


def pad_atoms(values: Tensor, molecule: Tensor, n_molecules: int, n_atoms: int, fill: float = 0.0) -> Tensor:
    """Per-atom values [N, ...] -> [B, A, ...]."""
    first, _ = first_atoms(molecule, n_molecules)
    local = torch.arange(len(molecule), device=molecule.device) - first[molecule]
    out = values.new_full((n_molecules, n_atoms, *values.shape[1:]), fill)
    return out.index_put((molecule, local), values)


def gamma(distance: Tensor, hubbard_a: Tensor, hubbard_b: Tensor) -> Tensor:
    """Coulomb interaction of two exponential charge clouds, Eh: 1/R - S(R, U_a, U_b), tau = 16 U / 5.

    The general form has poles at tau_a = tau_b that cancel; within 1 % of each other an expansion in
    (tau_a - tau_b) / 2 to fourth order stands for it (both right to 1e-10).

    Args:
        distance: [...], Bohr, not 0.
        hubbard_a, hubbard_b: [...], Eh.
    """
    a, b = 3.2 * hubbard_a, 3.2 * hubbard_b
    mean, delta = (a + b) / 2, (a - b) / 2
    close = delta.abs() < 0.01 * mean
    x = mean * distance
    t0 = (48 + x * (33 + x * (9 + x))) / (48 * distance)
    t2 = (180 + x * (180 + x * (75 + x * (15 + x)))) / (480 * mean)
    t4 = (-840 + x * (-840 + x**2 * (280 + x * (133 + x * (21 + x))))) / (13440 * mean**3)
    series = torch.exp(-x) * (t0 + delta**2 * (t2 + delta**2 * t4))
    b_apart = torch.where(close, 0.5 * a, b)  # keeps the unused branch and its gradient finite
    general = _half_overlap(distance, a, b_apart) + _half_overlap(distance, b_apart, a)
    return 1 / distance - torch.where(close, series, general)


def _half_overlap(r: Tensor, a: Tensor, b: Tensor) -> Tensor:
    d = a**2 - b**2
    return torch.exp(-a * r) * (b**4 * a / (2 * d**2) - (b**6 - 3 * b**4 * a**2) / (d**3 * r))


def gamma_matrix(positions: Tensor, hubbard: Tensor, molecule: Tensor, n_molecules: int, n_atoms: int) -> Tensor:
    """gamma_AB with U_A on the diagonal, [B, A, A], Eh, 0 in padding.

    Args:
        positions: [N, 3], Bohr.
        hubbard: [N], Eh.
        molecule: [N] int64.
        n_atoms: A, atoms of the largest molecule.
    """
    r = pad_atoms(positions.to(torch.float64), molecule, n_molecules, n_atoms)
    u = pad_atoms(hubbard.to(torch.float64), molecule, n_molecules, n_atoms, fill=1.0)
    real = pad_atoms(torch.ones_like(molecule, dtype=torch.bool), molecule, n_molecules, n_atoms)
    both = real.unsqueeze(-1) & real.unsqueeze(-2)
    own = torch.eye(n_atoms, dtype=torch.bool, device=r.device)
    d = r.unsqueeze(2) - r.unsqueeze(1)
    d2 = torch.where(both & ~own, (d * d).sum(-1), 1.0)
    pairs = gamma(d2.sqrt(), u.unsqueeze(-1).expand_as(d2), u.unsqueeze(-2).expand_as(d2))
    return torch.where(both & ~own, pairs, 0.0) + torch.diag_embed(torch.where(real, u, 0.0))


@dataclass(frozen=True)
class SelfConsistentCharges:
    """What ``self_consistent_charges`` gives.

    Attributes:
        state: orbitals of the converged Hamiltonian.
        charges: [N], e, Mulliken.
        energy: [B], Eh, Tr(P H0) + second order - width * entropy, without repulsion.
        converged: [B] bool.
        iterations: [B] int64, Hamiltonians solved.
    """

    state: ElectronicState
    charges: Tensor
    energy: Tensor
    converged: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class _Problem:
    """n -> f(n) of padded molecules; rows can be taken out."""

    h0: Tensor
    s: Tensor
    mask: Tensor
    member: Tensor  # [B, M, A]
    gamma: Tensor
    neutral: Tensor  # [B, A] electrons of the neutral atoms
    n_electrons: Tensor
    smearing: Smearing

    def rows(self, rows: Tensor) -> _Problem:
        tensors = (self.h0, self.s, self.mask, self.member, self.gamma, self.neutral, self.n_electrons)
        h0, s, mask, member, gamma, neutral, n_electrons = (t[rows] for t in tensors)
        return _Problem(h0, s, mask, member, gamma, neutral, n_electrons, self.smearing)

    def state(self, electrons: Tensor) -> ElectronicState:
        potential = torch.einsum("bma,bac,bc->bm", self.member, self.gamma, electrons - self.neutral)
        shift = (potential.unsqueeze(-1) + potential.unsqueeze(-2)) / 2
        return electronic_state(self.h0 + self.s * shift, self.s, self.mask, self.n_electrons, self.smearing)

    def electrons(self, state: ElectronicState) -> tuple[Tensor, Tensor]:
        density = density_matrix(state)
        populations = orbital_populations(density, self.s)
        return torch.einsum("bma,bm->ba", self.member, populations), density


def self_consistent_charges(
    hamiltonian: Tensor,
    overlap: Tensor,
    orbital_mask: Tensor,
    atom_of_orbital: Tensor,
    molecule: Tensor,
    gammas: Tensor,
    valence_charges: Tensor,
    n_electrons: Tensor | None = None,
    smearing: Smearing = ZERO_TEMPERATURE,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
    mixing: float = 0.3,
) -> SelfConsistentCharges:
    """Solve for self-consistent charges of all molecules at once; a converged molecule is computed no further.

    Args:
        hamiltonian, overlap: [B, M, M], H0 (Eh) and S.
        orbital_mask: [B, M] bool.
        atom_of_orbital: [B, M] int64, -1 in padding.
        molecule: [N] int64.
        gammas: [B, A, A], Eh, from ``gamma_matrix``.
        valence_charges: [N], electrons of each neutral atom.
        n_electrons: [B]; neutral molecules if left out.
        tolerance: largest change of an atom's electrons that counts as converged.
        mixing: see ``AndersonMixer``.

    Returns:
        differentiable in H0, S and gamma (first derivatives). Where ``converged`` is False the gradient is meaningless.
    """
    b, a = gammas.shape[:2]
    real = torch.where(orbital_mask.unsqueeze(-1) & orbital_mask.unsqueeze(-2), 1.0, 0.0).to(torch.float64)
    neutral = pad_atoms(valence_charges.to(torch.float64), molecule, b, a)
    problem = _Problem(
        torch.where(real > 0, hamiltonian.to(torch.float64), 0.0),
        torch.where(real > 0, overlap.to(torch.float64), 0.0),
        orbital_mask,
        membership(atom_of_orbital, molecule, a),
        gammas.to(torch.float64),
        neutral,
        neutral.sum(-1) if n_electrons is None else n_electrons,
        smearing,
    )
    with torch.no_grad():
        electrons, converged, iterations = _iterate(problem, tolerance, max_iterations, mixing)
    inner = torch.is_grad_enabled() and any(t.requires_grad for t in (problem.h0, problem.s, problem.gamma))
    if inner:
        electrons = _attach_gradient(problem, electrons, tolerance, max_iterations)
    state = problem.state(electrons)
    populations, density = problem.electrons(state)
    excess = populations - neutral
    second = torch.einsum("ba,bac,bc->b", excess, problem.gamma, excess) / 2
    energy = (density * problem.h0).sum((-1, -2)) + second - smearing.width * entropy(state)
    first, _ = first_atoms(molecule, b)
    local = torch.arange(len(molecule), device=molecule.device) - first[molecule]
    return SelfConsistentCharges(state, -excess[molecule, local], energy, converged, iterations)


def _iterate(problem: _Problem, tolerance: float, max_iterations: int, mixing: float):
    result = problem.neutral.clone()
    # charged molecules start with the excess spread evenly over their atoms
    there = problem.member.amax(1)
    missing = problem.n_electrons - result.sum(-1)
    result = result + there * (missing / there.sum(-1).clamp_min(1)).unsqueeze(-1)
    b = len(result)
    iterations = torch.full((b,), max_iterations, device=result.device)
    converged = torch.zeros(b, dtype=torch.bool, device=result.device)
    rows = torch.arange(b, device=result.device)
    mixer, active, n = AndersonMixer(mixing), problem, result.clone()
    for k in range(1, max_iterations + 1):
        new, _ = active.electrons(active.state(n))
        residual = new - n
        done = residual.abs().amax(-1) < tolerance
        if done.any():
            finished = rows[done]
            result[finished], converged[finished], iterations[finished] = new[done], True, k
            keep = ~done
            rows, active, n, residual = rows[keep], active.rows(keep), n[keep], residual[keep]
            mixer.keep(keep)
        if len(rows) == 0:
            break
        n = mixer.step(n, residual)
    result[rows] = n
    return result, converged, iterations


def _attach_gradient(problem: _Problem, electrons: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """The fixed point as a function of H0, S and gamma."""
    start = electrons.detach().requires_grad_()
    mapped, _ = problem.electrons(problem.state(start))
    result = mapped.clone()  # the hook sits here, so that products with df/dn below do not call it

    def adjoint(gradient: Tensor) -> Tensor:
        """lambda = gradient + (df/dn)^T lambda."""
        mixer, value = AndersonMixer(1.0, depth=gradient.shape[-1] + 1), gradient
        bound = max(tolerance, 1e-12) * gradient.abs().amax(-1).clamp_min(1e-30)
        for _ in range(max_iterations):
            (product,) = torch.autograd.grad(mapped, start, value, retain_graph=True)
            residual = gradient + product - value
            if (residual.abs().amax(-1) <= bound).all():
                break
            value = mixer.step(value, residual)
        return value

    result.register_hook(adjoint)
    return result
