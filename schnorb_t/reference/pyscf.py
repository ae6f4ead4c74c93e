"""Kohn-Sham labels by PySCF, and the way between PySCF's bases and ours.

Everything that leaves this file stands in our orbital order, energies in Eh, positions in Å.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols

from schnorb_t.basis import Basis, GaussianShell, all_electrons, core_shells, electrons_in
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.units import BOHR

#: Free-atom functions that the projected bases (iao, quambo, wqao) start from: PySCF's name for them.
FREE_ATOM_BASIS = "minao"
#: The target whose functions are those of the valence shells alone.
VALENCE_TARGET = "wqvo"
#: Below this smallest eigenvalue of S a large basis counts as linearly dependent.
LINEAR_DEPENDENCE = 1e-7


class LabelError(Exception):
    """A molecule that got no label, with the reason; it goes into the file's list of failures."""


@dataclass(frozen=True)
class Level:
    """Level of theory of the restricted Kohn-Sham calculation.

    Attributes:
        functional: PySCF's name. PySCF's B3LYP has VWN-RPA (as Gaussian), ORCA's has VWN5.
        basis: PySCF's name of the large basis.
        density_fitting: Coulomb and exchange by PySCF's default auxiliary basis.
        grid_level: PySCF's 0-9. Level 1 changes HOMO and LUMO by 3e-6 Eh against level 3.
        conv_tol: SCF convergence of the total energy, Eh.
    """

    functional: str = "B3LYP"
    basis: str = "def2-SVP"
    density_fitting: bool = True
    grid_level: int = 1
    conv_tol: float = 1e-9

    def __str__(self):
        fitting = "density fitting" if self.density_fitting else "no density fitting"
        return (
            f"{self.functional}/{self.basis}, restricted Kohn-Sham, {fitting}, "
            f"grid level {self.grid_level}, conv_tol {self.conv_tol:g}"
        )


