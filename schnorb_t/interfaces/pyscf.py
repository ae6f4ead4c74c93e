"""Predictions inside PySCF: a density matrix that an SCF starts from, and a mean field that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import Basis
from schnorb_t.conventions import pyscf_shells, reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.interfaces.contraction import ContractionModel, matrix_power, shipped_contractions
from schnorb_t.interfaces.mean_field import to_mean_field
from schnorb_t.prediction import Prediction
from schnorb_t.reference.pyscf import overlap_integrals
from schnorb_t.structures import Structure, fault_of
from schnorb_t.units import BOHR

__all__ = ["ModelGuess", "initial_guess", "to_mean_field"]

#: Å by which atoms of a prediction and of a ``Mole`` may differ: geometries rounded to three decimals.
SAME_POSITION = 1e-3
#: Overlaps of the same functions; those of a model come from a table and single precision.
SAME_OVERLAP = 1e-6
SAME_PREDICTED_OVERLAP = 1e-2


def initial_guess(prediction: Prediction, mol) -> np.ndarray:
    """Density matrix [m, m] for ``mf.kernel(dm0)``, in the orbital order of ``mol``.

    Args:
        prediction: of a model of the molecule's own basis (``target: full``), or of a projected minimal basis for
            which the package has a way back to the molecule's basis (``schnorb_t.interfaces.contraction``: wqao to
            def2-SVP).
        mol: PySCF's molecule; same atoms as the prediction's, positions within ``SAME_POSITION``, spherical functions.

    Returns:
        an array that also carries orbitals and occupations (``mo_coeff``, ``mo_occ``), as PySCF's own guesses do;
        orbitals are orthonormal in the overlap of ``mol``.

    Raises:
        UserError: another basis, other atoms, another place or orientation, or another number of electrons.
    """
    from pyscf import lib

    _check_same_molecule(prediction, mol)
    order = reorder_from_pyscf(mol).inverse()
    if prediction.basis.projected:
        n, z, x = prediction.n_occupied, prediction.atomic_numbers, prediction.positions
        model = _way_back(prediction, mol)
        coefficients = order.rows(model.orbitals(prediction.orbital_coefficients[:, :n], z, x))
        occupations = np.full(n, 2.0)
    else:
        _check_basis_of_prediction(prediction, mol)
        coefficients = order.rows(prediction.orbital_coefficients)
        occupations = prediction.occupations
    # positions may differ in the last digits that a file keeps, and then the overlaps do
    coefficients = coefficients @ matrix_power(coefficients.T @ mol.intor_symmetric("int1e_ovlp") @ coefficients, -0.5)
    density = (coefficients * occupations) @ coefficients.T
    return lib.tag_array(density, mo_coeff=coefficients, mo_occ=occupations)


@lru_cache(maxsize=2)
def _predictor(model: str):
    from schnorb_t.predictor import load

    return load(model)


@dataclass(frozen=True)
class ModelGuess:
    """PySCF's molecule -> the density matrix that a model predicts for it; picklable, loaded once per process.

    Attributes:
        model: path of a checkpoint or name of a model of the package; of the molecules' own basis, or of a projected
            one with a way back to it (see ``initial_guess``).
    """

    model: str

    def check(self, elements: Iterable[int]) -> None:
        """Before any work.

        Raises:
            UserError: no such model, or it does not know these elements.
        """
        known = _predictor(self.model).basis.elements
        if missing := sorted(set(elements) - set(known)):
            symbols = ", ".join(chemical_symbols[z] for z in missing)
            raise UserError(f"model {self.model} does not know {symbols}; leave them to PySCF's own guess")

    def knows(self, charge: int) -> bool:
        """Whether the model treats molecules of a total charge (e)."""
        return charge in _predictor(self.model).charges

    def __call__(self, mol) -> np.ndarray:
        """[m, m] in the orbital order of ``mol``.

        Raises:
            UserError: a molecule that the model cannot treat (``schnorb_t.structures``), or as ``initial_guess``.
        """
        return initial_guess(_predictor(self.model).predict(structure_of(mol)), mol)


def structure_of(mol) -> Structure:
    """A PySCF molecule as the package takes molecules in: with its charge and multiplicity.

    Args:
        mol: PySCF's molecule; potentials in place of cores make no difference.
    """
    return Structure(
        _elements(mol),
        _coordinates(mol),
        charge=int(mol.charge),
        multiplicity=int(mol.spin) + 1,
        charge_from="mol.charge",
        multiplicity_from=f"mol.spin={mol.spin}",
    )


def _elements(mol) -> np.ndarray:
    """[n] atomic numbers of a ``Mole``, also where a potential replaces the core; 0 of atoms without a nucleus."""
    from pyscf import gto

    return np.array([gto.charge(mol.atom_pure_symbol(k)) for k in range(mol.natm)], dtype=np.int64)


def _coordinates(mol) -> np.ndarray:
    """[n, 3], Å."""
    return mol.atom_coords() * BOHR


def _check_same_molecule(prediction: Prediction, mol) -> None:
    z, basis = prediction.atomic_numbers, prediction.basis
    if mol.cart:
        raise UserError("the PySCF molecule has Cartesian d functions; build it with cart=False")
    if not np.array_equal(_elements(mol), z):
        raise UserError(
            f"prediction ({' '.join(chemical_symbols[q] for q in z)}) and PySCF molecule "
            f"({' '.join(chemical_symbols[q] for q in _elements(mol))}) differ in their atoms or their order"
        )
    if not np.array_equal(mol.atom_charges(), z):
        raise UserError("the PySCF molecule has effective core potentials; build it without (ecp=None)")
    moved = float(np.linalg.norm(_coordinates(mol) - prediction.positions, axis=1).max())
    if moved > SAME_POSITION:
        raise UserError(
            f"an atom of the PySCF molecule stands {moved:.2g} Å from its place in the prediction; predict it where "
            'PySCF has it: atoms = ase.Atoms(mol.elements, mol.atom_coords("Ang"))'
        )
    if mol.charge != prediction.charge or mol.spin != 0:
        fault = (
            fault_of(structure_of(mol), charges=(prediction.charge,)) if prediction.charge in (0, mol.charge) else ""
        )
        raise UserError(
            f"the prediction is for {prediction.n_electrons} paired electrons, and the PySCF molecule is another: "
            f"{fault or f'it has charge {mol.charge:+d}, {mol.nelectron} electrons'}"
        )
    if mol.nelectron != prediction.n_electrons:
        raise UserError(
            f"basis {basis.name!r} of the prediction holds {prediction.n_electrons} valence electrons of the "
            f"{mol.nelectron} of the PySCF molecule; take a model with cores"
        )


def _difference(basis: Basis, mol, atomic_numbers: np.ndarray) -> str:
    """How the functions of ``mol`` differ from those of a basis; empty where they are the same.

    Both are looked at where ``mol`` has its atoms, so that positions do not matter.
    """
    if [tuple(sorted(shells)) for shells in pyscf_shells(mol)] != [basis.shells.get(int(q)) for q in atomic_numbers]:
        return "it has other shells"
    theirs = reorder_from_pyscf(mol).matrix(mol.intor_symmetric("int1e_ovlp"))
    difference = float(np.abs(theirs - overlap_integrals(basis, atomic_numbers, _coordinates(mol))).max())
    return f"not the same functions: overlaps differ by {difference:.1e}" if difference > SAME_OVERLAP else ""


def _check_basis_of_prediction(prediction: Prediction, mol) -> None:
    """The basis of a prediction that is not projected is that of ``mol``.

    Raises:
        UserError: it is not; or the predicted overlap is not that of its own functions.
    """
    basis = prediction.basis
    if basis.functions is None:
        raise UserError(f"basis {basis.name!r} holds shells only, no functions to compare with PySCF's")
    if difference := _difference(basis, mol, prediction.atomic_numbers):
        raise UserError(f"the PySCF molecule's basis is not {basis.name!r} ({difference}); build it with that basis")
    theirs = reorder_from_pyscf(mol).matrix(mol.intor_symmetric("int1e_ovlp"))
    wrong = float(np.abs(theirs - prediction.overlap).max())
    if wrong > SAME_PREDICTED_OVERLAP:
        raise UserError(
            f"the predicted overlap differs by {wrong:.1e} from that of {basis.name!r}'s functions: not a model of it"
        )


def _way_back(prediction: Prediction, mol) -> ContractionModel:
    """The shipped contraction between the prediction's basis and that of ``mol``.

    Raises:
        UserError: there is none; says whether elements, the minimal or the large basis is the reason.
    """
    z, basis = prediction.atomic_numbers, prediction.basis
    elements = {int(q) for q in z}
    reasons = []
    for model in shipped_contractions():
        if model.minimal.name != basis.name:
            continue
        way = f"{model.minimal.name} to {model.large.name}"
        if unknown := sorted(elements - set(model.minimal.elements)):
            symbols = ", ".join(chemical_symbols[q] for q in unknown)
            reasons.append(f"{way} knows {model.large.symbols()}, not {symbols}")
        elif basis.restricted(elements).functions != model.minimal.restricted(elements).functions:
            reasons.append(f"{way} is for other free-atom functions of the same name")
        elif difference := _difference(model.large, mol, z):
            reasons.append(f"{way}: the PySCF molecule's basis is not {model.large.name}, {difference}")
        else:
            return model
    raise UserError(
        f"no way back from the projected basis {basis.name!r} to the PySCF molecule's basis "
        f"({'; '.join(reasons) or 'none for this basis is in the package'}); take a model of the large basis itself "
        "(target: full)"
    )
