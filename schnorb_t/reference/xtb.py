"""Labels by GFN2-xTB (tblite): thousands of molecules in a minute, for a network to learn chemistry from before it
sees the few expensive labels.

The converged Hamiltonian F = S C diag(e) C^T S of GFN2-xTB (Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652
(2019)) in its own minimal basis: valence shells only, no core. Stands in our orbital order, which is tblite's too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import Basis
from schnorb_t.data.header import Header
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.errors import UserError
from schnorb_t.reference.minimal_basis import project
from schnorb_t.reference.pyscf import FREE_ATOM_BASIS, VALENCE_TARGET, LabelError, basis_from_pyscf, target_basis
from schnorb_t.structures import Structure, fault_of
from schnorb_t.units import BOHR

METHOD = "GFN2-xTB"
#: Shells of GFN2-xTB, (l, ...), and electrons in them: valence s and p, and d from the third row on.
VALENCE = {
    1: ((0,), 1),
    5: ((0, 1), 3),
    6: ((0, 1), 4),
    7: ((0, 1), 5),
    8: ((0, 1), 6),
    9: ((0, 1), 7),
    14: ((0, 1, 2), 4),
    15: ((0, 1, 2), 5),
    16: ((0, 1, 2), 6),
    17: ((0, 1, 2), 7),
    35: ((0, 1, 2), 7),
}
#: Free atoms have no empty d shell: its function is the outermost d of this basis.
POLARISATION_BASIS = "def2-SVP"
#: What labels can stand in: GFN2-xTB's own shells, or valence s and p alone.
TARGETS = (METHOD, VALENCE_TARGET)


def _tblite():
    try:
        import tblite
        import tblite.interface
    except ImportError as error:
        raise UserError(f'{METHOD} needs tblite: pip install "schnorb_t[xtb]"') from error
    return tblite


def xtb_basis(elements: Iterable[int]) -> Basis:
    """GFN2-xTB's shells; the functions are PySCF's free-atom ones, since GFN2's own are of no use without it.

    Silicon, phosphorus, sulphur, chlorine and bromine have a d shell. A prior (``schnorb_t.nn.prior``) takes bases of s
    and p shells only and refuses a model of these.

    Raises:
        UserError: another element than H, B, C, N, O, F, Si, P, S, Cl, Br.
    """
    elements = sorted({int(z) for z in elements})
    if missing := [chemical_symbols[z] for z in elements if z not in VALENCE]:
        known = ", ".join(chemical_symbols[z] for z in VALENCE)
        raise UserError(f"{METHOD} labels are made for {known}, not for {', '.join(missing)}")
    functions = {}
    for z in elements:
        free = basis_from_pyscf(FREE_ATOM_BASIS, [z]).functions[z]
        larger = basis_from_pyscf(POLARISATION_BASIS, [z]).functions[z] if 2 in VALENCE[z][0] else ()
        functions[z] = tuple([f for f in (larger if l == 2 else free) if f.l == l][-1] for l in VALENCE[z][0])
    core = {z: z - VALENCE[z][1] for z in elements if z > VALENCE[z][1]}
    return Basis(METHOD, {z: VALENCE[z][0] for z in elements}, functions, projected=True, core=core)


def xtb_header(elements: Iterable[int], source: str = "", target: str = METHOD) -> Header:
    """Header of a file of GFN2-xTB labels; ``source`` says where the structures come from.

    Args:
        elements: atomic numbers.
        source: a text for the file.
        target: ``METHOD``, GFN2-xTB's own s, p and d shells, or ``"wqvo"`` (see ``XtbJob``).

    Raises:
        UserError: another target, an element without parameters here, or tblite is missing.
    """
    if target not in TARGETS:
        raise UserError(f"unknown target {target!r} of {METHOD} labels; known: {', '.join(TARGETS)}")
    _tblite()
    level = {"functional": METHOD, "basis": "minimal valence basis"}
    if source:
        level["structures"] = source
    basis = xtb_basis(elements)  # refuses unknown elements
    if target == VALENCE_TARGET:
        basis = target_basis(target, basis.elements, POLARISATION_BASIS)
    return Header(basis, target, level, {"tblite": version("tblite")})


def _s_and_p(atomic_numbers: np.ndarray) -> np.ndarray:
    """Places of the s and p functions among all of a molecule's."""
    l_of = [l for z in atomic_numbers for l in VALENCE[int(z)][0] for _ in range(2 * l + 1)]
    return np.flatnonzero(np.array(l_of) < 2)


@dataclass(frozen=True)
class XtbJob:
    """What is done to every structure; call it with one. Picklable: it travels to worker processes.

    ``target`` ``"wqvo"`` projects GFN2-xTB's s, p and d functions onto its own valence s and p functions, as DFT labels
    of that name are: the occupied levels stay exact, and molecules without a d shell keep GFN2-xTB's own H and S.
    """

    target: str = METHOD

    def __call__(self, structure: Structure) -> MoleculeRecord:
        """The labelled molecule; ``large_basis_energies`` are GFN2-xTB's own levels.

        Raises:
            LabelError: a structure that cannot be treated (open shell, charge ...), not converged.
        """
        if reason := fault_of(structure):
            raise LabelError(reason)
        z, x = np.asarray(structure.atomic_numbers, dtype=np.int64), np.asarray(structure.positions, dtype=np.float64)
        calculator = _tblite().interface.Calculator(METHOD, z, x / BOHR)
        calculator.set("verbosity", 0)
        calculator.set("save-integrals", 1)
        try:
            result = calculator.singlepoint()
        except RuntimeError as error:
            raise LabelError(f"{METHOD} gave no result: {error}") from None
        s, c, e = (result.get(k) for k in ("overlap-matrix", "orbital-coefficients", "orbital-energies"))
        sc = s @ c
        f = (sc * e) @ sc.T
        h, s = 0.5 * (f + f.T), 0.5 * (s + s.T)
        n_electrons = sum(VALENCE[int(q)][1] for q in z)
        if self.target == VALENCE_TARGET:
            kept = _s_and_p(z)
            projected = project(self.target, h, s, e, c, n_electrons // 2, s[:, kept], s[np.ix_(kept, kept)])
            h, s = projected.hamiltonian, projected.overlap
        return MoleculeRecord(
            atomic_numbers=z,
            positions=x,
            hamiltonian=h,
            overlap=s,
            large_basis_energies=np.asarray(e),
            total_energy=float(result.get("energy")),
            n_electrons=n_electrons,
            name=structure.name,
            group=structure.group,
            split=structure.split,
            order=structure.order,
            masses=structure.isotope_masses,
        )