@dataclass(frozen=True)
class FullBasisResult:
    """One molecule in the large basis.

    Attributes:
        atomic_numbers: [n] int64.
        positions: [n, 3] float64, Å.
        hamiltonian: [m, m] float64, converged Fock matrix, Eh, our order.
        overlap: [m, m] float64, our order.
        energies: [m] float64, Eh, eigenvalues of exactly this (H, S). PySCF's own ``mo_energy`` belongs to the
            Fock matrix before the last density update and lags by up to 7e-6 Eh.
        coefficients: [m, m] float64, columns are orbitals, C^T S C = 1.
        total_energy: Eh.
        n_electrons: core included.
        dipole: [3] float64, e*Bohr, nuclei included; of an ion about the origin of the positions.
        forces: [n, 3] float64, Eh/Bohr; None where they were not asked for.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    hamiltonian: np.ndarray
    overlap: np.ndarray
    energies: np.ndarray
    coefficients: np.ndarray
    total_energy: float
    n_electrons: int
    dipole: np.ndarray | None = None
    forces: np.ndarray | None = None


def _pyscf():
    try:
        import pyscf
        import pyscf.dft
        import pyscf.gto
    except ImportError as error:
        raise UserError('PySCF is not installed; pip install "schnorb_t[pyscf]"') from error
    return pyscf


def versions() -> dict[str, str]:
    """Versions of the programs that make a label."""
    return {"pyscf": _pyscf().__version__}


# ---- bases ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _element_functions(name: str, z: int) -> tuple[GaussianShell, ...]:
    pyscf = _pyscf()
    from pyscf.lib.exceptions import BasisNotFoundError

    symbol = chemical_symbols[z]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Basis may be available in basis-set-exchange"
            mol = pyscf.gto.M(atom=[(symbol, (0.0, 0.0, 0.0))], basis=name, spin=z % 2, verbose=0)
    except (BasisNotFoundError, KeyError, FileNotFoundError) as error:
        raise UserError(f"PySCF has no basis {name!r} for {symbol}") from error
    shells = []
    for b in range(mol.nbas):
        exponents = mol.bas_exp(b)
        for column in mol.bas_ctr_coeff(b).T:  # one per function of a general contraction
            keep = column != 0
            shells.append(
                GaussianShell(
                    int(mol.bas_angular(b)),
                    tuple(float(a) for a in exponents[keep]),
                    tuple(float(c) for c in column[keep]),
                )
            )
    return tuple(sorted(shells, key=lambda shell: shell.l))


def basis_from_pyscf(name: str, elements: Iterable[int], projected: str | None = None) -> Basis:
    """A basis of PySCF's library with its Gaussian functions; general contractions become one shell per function.

    Args:
        name: PySCF's name, e.g. ``"def2-SVP"``, or ``"minao"`` for the free-atom functions.
        elements: atomic numbers.
        projected: name of the projected target (``"iao"``, ``"quambo"``, ``"wqao"``) if ``name`` holds the free-atom
            functions that it starts from; the basis then bears that name.

    Raises:
        UserError: an element that the basis lacks, or an unknown basis.
    """
    functions = {z: _element_functions(name, z) for z in sorted({int(z) for z in elements})}
    shells = {z: tuple(f.l for f in fs) for z, fs in functions.items()}
    return Basis(projected or name, shells, functions, projected is not None)


def target_basis(target: str, elements: Iterable[int], large_basis: str) -> Basis:
    """The basis that a target's matrices stand in: ``large_basis`` for ``"full"``, else free-atom functions.

    For ``wqvo`` these are the free-atom functions without their core (``valence_only``).
    """
    if target == "full":
        return basis_from_pyscf(large_basis, elements)
    free = basis_from_pyscf(FREE_ATOM_BASIS, elements, projected=target)
    return valence_only(free) if target == VALENCE_TARGET else free


def valence_only(basis: Basis) -> Basis:
    """A basis of free-atom functions without those of the atoms' cores, whose electrons ``Basis.core`` counts.

    Raises:
        UserError: an element of which nothing would be left, or a basis without functions.
    """
    if basis.functions is None:
        raise UserError(f"basis {basis.name!r} holds shells only; its core cannot be left out")
    functions, core = {}, {}
    for z in basis.elements:
        left_out = core_shells(z)
        core[z] = electrons_in(left_out)
        kept = []
        for function in basis.functions[z]:  # within an l the innermost shells come first
            if left_out.get(function.l, 0):
                left_out[function.l] -= 1
            else:
                kept.append(function)
        if not kept or any(left_out.values()):
            raise UserError(f"basis {basis.name!r} has not all core shells of {chemical_symbols[z]}")
        functions[z] = tuple(kept)
    shells = {z: tuple(f.l for f in fs) for z, fs in functions.items()}
    return Basis(basis.name, shells, functions, basis.projected, {z: n for z, n in core.items() if n})


def mole_from_basis(basis: Basis, atomic_numbers: Sequence[int] | np.ndarray, positions: np.ndarray):
    """A PySCF ``Mole`` (for integrals) whose functions are those of ``basis``; ``positions`` [n, 3] in Å.

    Nuclear charges are what the basis's electrons see: cores that it leaves out are taken off, as PySCF does it for
    effective core potentials (of which there is none here: no total energies of a valence-only basis).

    Raises:
        UserError: the basis does not know its functions.
    """
    if basis.functions is None:
        raise UserError(f"basis {basis.name!r} holds shells only, no Gaussian functions: no integrals without them")
    pyscf = _pyscf()
    z = [int(q) for q in atomic_numbers]
    basis.n_orbitals(z)
    mol = pyscf.gto.Mole(verbose=0)
    mol.atom = [(chemical_symbols[q], x) for q, x in zip(z, np.asarray(positions) / BOHR, strict=True)]
    mol.unit = "Bohr"
    mol.spin = sum(z) % 2  # cores have even numbers of electrons
    left_out = {q: q - int(charge) for q, charge in zip(z, basis.nuclear_charges(z), strict=True)}
    mol.ecp = {chemical_symbols[q]: [electrons, []] for q, electrons in left_out.items() if electrons}
    mol.basis = {
        chemical_symbols[q]: [
            [f.l, *[[a, c] for a, c in zip(f.exponents, f.coefficients, strict=True)]] for f in basis.functions[q]
        ]
        for q in set(z)
    }
    return mol.build(dump_input=False, parse_arg=False)


def overlap_integrals(basis: Basis, atomic_numbers: Sequence[int] | np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Overlap [m, m] of a basis's (undeformed) functions, our order; ``positions`` [n, 3] in Å."""
    mol = mole_from_basis(basis, atomic_numbers, positions)
    return reorder_from_pyscf(mol).matrix(mol.intor("int1e_ovlp"))


