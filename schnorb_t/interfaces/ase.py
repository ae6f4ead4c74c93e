"""ASE calculator: orbital energies, charges, dipole of a predicted molecule; energy and forces of models of these."""

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
from schnorb_t.energy_predictor import EnergyPredictor
from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.interfaces.ase_dftb import DFTB
from schnorb_t.nn.base import EnergyNetwork, MatrixNetwork
from schnorb_t.physics.charges import lowdin_charges, lowdin_density
from schnorb_t.physics.dipole import atomic_dipoles, dipole_from_charges, onsite_position_integrals
from schnorb_t.prediction import Prediction
from schnorb_t.predictor import Predictor
from schnorb_t.sparse_prediction import SparsePrediction
from schnorb_t.structures import NEUTRAL, as_structure, check_structure
from schnorb_t.training.checkpoint import find_model, load_network
from schnorb_t.units import BOHR, HARTREE, angstrom_to_bohr

__all__ = ["DFTB", "SchNOrbT", "Stopped", "dipole_moment", "results_of"]

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
    Of an ion it is about the mean of the positions.
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


def results_of(prediction: Prediction | SparsePrediction) -> dict[str, float | np.ndarray]:
    """A prediction in ASE's units: ``homo``, ``lumo``, ``gap`` (eV), ``orbital_energies`` [m] (eV, ascending),
    ``charges`` [n] (Mulliken, e), ``dipole`` [3] (e*Å, approximate: ``dipole_moment``); of a model that knows doubt
    also ``orbital_energy_spread`` [m] and ``doubt`` (eV); of a large molecule only the first three and the charges."""
    results: dict[str, float | np.ndarray] = {
        "homo": prediction.homo * HARTREE,
        "lumo": prediction.lumo * HARTREE,
        "gap": prediction.gap * HARTREE,
        "charges": prediction.mulliken_charges,
    }
    if isinstance(prediction, SparsePrediction):
        return results
    results |= {"orbital_energies": prediction.orbital_energies * HARTREE, "dipole": dipole_moment(prediction)}
    if prediction.orbital_energy_spread is not None:
        results["orbital_energy_spread"] = prediction.orbital_energy_spread * HARTREE
        if prediction.doubt is not None:
            results["doubt"] = prediction.doubt
    return results


class Stopped(UserError):
    """A structure that the model of orbitals doubts more than it may.

    Attributes:
        atoms: the structure.
        doubt: eV.
    """

    def __init__(self, message: str, atoms: Atoms, doubt: float):
        super().__init__(message)
        self.atoms, self.doubt = atoms, doubt


