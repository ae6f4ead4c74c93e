"""PySCF's view of a prediction: objects that answer what H, S and orbitals fix and refuse everything else.

PySCF's functions take a mean field and read from it what they need. Ours are not PySCF's classes, of which most methods
would compute something from integrals that have nothing to do with the prediction: they have the few methods and
attributes that are right, and every other name that PySCF asks for raises ``NotImplementedError``. They do pass for
PySCF's classes (``isinstance``), so that functions which check this get as far as the first name that is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import torch

from schnorb_t.basis import all_electrons
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.physics.occupations import fill
from schnorb_t.prediction import Prediction
from schnorb_t.reference.pyscf import mole_from_basis
from schnorb_t.units import BOHR

#: What a molecule without functions of its own tells of its atoms, electrons and orbital labels.
_ATOMS_AND_LABELS = frozenset(
    "natm nelectron nelec spin multiplicity charge cart symmetry nao nao_nr elements atom_charge atom_charges "
    "atom_coord atom_coords atom_symbol atom_pure_symbol atom_nelec_core atom_mass_list ao_labels search_ao_label "
    "aoslice_by_atom offset_ao_by_atom stdout".split()
)


def _refuse(name: str, sentence: str) -> Exception:
    """The exception for a name that is not there: Python's own where Python or a notebook asks, else a refusal."""
    asked_by_python = name.startswith("__") and name != "__dict__"
    if asked_by_python or name.startswith(("_repr_", "_ipython_", "_pytest")):
        return AttributeError(name)
    return NotImplementedError(sentence)


class PredictedMolecule:
    """Atoms, electrons and orbital labels of a basis whose functions PySCF cannot have; stands in for a ``Mole``.

    Functions of a projected basis depend on their surroundings, and a valence-only basis lacks the electrons that
    PySCF's integrals of nuclei are for. So integrals, values on grids and everything else that reads functions raise
    ``NotImplementedError``. Nuclear charges are those of the valence where the basis leaves out cores.
    """

    __slots__ = ("_functions", "_kind", "verbose")

    def __init__(self, prediction: Prediction, functions):
        self._functions = functions
        self._kind = "projected" if prediction.basis.projected else "valence-only"
        self.verbose = functions.verbose

    @property  # type: ignore[misc]  # what isinstance asks
    def __class__(self):
        from pyscf import gto

        return gto.Mole

    def __getattr__(self, name: str):
        if name in _ATOMS_AND_LABELS:
            return getattr(self._functions, name)
        raise _refuse(
            name,
            f"this needs the functions of a {self._kind} basis, which PySCF cannot have (it asked for {name!r}); "
            "orbital energies and populations are exact, pictures and files are made by schnorb_t.interfaces.molden",
        )

    def __reduce__(self):
        raise TypeError("pickle or copy the mean field that this molecule belongs to")


