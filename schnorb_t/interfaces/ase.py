"""ASE calculator: orbital energies, charges and dipole of a predicted molecule; no energy, no forces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from schnorb_t.basis import Basis
from schnorb_t.interfaces.ase_dftb import DFTB
from schnorb_t.physics.charges import lowdin_charges, lowdin_density
from schnorb_t.physics.dipole import atomic_dipoles, dipole_from_charges, onsite_position_integrals
from schnorb_t.prediction import Prediction
from schnorb_t.predictor import Predictor, load
from schnorb_t.structures import check_structure
from schnorb_t.units import BOHR, HARTREE, angstrom_to_bohr

__all__ = ["DFTB", "SchNOrbT", "dipole_moment", "results_of"]

#: Structures whose results a calculator keeps.
CACHE_SIZE = 10_000


@lru_cache(maxsize=8)
def _position_integrals(basis: Basis) -> torch.Tensor:
    return onsite_position_integrals(basis)


def dipole_moment(prediction: Prediction) -> np.ndarray:
    """[3], e*Å, an approximation from Löwdin charges (``schnorb_t.physics.dipole.dipole_from_charges``).

    In a fixed basis the on-site s-p terms of its functions are added; the exact dipole then comes from
    ``schnorb_t.interfaces.pyscf.to_mean_field(prediction).dip_moment()``. In a projected basis, whose integrals
    are not known, charges alone are nearest: for ``wqao`` predictions of eight polar molecules the mean error against
    B3LYP/def2-SVP was 0.10 e*Å of 0.46, with the free atoms' s-p terms 0.18, from Mulliken charges 0.46.
    """
    basis, z = prediction.basis, torch.from_numpy(prediction.atomic_numbers)
    atom = torch.from_numpy(np.repeat(np.arange(len(z)), basis.n_orbitals(prediction.atomic_numbers)))[None]
    density, overlap = (torch.from_numpy(x)[None] for x in (prediction.density, prediction.overlap))
    nuclei = torch.from_numpy(basis.nuclear_charges(prediction.atomic_numbers))
    charges, dipoles = lowdin_charges(density, overlap, atom, nuclei), None
    if basis.functions is not None and not basis.projected:
        slot = torch.from_numpy(np.concatenate([np.flatnonzero(basis.slot_mask_table[q]) for q in z.tolist()]))[None]
        dipoles = atomic_dipoles(lowdin_density(density, overlap), atom, slot, z, _position_integrals(basis))
    positions = angstrom_to_bohr(torch.from_numpy(prediction.positions - prediction.positions.mean(0)))
    return dipole_from_charges(charges, positions, torch.zeros_like(z), 1, dipoles)[0].numpy() * BOHR


def results_of(prediction: Prediction) -> dict[str, float | np.ndarray]:
    """A prediction in ASE's units: ``homo``, ``lumo``, ``gap`` (eV), ``orbital_energies`` [m] (eV, ascending),
    ``charges`` [n] (Mulliken, e), ``dipole`` [3] (e*Å, approximate: ``dipole_moment``); of a model that knows doubt
    also ``orbital_energy_spread`` [m] and ``doubt`` (eV)."""
    results: dict[str, float | np.ndarray] = {
        "homo": prediction.homo * HARTREE,
        "lumo": prediction.lumo * HARTREE,
        "gap": prediction.gap * HARTREE,
        "orbital_energies": prediction.orbital_energies * HARTREE,
        "charges": prediction.mulliken_charges,
        "dipole": dipole_moment(prediction),
    }
    if prediction.orbital_energy_spread is not None:
        results["orbital_energy_spread"] = prediction.orbital_energy_spread * HARTREE
        if prediction.doubt is not None:
            results["doubt"] = prediction.doubt
    return results


class SchNOrbT(Calculator):
    """``atoms.calc = SchNOrbT("best.ckpt")``; then ``atoms.get_charges()``, ``atoms.calc.get_property("homo", atoms)``.

    Properties are those of ``results_of``. Energy, forces and stress raise ``PropertyNotImplementedError``: the models
    predict Hamiltonian and overlap, which fix orbitals but not the total energy.

    Args:
        model: a ``Predictor``, the path of a checkpoint, or the name of a model that comes with the package.
        device: of a model that is loaded here; see ``schnorb_t.load``.
        cache_size: structures whose results are kept, so that one seen before costs nothing.

    Raises:
        UserError: no such model; later, a structure that the model cannot treat.
    """

    implemented_properties = ["homo", "lumo", "gap", "orbital_energies", "charges", "dipole"]

    def __init__(self, model: Predictor | str | Path, device: str | None = None, cache_size: int = CACHE_SIZE):
        super().__init__()
        self.predictor = model if isinstance(model, Predictor) else load(model, device)
        if self.predictor.knows_doubt:
            self.implemented_properties = [*self.implemented_properties, "orbital_energy_spread", "doubt"]
        self.cache_size = cache_size
        self._cache: OrderedDict[bytes, dict[str, float | np.ndarray]] = OrderedDict()

    def get_property(self, name, atoms=None, allow_calculation=True):
        """As ``Calculator.get_property``, with a message that says what is missing."""
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"{name!r} is not available: the model predicts Hamiltonian and overlap, not energies or forces; "
                f"there are {', '.join(self.implemented_properties)}"
            )
        if atoms is not None:  # ASE does not look at info["charge"] when it decides whether anything changed
            check_structure(atoms, self.predictor.basis.elements)
        return super().get_property(name, atoms, allow_calculation)

    def calculate(self, atoms=None, properties=("homo",), system_changes=tuple(all_changes)):
        """Predict one structure, or take its results from the cache."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # the line above sets it
        self.results = self.calculate_trajectory([self.atoms])[0]

    def calculate_trajectory(
        self, images: Sequence[Atoms], batch_size: int | None = None
    ) -> list[dict[str, float | np.ndarray]]:
        """Results of many structures, of any size and composition, predicted in batches.

        Args:
            images: structures; those in the cache or there twice are predicted once.
            batch_size: structures at once; by default by their size.

        Returns:
            one dictionary per image (``results_of``), in input order.

        Raises:
            UserError: a structure that the model cannot treat, before any work.
        """
        images = list(images)
        for index, atoms in enumerate(images):
            check_structure(atoms, self.predictor.basis.elements, index)
        names = [_fingerprint(atoms) for atoms in images]
        found = {name: self._cache[name] for name in names if name in self._cache}
        missing = {name: k for k, name in enumerate(names) if name not in found}
        places = list(missing.values())
        for batch in self.predictor.predict_batches([images[k] for k in places], batch_size, places):
            for place, prediction in batch:
                found[names[place]] = results_of(prediction)
        for name in names:
            self._cache[name] = found[name]
            self._cache.move_to_end(name)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return [_copy(found[name]) for name in names]


def _fingerprint(atoms: Atoms) -> bytes:
    return atoms.numbers.astype(np.int64).tobytes() + atoms.positions.astype(np.float64).tobytes()


def _copy(results: dict[str, float | np.ndarray]) -> dict[str, float | np.ndarray]:
    """So that nobody writes into the cache."""
    return {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in results.items()}
