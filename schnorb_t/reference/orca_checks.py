"""From what ORCA says to H and S in our order, and the checks that a molecule must pass on the way.

A molecule that fails a check is refused with the residual and the likely cause. What the checks rest on:

- S is positive definite, C^T S C = 1, and F C = S C diag(eps) with the orbital energies as printed;
- S equals PySCF's integrals over the file's own Gaussians (or over the basis it names);
- where the file has Mulliken charges, they follow from S and the occupied orbitals;
- where ORCA's printed energies are there and the method is Hartree-Fock, 2 sum eps = 2 E_electronic - E_one-electron
  (Szabo and Ostlund, Modern Quantum Chemistry, eq. 3.184);
- an ``orca_2json`` file says neither functional nor energy nor convergence. Without ORCA's output beside it, its Fock
  matrix must be the Hartree-Fock operator of its own density, rebuilt by PySCF; then all three are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..basis import Basis, GaussianShell
from ..conventions import Reorder, reorder_from, reorder_from_pyscf
from ..errors import UserError
from ..linalg import matrix_power
from ..units import BOHR
from .orca_calculation import OrcaCalculation, aligned, refuse

#: Standard deviation of rounding to 6 decimals.
_ROUNDING = 1e-6 / np.sqrt(12)
#: Largest residuals, full precision | printed with 6 decimals.
_LIMITS = {
    "orthonormal": {"json": 1e-8, "text": None},  # text: ten standard deviations of what rounding does
    "orbital energies": {"json": 1e-8, "text": 1e-6},
    "given Fock": {"json": 5e-5, "text": 1e-4},  # text: or what rounding does, where that is more
    "PySCF overlap": {"json": 1e-8, "text": 1e-6},
    "Mulliken": {"json": 2e-3, "text": 2e-3},  # ORCA's density may lag its orbitals by a cycle: 2.8e-4 in a real file
}
#: Smallest eigenvalue of S. Below, rounding (text) or linear dependence leaves nothing of some combination.
_SMALLEST = {"json": 1e-7, "text": 1e-4}
#: Hartree-Fock rebuilt by PySCF against ORCA's: loose convergence and COSX leave up to 3e-4 Eh in the real files,
#: another functional 0.1 Eh and more.
_HARTREE_FOCK_LIMIT = 1e-3
#: 2 sum eps against ORCA's energies, per electron: what a loosely converged density or COSX leaves.
_ENERGY_SUM_LIMIT = 1e-4

_CAUSES = {
    "positive definite": "a damaged overlap matrix, or a basis too near to linear dependence; where it is printed with "
    "6 decimals only, orca_2json may still hold it",
    "orthonormal": "overlap and orbitals of different calculations, a damaged block, or another orbital order",
    "orbital energies": "orbital energies of other orbitals",
    "given Fock": "a Fock matrix that is incomplete or not the converged one (level shift, another grid or density); "
    "with --ignore-fock H is built from the orbitals",
    "PySCF overlap": "another unit, geometry, basis or orbital order than the file states",
    "Mulliken": "occupied orbitals or overlap of another calculation, or a damaged block",
    "energy sum": "orbital energies of another calculation, or a damaged block",
    "Hartree-Fock": "not Hartree-Fock, or not converged",
}


@dataclass(frozen=True)
class Residual:
    """One check.

    Attributes:
        name: of the check.
        value: the residual (or, for ``"positive definite"``, the smallest eigenvalue); ``None`` if not checked.
        limit: the largest value that passes (for ``"positive definite"`` the smallest).
        note: why it was not checked, or what it was checked against.
    """

    name: str
    value: float | None
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value keeps its limit; a check that could not be made passes."""
        if self.value is None:
            return True
        return bool(self.value >= self.limit if self.name == "positive definite" else self.value <= self.limit)

    def __str__(self):
        sign = ">=" if self.name == "positive definite" else "<="
        return f"{self.name}: {self.value:.1e} where {sign} {self.limit:.1e} is asked"