class SchNOrbT(Calculator):
    """``atoms.calc = SchNOrbT("organic", energies="best.ckpt")``: orbitals by one model, energy and forces by another.

    Of a model of matrices properties are those of ``results_of``; of a model of energies (``schnorb_t fit --config
    forces``) ``energy``, ``free_energy`` (the same, eV) and ``forces`` (eV/Å), with which ASE's optimisers, NEB,
    vibrations and dynamics work. What no model gives raises ``PropertyNotImplementedError``.

    Args:
        model: of matrices or of energies: a ``Predictor`` or ``EnergyPredictor``, the path of a checkpoint, or the name
            of a model that comes with the package.
        device: of a model that is loaded here; see ``schnorb_t.load``.
        cache_size: structures whose results are kept, so that one seen before costs nothing.
        energies: a model of energies beside one of matrices.
        stop_above: eV; a structure whose ``doubt`` (the model of matrices must know it) is larger raises ``Stopped``,
            which ends optimisation or dynamics.
        stopped_frame: extended xyz file that such a structure is written to.
        dtype: of models that are loaded here. Vibrations and tight optimisations want ``torch.float64``.

    Raises:
        UserError: no such model; ``stop_above`` with a model without doubt; later, a structure that the model cannot
            treat.
    """

    implemented_properties = ["homo", "lumo", "gap", "orbital_energies", "charges", "dipole"]
    ENERGIES = ("energy", "free_energy", "forces")

    def __init__(
        self,
        model: Predictor | EnergyPredictor | str | Path,
        device: str | None = None,
        cache_size: int = CACHE_SIZE,
        energies: EnergyPredictor | str | Path | None = None,
        stop_above: float | None = None,
        stopped_frame: str | Path = "stopped.extxyz",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        found = _opened(model, device, dtype)
        self.predictor = found if isinstance(found, Predictor) else None
        self.energies = found if isinstance(found, EnergyPredictor) else None
        if energies is not None:
            if self.energies is not None:
                raise UserError(f"{model}: a model of energies already; give one of matrices beside it, or it alone")
            beside = _opened(energies, device, dtype)
            if not isinstance(beside, EnergyPredictor):
                raise UserError(f"{energies}: predicts matrices; energies= takes a model of energies and forces")
            self.energies = beside
        names = [*SchNOrbT.implemented_properties] if self.predictor is not None else []
        if self.predictor is not None and self.predictor.knows_doubt:
            names += ["orbital_energy_spread", "doubt"]
        if self.energies is not None:
            names += self.ENERGIES
        if stop_above is not None and "doubt" not in names:
            raise UserError("stop_above: the model tells no doubt; give one that does, such as organic")
        self.implemented_properties = names
        self.stop_above, self.stopped_frame = stop_above, Path(stopped_frame)
        self.cache_size = cache_size
        self._cache: OrderedDict[bytes, dict[str, float | np.ndarray]] = OrderedDict()

    def get_property(self, name, atoms=None, allow_calculation=True):
        """As ``Calculator.get_property``, with a message that says what is missing."""
        if name not in self.implemented_properties:
            what = "Hamiltonian and overlap, not energies or forces" if self.energies is None else "no such property"
            raise PropertyNotImplementedError(
                f"{name!r} is not available: the model predicts {what}; "
                f"there are {', '.join(self.implemented_properties)}"
            )
        if atoms is not None:  # ASE does not look at info["charge"] when it decides whether anything changed
            self._check(atoms, 0)
            if self.atoms is not None and as_structure(atoms).charge != as_structure(self.atoms).charge:
                self.reset()
        return super().get_property(name, atoms, allow_calculation)

    def _check(self, atoms: Atoms, index: int) -> None:
        for model in (self.predictor, self.energies):
            if model is not None:
                charges = model.charges if isinstance(model, Predictor) else NEUTRAL
                check_structure(atoms, model.basis.elements, index, charges=charges)

    def calculate(self, atoms=None, properties=("homo",), system_changes=tuple(all_changes)):
        """Predict one structure, or take its results from the cache; orbitals only where they are asked for.

        Raises:
            Stopped: its doubt is beyond ``stop_above``; it is in ``stopped_frame``.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # the line above sets it
        wanted = set(properties)
        orbitals = self.stop_above is not None or not wanted <= {*self.ENERGIES}
        energies = self.energies is not None and bool(wanted & {*self.ENERGIES})
        self.results = {**self.results, **self._results([self.atoms], None, orbitals, energies)[0]}
        doubt = self.results.get("doubt")
        if self.stop_above is not None and doubt is not None and not doubt <= self.stop_above:
            frame = self.atoms.copy()
            frame.info["doubt"] = doubt
            write_frame(self.stopped_frame, frame)
            raise Stopped(
                f"{frame.get_chemical_formula()}: doubt {doubt:.3f} eV is beyond stop_above, {self.stop_above:g} eV; "
                f"the structure is in {self.stopped_frame}",
                frame,
                float(doubt),
            )

    def calculate_trajectory(
        self, images: Sequence[Atoms], batch_size: int | None = None
    ) -> list[dict[str, float | np.ndarray]]:
        """Results of many structures, of any size and composition, predicted in batches.

        Args:
            images: structures; those in the cache or there twice are predicted once.
            batch_size: structures at once; by default by their size.

        Returns:
            one dictionary per image (``results_of``; ``energy``, ``free_energy`` and ``forces``), in input order.

        Raises:
            UserError: a structure that the model cannot treat, before any work.
        """
        return self._results(list(images), batch_size, self.predictor is not None, self.energies is not None)

    def _results(
        self, images: list[Atoms], batch_size: int | None, orbitals: bool, energies: bool
    ) -> list[dict[str, float | np.ndarray]]:
        for index, atoms in enumerate(images):
            self._check(atoms, index)
        names = [_fingerprint(atoms) for atoms in images]
        found = {name: self._cache.get(name, {}) for name in names}

        def missing(key: str) -> dict[bytes, int]:
            return {name: k for k, name in enumerate(names) if key not in found[name]}

        if orbitals and self.predictor is not None and (wanted := missing("homo")):
            places = list(wanted.values())
            for batch in self.predictor.predict_batches([images[k] for k in places], batch_size, places):
                for place, prediction in batch:
                    found[names[place]] = {**found[names[place]], **results_of(prediction)}
        if energies and self.energies is not None and (wanted := missing("energy")):
            predictions = self.energies.predict([images[k] for k in wanted.values()], batch_size, checked=True)
            for name, p in zip(wanted, predictions, strict=True):
                energy, forces = p.energy * HARTREE, p.forces * (HARTREE / BOHR)
                found[name] = {**found[name], "energy": energy, "free_energy": energy, "forces": forces}
        for name in names:
            self._cache[name] = found[name]
            self._cache.move_to_end(name)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return [_copy(found[name]) for name in names]


def _opened(
    model: Predictor | EnergyPredictor | str | Path, device: str | None, dtype: torch.dtype
) -> Predictor | EnergyPredictor:
    """A model of either kind, loaded where it is a file or a name."""
    if isinstance(model, Predictor | EnergyPredictor):
        return model
    path = find_model(model)
    network, card = load_network(path)
    if isinstance(network, EnergyNetwork):
        return EnergyPredictor(network, card, device, dtype)
    assert isinstance(network, MatrixNetwork)  # there are no others
    return Predictor(network, card, device=device, dtype=dtype, name=path.stem)


def write_frame(path: Path, atoms: Atoms) -> None:
    """One structure as extended xyz; the file appears whole."""
    from ase.io import write

    with atomic_write(path) as temporary:
        write(str(temporary), atoms, format="extxyz")


def _fingerprint(atoms: Atoms) -> bytes:
    charge = as_structure(atoms).charge
    return (
        f"{charge}:".encode() + atoms.numbers.astype(np.int64).tobytes() + atoms.positions.astype(np.float64).tobytes()
    )


def _copy(results: dict[str, float | np.ndarray]) -> dict[str, float | np.ndarray]:
    """So that nobody writes into the cache."""
    return {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in results.items()}