class PredictedMeanField:
    """A restricted mean field whose matrices and orbitals are a prediction's, in PySCF's orbital order.

    Exact for every basis: ``get_fock`` (Eh), ``get_ovlp``, ``mo_energy`` (Eh), ``mo_coeff``, ``mo_occ``, ``eig``,
    ``get_occ``, ``make_rdm1``, ``mulliken_pop``, ``lowdin_pop``, ``analyze``. Exact where the basis is fixed:
    ``dip_moment``, ``quad_moment`` and, with cores, ``mulliken_meta`` and PySCF's files of orbitals. ``copy`` and
    ``pickle`` work. Everything else raises ``NotImplementedError``.

    Attributes:
        prediction: what it holds.
        mol: PySCF's ``Mole`` where the basis is fixed and holds all electrons, else a ``PredictedMolecule``.
        mo_energy: [m], Eh.
        mo_coeff: [m, m], columns are orbitals.
        mo_occ: [m], 0..2.
        verbose: how much ``analyze`` and the populations print, 0 at first; ``stdout`` where to.
    """

    __slots__ = (
        "_functions", "_hamiltonian", "_overlap", "converged", "mo_coeff", "mo_energy", "mo_occ", "mol", "prediction",
        "stdout", "verbose",
    )  # fmt: skip

    def __init__(self, prediction: Prediction):
        basis, z = prediction.basis, prediction.atomic_numbers
        functions = mole_from_basis(basis, z, prediction.positions)
        functions.charge, functions.spin = prediction.charge, 0
        order = reorder_from_pyscf(functions).inverse()
        whole = not basis.projected and basis.n_electrons(z) == all_electrons(z)
        values = {
            "prediction": prediction,
            "mol": functions if whole else PredictedMolecule(prediction, functions),
            "mo_energy": prediction.orbital_energies.copy(),
            "mo_coeff": order.rows(prediction.orbital_coefficients),
            "mo_occ": prediction.occupations.copy(),
            "converged": True,
            "verbose": functions.verbose,
            "stdout": functions.stdout,
            "_functions": functions,
            "_hamiltonian": order.matrix(prediction.hamiltonian),
            "_overlap": order.matrix(prediction.overlap),
        }
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False  # a prediction cannot be changed in place either
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]  # what isinstance asks
    def __class__(self):
        from pyscf import dft

        return dft.rks.RKS  # a functional's, not Hartree-Fock's: its kernels are asked of the object, and refused

    def __getattr__(self, name: str):
        raise _refuse(
            name,
            "this needs more than a prediction fixes, which is Hamiltonian, overlap and orbitals (PySCF asked for "
            f"{name!r}); run a calculation, which may start from "
            "schnorb_t.interfaces.pyscf.initial_guess(prediction, mol)",
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("verbose", "stdout"):
            raise NotImplementedError(
                f"a prediction cannot be changed: {name!r} cannot be set (verbose and stdout can)"
            )
        object.__setattr__(self, name, value)

    def __reduce__(self):
        return _restored, (self.prediction, self.verbose)

    def __repr__(self):
        return f"<PySCF mean field of a prediction: {self.prediction.formula}, basis {self.prediction.basis.name}>"

    def copy(self) -> PredictedMeanField:
        """Another object with arrays of its own."""
        return _restored(self.prediction, self.verbose)

    def _check(self, mol) -> None:
        if mol is not None and mol is not self.mol:
            raise NotImplementedError("a prediction belongs to one molecule; predict the other one")
        if np.abs(self._functions.atom_coords() * BOHR - self.prediction.positions).max() > 1e-6:
            raise NotImplementedError("the atoms of this molecule were moved; predict them where they are now")

    def _fixed(self, what: str) -> None:
        if self.prediction.basis.projected:
            raise NotImplementedError(
                f"integrals of projected functions are not known, so there is no {what}; an approximate dipole is "
                "schnorb_t.interfaces.ase.dipole_moment(prediction)"
            )

    # ---- matrices and orbitals ---------------------------------------------------------------------------------

    def get_fock(self, *given: Any, **named: Any) -> np.ndarray:
        """[m, m], Eh: the predicted Hamiltonian.

        Raises:
            NotImplementedError: of a given density or given integrals.
        """
        if given or named:
            raise NotImplementedError("a prediction has one Fock matrix; it cannot build that of another density")
        return self._hamiltonian.copy()

    def get_ovlp(self, mol=None) -> np.ndarray:
        """[m, m]: the predicted overlap.

        Raises:
            NotImplementedError: of another molecule.
        """
        self._check(mol)
        return self._overlap.copy()

    def eig(self, h: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orbital energies [m] and orbitals [m, m] of given matrices, PySCF's ``scf.hf.eig``."""
        from pyscf import scf

        return scf.hf.eig(h, s)

    def get_occ(self, mo_energy: np.ndarray | None = None, mo_coeff: np.ndarray | None = None) -> np.ndarray:
        """[m] electrons in levels [m] (Eh, any order); exactly degenerate frontier levels are filled evenly."""
        if mo_energy is None:
            return self.mo_occ.copy()
        order = np.argsort(mo_energy)
        energies = torch.tensor(np.asarray(mo_energy)[order])[None]
        electrons = torch.tensor([self.prediction.n_electrons])
        out = np.empty(len(order))
        out[order] = fill(energies, electrons, torch.ones_like(energies, dtype=torch.bool))[0].numpy()
        return out

    def make_rdm1(self, mo_coeff: np.ndarray | None = None, mo_occ: np.ndarray | None = None) -> np.ndarray:
        """[m, m] density matrix C diag(occupations) C^T, PySCF's ``scf.hf.make_rdm1``."""
        from pyscf import scf

        return scf.hf.make_rdm1(
            self.mo_coeff if mo_coeff is None else mo_coeff, self.mo_occ if mo_occ is None else mo_occ
        )

    # ---- populations and moments -------------------------------------------------------------------------------

    def _arguments(self, mol, dm, verbose) -> tuple[np.ndarray, Any]:
        self._check(mol)
        return self.make_rdm1() if dm is None else dm, self.verbose if verbose is None else verbose

    def mulliken_pop(self, mol=None, dm=None, s=None, verbose=None) -> tuple[np.ndarray, np.ndarray]:
        """Populations of orbitals [m] and charges of atoms [n] (e), with the predicted overlap.

        Raises:
            NotImplementedError: of another molecule.
        """
        from pyscf import scf

        dm, verbose = self._arguments(mol, dm, verbose)
        return scf.hf.mulliken_pop(self.mol, dm, self._overlap if s is None else s, verbose)

    pop = mulliken_pop

    def lowdin_pop(self, mol=None, dm=None, s=None, verbose=None) -> tuple[np.ndarray, np.ndarray]:
        """Populations of Löwdin's orthogonal orbitals [m] and charges of atoms [n] (e).

        Raises:
            NotImplementedError: of another molecule.
        """
        dm, verbose = self._arguments(mol, dm, verbose)
        root = scipy.linalg.sqrtm(self._overlap if s is None else s).real
        return self.mulliken_pop(mol, root @ dm @ root, np.eye(len(root)), verbose)

    def mulliken_meta(self, mol=None, dm=None, verbose=None, pre_orth_method="ANO", s=None):
        """Populations of PySCF's meta-Löwdin orbitals [m] and charges of atoms [n] (e).

        Raises:
            NotImplementedError: the basis is projected or valence-only, or of another molecule.
        """
        from pyscf import scf

        dm, verbose = self._arguments(mol, dm, verbose)
        return scf.hf.mulliken_meta(self.mol, dm, verbose, pre_orth_method, self._overlap if s is None else s)

    def dip_moment(self, mol=None, dm=None, unit="Debye", origin=None, verbose=None) -> np.ndarray:
        """[3], Debye (or e Bohr for ``unit="AU"``), of the density with the basis's own integrals.

        Raises:
            NotImplementedError: the basis is projected, or of another molecule.
        """
        from pyscf import scf

        self._fixed("dipole moment")
        dm, verbose = self._arguments(mol, dm, verbose)
        options = {} if origin is None else {"origin": origin}  # older versions of PySCF have none
        return scf.hf.dip_moment(self._functions, dm, unit, verbose=verbose, **options)

    def quad_moment(self, mol=None, dm=None, unit="DebyeAngstrom", origin=None, verbose=None) -> np.ndarray:
        """[3, 3] traceless quadrupole moment, Debye Å (or e Bohr^2 for ``unit="AU"``), as PySCF defines it.

        Raises:
            NotImplementedError: the basis is projected, or of another molecule.
        """
        from pyscf import scf

        self._fixed("quadrupole moment")
        dm, verbose = self._arguments(mol, dm, verbose)
        return scf.hf.quad_moment(self._functions, dm, unit, origin=origin, verbose=verbose)

    def analyze(self, verbose=None, with_meta_lowdin: bool = True, origin=None):
        """Print levels, populations and the dipole as far as they are known.

        Returns:
            ((populations [m], charges [n]), dipole [3] in Debye): meta-Löwdin populations where the basis is fixed and
            holds all electrons (unless ``with_meta_lowdin=False``), else Mulliken's; no dipole (None) of a projected
            basis.
        """
        from pyscf.lib import logger

        verbose = self.verbose if verbose is None else verbose
        log = logger.new_logger(self, verbose)
        log.note("**** MO energy ****")
        for k, (energy, occupation) in enumerate(zip(self.mo_energy, self.mo_occ, strict=True), 1):
            log.note("MO #%-3d energy= %-18.15g occ= %g", k, energy, occupation)
        whole = self.mol is self._functions
        populations = self.mulliken_meta if with_meta_lowdin and whole else self.mulliken_pop
        dipole = None if self.prediction.basis.projected else self.dip_moment(origin=origin, verbose=log)
        return populations(verbose=log), dipole


def _restored(prediction: Prediction, verbose: int) -> PredictedMeanField:
    out = PredictedMeanField(prediction)
    out.verbose = verbose
    return out


def to_mean_field(prediction: Prediction) -> PredictedMeanField:
    """A PySCF mean-field object that holds a prediction and refuses what a prediction does not fix.

    Raises:
        UserError: PySCF is not installed, or the basis does not know its functions.
    """
    return PredictedMeanField(prediction)