@dataclass(frozen=True)
class CheckedMolecule:
    """A molecule that passed: our order, our units.

    Attributes:
        hamiltonian: [m, m] Fock matrix, Eh.
        overlap: [m, m].
        energies: [m] eigenvalues of (H, S), Eh, ascending.
        positions: [n, 3], Å, such that Å / ``units.BOHR`` are the Bohr that ORCA's integrals saw.
        shells: atomic number -> l of its shells, ascending.
        functions: atomic number -> Gaussians in that order, or ``None``.
        residuals: every check.
        fock_source: where H came from.
        total_energy, level: now known in any case.
    """

    calculation: OrcaCalculation
    hamiltonian: np.ndarray
    overlap: np.ndarray
    energies: np.ndarray
    positions: np.ndarray
    shells: dict[int, tuple[int, ...]]
    functions: dict[int, tuple[GaussianShell, ...]] | None
    residuals: tuple[Residual, ...]
    fock_source: str
    total_energy: float
    level: dict[str, str]


def check(calculation: OrcaCalculation) -> CheckedMolecule:
    """H and S of one calculation, if they pass every check.

    F is the file's own where it has one (symmetrised), else S C diag(eps) C^T S with C orthonormalised after Löwdin,
    which takes the rounding of printed coefficients out of the spectrum.

    Raises:
        UserError: naming the file, the residual and the likely cause.
    """
    aligned(calculation)
    c = calculation
    reorder = reorder_from("orca", c.shells)
    shells, functions = _ascending(c)
    if functions is None and c.basis_name is not None:
        functions = _named_functions(c, shells)
    coefficients = reorder.rows(c.coefficients)
    reference, why_not = _pyscf_overlap(c, shells, functions)
    overlap, residuals = _overlap(c, reorder, coefficients, reference)

    smallest = float(np.linalg.eigvalsh(overlap)[0])
    residuals.append(Residual("positive definite", smallest, _SMALLEST[c.source]))
    _raise_failed(c, residuals)
    metric = coefficients.T @ overlap @ coefficients
    off = float(np.abs(metric - np.eye(len(metric))).max())
    residuals.append(Residual("orthonormal", off, _orthonormal_limit(c, overlap, coefficients)))
    _raise_failed(c, residuals)

    orthonormal = coefficients @ matrix_power(metric, -0.5)
    half = overlap @ orthonormal
    if c.fock is None:
        fock, source = (half * c.energies) @ half.T, "S C diag(eps) C^T S"
    else:
        fock, source = reorder.matrix(c.fock), "given"
        in_orbitals = orthonormal.T @ fock @ orthonormal - np.diag(c.energies)
        residuals.append(
            Residual("given Fock", float(np.abs(in_orbitals).max()), _fock_limit(c, overlap, coefficients))
        )
    fock = (fock + fock.T) / 2
    limit = _LIMITS["orbital energies"][c.source] if c.fock is None else _fock_limit(c, overlap, coefficients)
    spectrum = scipy.linalg.eigvalsh(fock, overlap)
    lag = float(np.abs(spectrum - np.sort(c.energies)).max())
    residuals.append(Residual("orbital energies", lag, limit))

    if reference is None:
        residuals.append(Residual("PySCF overlap", None, _LIMITS["PySCF overlap"][c.source], why_not))
    elif c.overlap is not None:
        difference = float(np.abs(overlap - reference[1]).max())
        residuals.append(Residual("PySCF overlap", difference, _LIMITS["PySCF overlap"][c.source]))
    density = (orthonormal * c.occupations) @ orthonormal.T
    residuals += _mulliken(c, overlap, density) + _energy_sum(c)
    _raise_failed(c, residuals)

    total_energy, level = c.total_energy, dict(c.level)
    if not c.converged:
        residual, total_energy = _hartree_fock(c, reference, fock, density)
        residuals.append(residual)
        _raise_failed(c, residuals)
        level["method"] = "Hartree-Fock(GTOs)"
    return CheckedMolecule(
        calculation=c,
        hamiltonian=fock,
        overlap=overlap,
        energies=spectrum,
        positions=c.positions * BOHR,
        shells=shells,
        functions=functions,
        residuals=tuple(residuals),
        fock_source=source,
        total_energy=float(total_energy),
        level=level,
    )


