"""Self-consistent charges of DFTB2 and DFTB3 on top of given H0, S and interactions of charge fluctuations.

With q_k the excess electrons (Mulliken) of site k, an atom A or one of its shells, and q_A those of its whole atom,

    E = Tr(P H0) + sum_kl gamma_kl q_k q_l / 2 + sum_kl q_A(k) q_k q_l Gamma_kl / 3  (- width * entropy),
    H_mn = H0_mn + S_mn (v_k(m) + v_l(n)) / 2,       v_k = dE / dq_k:
    v_k = sum_l gamma_kl q_l
          + (q_A(k) w_k + sum_{l on A(k)} q_l w_l + sum_l q_A(l) q_l Gamma_lk) / 3,    w_k = sum_l Gamma_kl q_l.

Second order: Elstner et al., Phys. Rev. B 58, 7260 (1998). Third: Gaus, Cui, Elstner, J. Chem. Theory Comput. 7, 931
(2011), where sites are atoms; for shells U changes with the charge of the whole atom. gamma and Gamma are made by
``physics.coulomb``.

Gradients go through the fixed point n = f(n, theta) by the implicit function theorem, not through the iterations:
dL/dtheta = lambda^T df/dtheta with lambda = (1 - df/dn)^-T dL/dn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t.physics.anderson import AndersonMixer
from schnorb_t.physics.charges import orbital_populations
from schnorb_t.physics.coulomb import pad_atoms
from schnorb_t.physics.energies import entropy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.orbitals import first_atoms, membership
from schnorb_t.physics.state import ElectronicState, density_matrix, electronic_state


@dataclass(frozen=True)
class SelfConsistentCharges:
    """What ``self_consistent_charges`` gives.

    Attributes:
        state: orbitals of the converged Hamiltonian.
        charges: [Q], e, Mulliken, of sites (the atoms, unless told otherwise).
        energy: [B], Eh, sum of the parts, without repulsion.
        converged: [B] bool.
        iterations: [B] int64, Hamiltonians solved.
        parts: [B] each, Eh: ``band`` Tr(P H0), ``coulomb`` (second order), ``third_order``, ``mermin``
            (-width * entropy).
        density: [B, M, M], P, 0 in padding.
        potential: [B, Q], Eh, v of sites.
        excess: [B, Q], electrons of sites above those of neutral atoms.
    """

    state: ElectronicState
    charges: Tensor
    energy: Tensor
    converged: Tensor
    iterations: Tensor
    parts: dict[str, Tensor]
    density: Tensor
    potential: Tensor
    excess: Tensor


@dataclass(frozen=True)
class _Problem:
    """n -> f(n) of padded molecules; rows can be taken out."""

    h0: Tensor
    s: Tensor
    mask: Tensor
    member: Tensor  # [B, M, Q]
    gamma: Tensor  # [B, Q, Q]
    third: Tensor  # [B, Q, Q], or [B, 0, 0] in second order
    same_atom: Tensor  # [B, Q, Q], likewise
    neutral: Tensor  # [B, Q] electrons of the neutral atoms
    n_electrons: Tensor
    smearing: Smearing

    def rows(self, rows: Tensor) -> _Problem:
        tensors = (self.h0, self.s, self.mask, self.member, self.gamma, self.third, self.same_atom)
        h0, s, mask, member, gamma, third, same_atom = (t[rows] for t in tensors)
        neutral, n_electrons = self.neutral[rows], self.n_electrons[rows]
        return _Problem(h0, s, mask, member, gamma, third, same_atom, neutral, n_electrons, self.smearing)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.h0, self.s, self.gamma, self.third

    def _third(self, excess: Tensor) -> tuple[Tensor, Tensor]:
        """q_A of every site's atom, and w."""
        column = excess.unsqueeze(-1)
        return (self.same_atom @ column).squeeze(-1), (self.third @ column).squeeze(-1)

    def potential(self, electrons: Tensor) -> Tensor:
        """v [B, Q], Eh."""
        q = electrons - self.neutral
        v = (self.gamma @ q.unsqueeze(-1)).squeeze(-1)
        if self.third.shape[-1]:
            whole, w = self._third(q)
            others = self.same_atom.mT @ (q * w).unsqueeze(-1) + self.third.mT @ (whole * q).unsqueeze(-1)
            v = v + (whole * w + others.squeeze(-1)) / 3
        return v

    def interaction(self, excess: Tensor) -> tuple[Tensor, Tensor]:
        """Second- and third-order energies [B], Eh."""
        second = (excess * (self.gamma @ excess.unsqueeze(-1)).squeeze(-1)).sum(-1) / 2
        if not self.third.shape[-1]:
            return second, torch.zeros_like(second)
        whole, w = self._third(excess)
        return second, (whole * excess * w).sum(-1) / 3

    def state(self, electrons: Tensor) -> ElectronicState:
        potential = (self.member @ self.potential(electrons).unsqueeze(-1)).squeeze(-1)
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
    third_order: Tensor | None = None,
    same_atom: Tensor | None = None,
) -> SelfConsistentCharges:
    """Solve for self-consistent charges of all molecules at once; a converged molecule is computed no further.

    Args:
        hamiltonian, overlap: [B, M, M], H0 (Eh) and S.
        orbital_mask: [B, M] bool.
        atom_of_orbital: [B, M] int64, -1 in padding; or the site of each orbital (``coulomb.Sites``).
        molecule: [Q] int64, of each site.
        gammas: [B, Q, Q], Eh, from ``coulomb.gamma_matrix`` or ``coulomb.coulomb``.
        valence_charges: [Q], electrons of each neutral site.
        n_electrons: [B]; neutral molecules if left out.
        tolerance: largest change of a site's electrons that counts as converged.
        mixing: see ``AndersonMixer``.
        third_order: [B, Q, Q], Eh / e, Gamma from ``coulomb.coulomb``; second order only if left out.
        same_atom: [B, Q, Q], 1 for sites of one atom; sites are atoms if left out.

    Returns:
        differentiable in H0, S, gamma and Gamma (first derivatives). Where ``converged`` is False the gradient is
        meaningless.
    """
    b, a = gammas.shape[:2]
    real = torch.where(orbital_mask.unsqueeze(-1) & orbital_mask.unsqueeze(-2), 1.0, 0.0).to(torch.float64)
    neutral = pad_atoms(valence_charges.to(torch.float64), molecule, b, a)
    if third_order is None:
        third = same = gammas.new_zeros(b, 0, 0, dtype=torch.float64)
    else:
        third = third_order.to(torch.float64)
        eye = torch.eye(a, dtype=torch.float64, device=gammas.device).expand(b, a, a)
        same = eye if same_atom is None else same_atom.to(torch.float64)
    problem = _Problem(
        torch.where(real > 0, hamiltonian.to(torch.float64), 0.0),
        torch.where(real > 0, overlap.to(torch.float64), 0.0),
        orbital_mask,
        membership(atom_of_orbital, molecule, a),
        gammas.to(torch.float64),
        third,
        same,
        neutral,
        neutral.sum(-1) if n_electrons is None else n_electrons.to(torch.float64),
        smearing,
    )
    with torch.no_grad():
        electrons, converged, iterations = _iterate(problem, tolerance, max_iterations, mixing)
    inner = torch.is_grad_enabled() and any(t.requires_grad for t in problem.parameters)
    if inner:
        electrons = _attach_gradient(problem, electrons, tolerance, max_iterations)
    state = problem.state(electrons)
    populations, density = problem.electrons(state)
    excess = populations - neutral
    second, third_energy = problem.interaction(excess)
    parts = {
        "band": (density * problem.h0).sum((-1, -2)),
        "coulomb": second,
        "third_order": third_energy,
        "mermin": -smearing.width * entropy(state),
    }
    first, _ = first_atoms(molecule, b)
    local = torch.arange(len(molecule), device=molecule.device) - first[molecule]
    return SelfConsistentCharges(
        state,
        -excess[molecule, local],
        parts["band"] + parts["coulomb"] + parts["third_order"] + parts["mermin"],
        converged,
        iterations,
        parts,
        density,
        problem.potential(populations),
        excess,
    )


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
    """The fixed point as a function of H0, S, gamma and Gamma."""
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
