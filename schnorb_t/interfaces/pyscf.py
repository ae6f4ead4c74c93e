"""Predictions inside PySCF: a mean-field object that holds them, and a density matrix that an SCF starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols

from schnorb_t.basis import Basis
from schnorb_t.conventions import pyscf_shells, reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.interfaces.contraction import ContractionModel, shipped_contractions
from schnorb_t.prediction import Prediction
from schnorb_t.reference.pyscf import mole_from_basis, overlap_integrals
from schnorb_t.structures import Structure, fault_of

#: Bohr, positions of a prediction and of a ``Mole`` that count as the same.
SAME_POSITION = 1e-5
#: Overlaps that count as the same; tables of two-centre overlaps leave 1e-9.
SAME_OVERLAP = 1e-6


@lru_cache(maxsize=1)
def _mean_field_class():
    from pyscf import scf

    class PredictedMeanField(scf.hf.RHF):
        """A restricted mean field whose matrices and orbitals are a prediction's; nothing is iterated.

        ``get_fock``, ``get_hcore`` (the whole predicted Hamiltonian, with the electrons' interaction) and ``get_ovlp``
        give the predicted matrices, ``get_veff`` zero; ``mo_energy``, ``mo_coeff``, ``mo_occ`` are set. Energies and
        SCF cycles raise ``NotImplementedError``.
        """

        def __init__(self, mol, prediction: Prediction):
            super().__init__(mol)
            order = reorder_from_pyscf(mol).inverse()
            self.prediction = prediction
            self._hamiltonian = order.matrix(prediction.hamiltonian)
            self._overlap = order.matrix(prediction.overlap)
            self.mo_energy = prediction.orbital_energies.copy()
            self.mo_coeff = order.rows(prediction.orbital_coefficients)
            self.mo_occ = prediction.occupations.copy()
            self.converged = True
            self._keys: set[str] = self._keys | {"prediction"}

        def _own(self, mol):
            if mol is not None and mol is not self.mol:
                raise NotImplementedError("a prediction belongs to one molecule; predict the other one")

        def get_hcore(self, mol=None):
            self._own(mol)
            return self._hamiltonian.copy()

        def get_ovlp(self, mol=None):
            self._own(mol)
            return self._overlap.copy()

        def get_veff(self, mol=None, dm=None, *_, **__):
            self._own(mol)
            return np.zeros_like(self._hamiltonian)

        def get_fock(self, *_, **__):
            return self._hamiltonian.copy()

        def lowdin_pop(self, mol=None, dm=None, s=None, verbose=None):
            """Populations of Löwdin's orthogonal orbitals and charges of atoms, as ``mulliken_pop`` returns them."""
            s = self.get_ovlp(mol) if s is None else s
            root = scipy.linalg.sqrtm(s).real
            dm = self.make_rdm1() if dm is None else dm
            return self.mulliken_pop(mol, root @ dm @ root, np.eye(len(s)), verbose=verbose)

        def dip_moment(self, mol=None, dm=None, *arguments, **options):
            """Exact for the density where the basis is fixed."""
            if self.prediction.basis.projected:
                raise NotImplementedError(
                    "position integrals of projected functions are not known; an approximate dipole is "
                    "schnorb_t.interfaces.ase.dipole_moment(prediction)"
                )
            return super().dip_moment(mol, dm, *arguments, **options)

        def energy_elec(self, *_, **__):
            raise NotImplementedError("a predicted Hamiltonian fixes orbitals, not the total energy")

        def kernel(self, *_, **__):
            raise NotImplementedError(
                "this object holds a prediction and iterates nothing; an SCF starts from initial_guess(prediction, mol)"
            )

        scf = kernel

    return PredictedMeanField


def to_mean_field(prediction: Prediction):
    """A PySCF mean-field object that holds a prediction.

    Its ``Mole`` has the basis's Gaussian functions. For a projected basis these are the free-atom functions that the
    model's functions come from: what PySCF makes of H, S and coefficients (orbital energies, populations) is exact,
    what it makes of the functions (cube files, Molden files) is approximate, and ``dip_moment`` is refused.

    Raises:
        UserError: PySCF is not installed, or the basis does not know its functions.
    """
    mol = mole_from_basis(prediction.basis, prediction.atomic_numbers, prediction.positions)
    return _mean_field_class()(mol, prediction)


def initial_guess(prediction: Prediction, mol) -> np.ndarray:
    """Density matrix [m, m] for ``mf.kernel(dm0)``, in the orbital order of ``mol``.

    Args:
        prediction: of a model of the molecule's own basis (``target: full``), or of a projected minimal basis for
            which the package has a way back to the molecule's basis (``schnorb_t.interfaces.contraction``: wqao to
            def2-SVP).
        mol: PySCF's molecule; same atoms and positions as the prediction's, spherical functions.

    Returns:
        an array that also carries orbitals and occupations (``mo_coeff``, ``mo_occ``), as PySCF's own guesses do.

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
        _check_same_basis(prediction.basis, prediction.overlap, mol, prediction.atomic_numbers)
        coefficients = order.rows(prediction.orbital_coefficients)
        occupations = prediction.occupations
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

    def __call__(self, mol) -> np.ndarray:
        """[m, m] in the orbital order of ``mol``.

        Raises:
            UserError: a molecule that the model cannot treat (``schnorb_t.structures``), or as ``initial_guess``.
        """
        return initial_guess(_predictor(self.model).predict(structure_of(mol)), mol)


def structure_of(mol) -> Structure:
    """A PySCF molecule as the package takes molecules in: with its charge and multiplicity.

    Args:
        mol: PySCF's molecule, all-electron.
    """
    from pyscf.data.nist import BOHR

    return Structure(
        np.asarray(mol.atom_charges(), dtype=np.int64),
        mol.atom_coords() * BOHR,
        charge=int(mol.charge),
        multiplicity=int(mol.spin) + 1,
        charge_from="mol.charge",
        multiplicity_from=f"mol.spin={mol.spin}",
    )


def _check_same_molecule(prediction: Prediction, mol) -> None:
    from pyscf.data.nist import BOHR

    z = prediction.atomic_numbers
    if mol.natm != len(z) or not np.array_equal(mol.atom_charges(), z):
        raise UserError("prediction and PySCF molecule differ in their atoms or their order")
    moved = float(np.abs(mol.atom_coords() * BOHR - prediction.positions).max())
    if moved > SAME_POSITION * BOHR:
        raise UserError(
            f"an atom of the PySCF molecule stands {moved:.2g} Å from its place in the prediction; build it with the "
            "same positions (and without symmetry=True, which turns it)"
        )
    if mol.nelectron != prediction.n_electrons or mol.spin != 0:
        raise UserError(
            f"the prediction is for {prediction.n_electrons} paired electrons, and the PySCF molecule is another: "
            f"{fault_of(structure_of(mol)) or f'it has {mol.nelectron} electrons'}"
        )


def _check_same_basis(basis: Basis, overlap: np.ndarray, mol, atomic_numbers: np.ndarray) -> None:
    """Equal shells, and equal functions as far as their overlap [m, m] (our order) tells."""
    own = [tuple(sorted(shells)) for shells in pyscf_shells(mol)]
    if own != [basis.shells.get(int(q)) for q in atomic_numbers]:
        raise UserError(f"the PySCF molecule has other shells than {basis.name!r}; build it with that basis")
    order = reorder_from_pyscf(mol).inverse()
    difference = float(np.abs(mol.intor_symmetric("int1e_ovlp") - order.matrix(overlap)).max())
    if difference > SAME_OVERLAP:
        raise UserError(
            f"overlaps of the PySCF molecule and of the prediction in {basis.name!r} differ by {difference:.1e}: "
            "not the same functions"
        )


def _way_back(prediction: Prediction, mol) -> ContractionModel:
    """The shipped contraction between the prediction's basis and that of ``mol``."""
    z, x, basis = prediction.atomic_numbers, prediction.positions, prediction.basis
    models = [m for m in shipped_contractions() if m.minimal.name == basis.name]
    elements = {int(q) for q in z}
    for model in models:
        same = elements <= set(model.minimal.elements) and (
            basis.restricted(elements).functions == model.minimal.restricted(elements).functions
        )
        if not same:
            continue
        try:
            _check_same_basis(model.large, overlap_integrals(model.large, z, x), mol, z)
        except UserError:
            continue
        return model
    there = ", ".join(f"{m.minimal.name} to {m.large.name} for {m.large.symbols()}" for m in models) or "none"
    raise UserError(
        f"no way back from the projected basis {basis.name!r} to the PySCF molecule's basis (there is: {there}); take "
        "a model of the large basis itself (target: full)"
    )