def _raise_failed(c: OrcaCalculation, residuals: list[Residual]) -> None:
    failed = [r for r in residuals if not r.passed]
    if failed:
        refuse(c.path, "; ".join(f"failed the check {r} (likely cause: {_CAUSES[r.name]})" for r in failed))


def _ascending(c: OrcaCalculation):
    """Shells and Gaussians per element, sorted by l, equal l in ORCA's order."""
    shells, functions = {}, {}
    for z, ls in zip(c.atomic_numbers.tolist(), c.shells, strict=True):
        order = sorted(range(len(ls)), key=lambda k: ls[k])
        shells[z] = tuple(ls[k] for k in order)
        if c.functions is not None:
            functions[z] = tuple(c.functions[z][k] for k in order)
    return shells, functions or None


# ---- PySCF ---------------------------------------------------------------------------------------------------


def _pyscf():
    """PySCF's reference module, or ``None`` if PySCF is not installed."""
    try:
        import pyscf.gto  # noqa: F401
    except ImportError:
        return None
    from . import pyscf as reference

    return reference


def _named_functions(c: OrcaCalculation, shells) -> dict[int, tuple[GaussianShell, ...]] | None:
    """Gaussians that PySCF's library has under the name of ORCA's basis, if their shells are the same."""
    reference = _pyscf()
    if reference is None:
        return None
    try:
        functions = reference.basis_from_pyscf(c.basis_name, shells).functions
    except UserError:
        return None
    return functions if {z: tuple(f.l for f in fs) for z, fs in functions.items()} == shells else None


def _pyscf_overlap(c: OrcaCalculation, shells, functions):
    """((Mole, S in our order), "") or (None, why not)."""
    if functions is None:
        return None, "the output prints no basis; Print[P_Basis] 2 would"
    reference = _pyscf()
    if reference is None:
        return None, "PySCF is not installed"
    basis = Basis("ORCA's", shells, functions)
    mol = reference.mole_from_basis(basis, c.atomic_numbers, c.positions * BOHR)
    return (mol, reorder_from_pyscf(mol).matrix(mol.intor("int1e_ovlp"))), ""


def _overlap(c: OrcaCalculation, reorder: Reorder, coefficients: np.ndarray, reference):
    """S in our order. Without ``S-Matrix`` all orbitals together fix it, S = (C C^T)^-1, and PySCF must agree."""
    if c.overlap is not None:
        overlap = reorder.matrix(c.overlap)
        asymmetry = float(np.abs(overlap - overlap.T).max())
        if asymmetry > _LIMITS["PySCF overlap"][c.source] * 2:
            refuse(c.path, f"the overlap matrix is not symmetric: differs from its transpose by {asymmetry:.1e}")
        return (overlap + overlap.T) / 2, []
    if reference is None:
        refuse(
            c.path,
            "has no 'S-Matrix', and without PySCF there is nothing to compare with the overlap that its orbitals "
            'imply; export again with "1elIntegrals": ["H", "S", "T"] or pip install "schnorb_t[pyscf]"',
        )
    try:
        implied = np.linalg.inv(coefficients @ coefficients.T)
    except np.linalg.LinAlgError:
        refuse(c.path, "has linearly dependent orbitals: a damaged block")
    difference = float(np.abs(implied - reference[1]).max())
    note = "no 'S-Matrix': (C C^T)^-1 against PySCF's S, which is stored"
    return reference[1], [Residual("PySCF overlap", difference, _LIMITS["PySCF overlap"][c.source], note)]