def cross_overlap(
    basis: Basis, other: Basis, atomic_numbers: Sequence[int] | np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Overlap [m, n] of the functions of one basis with those of another, our order; ``positions`` [n, 3] in Å."""
    gto = _pyscf().gto
    a = mole_from_basis(basis, atomic_numbers, positions)
    b = mole_from_basis(other, atomic_numbers, positions)
    s = reorder_from_pyscf(a).rows(gto.intor_cross("int1e_ovlp", a, b))
    return reorder_from_pyscf(b).rows(s.T).T


# ---- the calculation -----------------------------------------------------------------------------------------


def diagonalise(hamiltonian: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orbital energies [m] and coefficients [m, m] of H C = S C diag(e).

    Raises:
        LabelError: S is not positive definite or the basis is linearly dependent.
    """
    smallest = float(scipy.linalg.eigvalsh(overlap, subset_by_index=(0, 0))[0])
    if smallest < LINEAR_DEPENDENCE:
        raise LabelError(f"linearly dependent basis: smallest eigenvalue of S is {smallest:.1e}")
    return scipy.linalg.eigh(hamiltonian, overlap)


def effective_core_potential(basis: str, symbol: str) -> list:
    """PySCF's effective core potential of a basis for an element; empty if the basis has all electrons.

    Raises:
        whatever PySCF raises apart from "there is none of this name": a damaged installation must not pass for it.
    """
    pyscf = _pyscf()
    from pyscf.lib.exceptions import BasisNotFoundError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "ECP may be available in basis-set-exchange"
            return pyscf.gto.basis.load_ecp(basis, symbol)
    except BasisNotFoundError:
        return []
    except FileNotFoundError:  # a basis in a file of its own, such as minao, has none beside it
        return []
    except RuntimeError as error:  # PySCF takes a name that it does not find for the potential itself
        if "Unable to parse the input ECP data" in str(error):
            return []
        raise


def check_level(level: Level, elements: Iterable[int]) -> None:
    """Find out before any work whether PySCF knows the functional and the basis for every element.

    Raises:
        UserError: it does not, or an element has an effective core potential.
    """
    pyscf = _pyscf()
    try:
        pyscf.dft.libxc.parse_xc(level.functional)
    except (KeyError, ValueError) as error:  # by what is wrong with the text
        raise UserError(f"PySCF does not know the functional {level.functional!r}") from error
    if not 0 <= level.grid_level <= 9:
        raise UserError(f"PySCF's grid levels are 0 to 9, not {level.grid_level}")
    for z in sorted({int(z) for z in elements}):
        symbol = chemical_symbols[z]
        basis_from_pyscf(level.basis, [z])
        if effective_core_potential(level.basis, symbol):
            raise UserError(
                f"basis {level.basis!r} replaces the core of {symbol} by a potential; take an all-electron one"
            )


def restricted_kohn_sham(mol, level: Level, max_cycle: int = 100, plain: bool = False, max_memory: float | None = None):
    """PySCF's ``RKS`` object of a molecule at a level of theory, ready to run.

    Args:
        mol: PySCF's molecule.
        level: functional, basis, grid and convergence.
        max_cycle: SCF cycles before it counts as not converged.
        plain: PySCF as it is, without ``schnorb_t.reference.fast_scf``: the same numbers to 1e-10 Eh, in three times
            the time or more.
        max_memory: MB for orbitals on the grid that are kept between cycles; default ``fast_scf.MAX_MEMORY``.
    """
    mf = _pyscf().dft.RKS(mol)
    mf.xc = level.functional
    if plain:
        if level.density_fitting:
            mf = mf.density_fit()
    else:
        from schnorb_t.reference import fast_scf

        if level.density_fitting:
            # PySCF chooses by the functional: of pure ones it fits Coulomb alone
            auxiliary = mf.density_fit().with_df.auxbasis
            mf = mf.density_fit(with_df=fast_scf.MemoryDF(mol, auxiliary))
            mf.direct_scf = False  # differences of densities have no occupied orbitals
        mf._numint = fast_scf.CachedNumInt(fast_scf.MAX_MEMORY if max_memory is None else max_memory)
    mf.grids.level = level.grid_level
    mf.conv_tol = level.conv_tol
    mf.max_cycle = max_cycle
    mf.chkfile = None
    return mf


def remember_potential(mf) -> dict:
    """Make ``mf`` keep its last density matrix and effective potential, which PySCF computes again to give F."""
    last: dict = {}
    compute = mf.get_veff

    def get_veff(mol=None, dm=None, dm_last=None, vhf_last=None, hermi=1):
        last["veff"] = compute(mol, dm, dm_last, vhf_last, hermi)
        last["dm"] = dm
        return last["veff"]

    mf.get_veff = get_veff
    return last


def label(
    atomic_numbers: Sequence[int] | np.ndarray,
    positions: np.ndarray,
    level: Level = Level(),
    max_cycle: int = 100,
    guess: Callable | None = None,
    plain: bool = False,
    max_memory: float | None = None,
    forces: bool = False,
    charge: int = 0,
) -> FullBasisResult:
    """One restricted Kohn-Sham calculation of a closed-shell molecule; the final Fock is re-diagonalised.

    Args:
        atomic_numbers: [n].
        positions: [n, 3], Å.
        level: functional, basis, grid and convergence.
        max_cycle: SCF cycles before it counts as not converged.
        guess: PySCF's molecule -> density matrix to begin with; None: PySCF's own guess. It changes the way to the
            converged result, not the result.
        plain, max_memory: as in ``restricted_kohn_sham``.
        forces: also the forces, by PySCF's analytic gradient without the grid's response (its default: the sum of the
            forces is not quite zero on a coarse grid).
        charge: total charge, e.

    Raises:
        LabelError: odd electron count, no electrons at all, no convergence, linear dependence, occupied levels not
            the lowest.
        Whatever PySCF raises for an unknown basis or functional: see ``check_level``.
    """
    pyscf = _pyscf()
    z = np.asarray(atomic_numbers, dtype=np.int64)
    x = np.asarray(positions, dtype=np.float64)
    n_electrons = all_electrons(z, charge)
    if n_electrons < 1:
        raise LabelError(f"charge {charge:+d} leaves {n_electrons} electrons")
    if n_electrons % 2:
        raise LabelError(f"open shell: {n_electrons} electrons")
    mol = pyscf.gto.Mole(verbose=0)
    mol.atom = [(chemical_symbols[q], r) for q, r in zip(z, x / BOHR, strict=True)]
    mol.unit, mol.basis, mol.charge, mol.spin = "Bohr", level.basis, int(charge), 0
    mol.build(dump_input=False, parse_arg=False)
    mf = restricted_kohn_sham(mol, level, max_cycle, plain, max_memory)
    overlap = mf.get_ovlp()
    smallest = float(scipy.linalg.eigvalsh(overlap, subset_by_index=(0, 0))[0])
    if smallest < LINEAR_DEPENDENCE:  # before the SCF, which would go on with fewer orbitals
        raise LabelError(f"linearly dependent basis: smallest eigenvalue of S is {smallest:.1e}")
    last = {} if plain else remember_potential(mf)
    mf.kernel(dm0=guess(mol) if guess else None)
    if not mf.converged:
        raise LabelError(f"SCF not converged in {max_cycle} cycles")
    dm = mf.make_rdm1()
    veff = last["veff"] if last and np.array_equal(dm, last["dm"]) else None
    order = reorder_from_pyscf(mol)
    fock = order.matrix(np.asarray(mf.get_fock(vhf=veff, dm=dm)))
    fock = 0.5 * (fock + fock.T)
    s = order.matrix(overlap)
    energies, coefficients = diagonalise(fock, s)
    dipole = np.asarray(mf.dip_moment(unit="AU", dm=dm, verbose=0))
    gradient = np.asarray(mf.nuc_grad_method().kernel()) if forces else None
    return FullBasisResult(
        z,
        x,
        fock,
        s,
        energies,
        coefficients,
        float(mf.e_tot),
        n_electrons,
        dipole,
        None if gradient is None else -gradient,
    )