def _hartree_fock(c: OrcaCalculation, reference, fock: np.ndarray, density: np.ndarray):
    """The Hartree-Fock operator of this density against ``fock``, and the Hartree-Fock energy, Eh.

    F = h + J[D] - K[D] / 2, E = Tr D (h + F) / 2 + E_nuclei (Szabo and Ostlund, eqs. 3.154 and 3.184).
    """
    if reference is None:
        refuse(
            c.path,
            "orca_2json states neither energy nor convergence; put ORCA's output (same name, .out or .log) beside it"
            ' or pip install "schnorb_t[pyscf]", which can tell for Hartree-Fock',
        )
    from pyscf.scf.hf import get_hcore, get_jk

    mol, _ = reference
    order = reorder_from_pyscf(mol)
    back = order.inverse()
    coulomb, exchange = get_jk(mol, back.matrix(density))
    core = get_hcore(mol)
    theirs = order.matrix(core + coulomb - exchange / 2)
    difference = float(np.abs(theirs - fock).max())
    if difference > _HARTREE_FOCK_LIMIT:
        refuse(
            c.path,
            f"differs by {difference:.1e} Eh from the Hartree-Fock operator of its own orbitals: not Hartree-Fock, or "
            "not converged. orca_2json states neither functional nor energy nor convergence: put ORCA's output (same "
            "name, .out or .log) beside it",
        )
    energy = float(np.sum(density * (order.matrix(core) + theirs)) / 2 + mol.energy_nuc())
    note = "no output beside it: method, energy and convergence by PySCF"
    return Residual("Hartree-Fock", difference, _HARTREE_FOCK_LIMIT, note), energy


# ---- the file's own redundancy -------------------------------------------------------------------------------


def _orthonormal_limit(c: OrcaCalculation, overlap: np.ndarray, coefficients: np.ndarray) -> float:
    """Largest |C^T S C - 1| that passes.

    For printed numbers, ten standard deviations of what rounding C and S does to first order:
    var_pq = 2 s^2 (|S C_p|^2 + |S C_q|^2 + |C_p|^2 |C_q|^2), s^2 that of one rounded number.
    """
    fixed = _LIMITS["orthonormal"][c.source]
    if fixed is not None:
        return fixed
    half, length = ((overlap @ coefficients) ** 2).sum(axis=0), (coefficients**2).sum(axis=0)
    return float(10 * _ROUNDING * np.sqrt(2 * (2 * half.max() + length.max() ** 2)))


def _fock_limit(c: OrcaCalculation, overlap: np.ndarray, coefficients: np.ndarray) -> float:
    """Largest |C^T F C - diag(eps)|, Eh, that passes for a given F: as above, with F C = S C diag(eps)."""
    fixed = _LIMITS["given Fock"][c.source]
    if c.source == "json":
        return fixed
    half, length = ((overlap @ coefficients) ** 2).sum(axis=0), (coefficients**2).sum(axis=0)
    variance = 2 * ((c.energies**2 * (2 * half + length * length.max())).max() + length.max() ** 2)
    return max(fixed, float(10 * _ROUNDING * np.sqrt(variance)))


def _mulliken(c: OrcaCalculation, overlap: np.ndarray, density: np.ndarray) -> list[Residual]:
    """q_A = Z_A - sum over mu in A of (D S)_mu,mu against the file's charges."""
    if c.mulliken is None:
        return []
    atom = np.repeat(np.arange(len(c.shells)), [sum(2 * l + 1 for l in ls) for ls in c.shells])
    populations = np.bincount(atom, weights=(density * overlap).sum(axis=1), minlength=len(c.shells))
    value = float(np.abs(c.atomic_numbers - populations - c.mulliken).max())
    return [Residual("Mulliken", value, _LIMITS["Mulliken"][c.source])]


def _energy_sum(c: OrcaCalculation) -> list[Residual]:
    """2 sum eps = 2 (E_total - E_nuclei) - E_one-electron, per electron; Hartree-Fock in vacuum only."""
    hartree_fock = c.level.get("method", "").startswith("Hartree-Fock") and "solvent" not in c.level
    if c.one_electron_energy is None or not hartree_fock:
        return []
    printed = 2 * (c.total_energy - c.nuclear_repulsion) - c.one_electron_energy
    value = float(abs((c.occupations * c.energies).sum() - printed) / c.occupations.sum())
    return [Residual("energy sum", value, _ENERGY_SUM_LIMIT)]
