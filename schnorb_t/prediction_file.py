"""The file of predictions: HDF5, one group per structure. The format is written down in docs/predict.md."""

from __future__ import annotations

import json
from pathlib import Path

import schnorb_t
from schnorb_t import units
from schnorb_t.files import check_output
from schnorb_t.hdf5 import HDF5Output
from schnorb_t.prediction import Prediction
from schnorb_t.training.checkpoint import ModelCard

__all__ = ["PredictionWriter", "check_output"]

FORMAT = "schnorb_t predictions"
FORMAT_VERSION = 1
#: Of the datasets and group attributes.
UNITS = {"positions": "Angstrom", "hamiltonian": "Eh", "overlap": "1", "orbital_energies": "Eh", "homo": "Eh"} | {
    "lumo": "Eh",
    "orbital_energy_spread": "Eh",
}
ORBITAL_ORDER = (
    "atoms in input order; within an atom shells by l, then as the basis lists them; within a shell m = -l..l of "
    "standard real spherical harmonics (p: y, z, x; d: xy, yz, z2, xz, x2-y2)"
)


class PredictionWriter:
    """Writes predictions one by one; the file appears, whole, when the ``with`` block ends without an error.

    Args:
        path: of the file; one that exists is replaced at the end.
        card: of the model.
        model: path or name of the model.
        source: file of the structures.

    Raises:
        UserError: the disk refuses.
    """

    def __init__(self, path: str | Path, card: ModelCard, model: str, source: str):
        self.path = Path(path)
        self.count = 0
        self._output = HDF5Output(path)
        self._attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "schnorb_t_version": schnorb_t.__version__,
            "model": model,
            "structures": source,
            "target": card.target,
            "level_of_theory": json.dumps(card.level),
            "basis": card.basis.to_json(),
            "orbital_order": ORBITAL_ORDER,
            "units": json.dumps(UNITS),
            "hartree_in_ev": units.HARTREE,
        }

    def add(self, index: int, prediction: Prediction) -> None:
        """Write one structure's group, called by its 0-based index in the file of structures.

        Raises:
            UserError: the disk refuses.
        """
        group = self._output.file.create_group(f"{index:06d}")
        for name in ("atomic_numbers", "positions", "hamiltonian", "overlap", "orbital_energies"):
            group.create_dataset(name, data=getattr(prediction, name))
        if prediction.orbital_energy_spread is not None:
            group.create_dataset("orbital_energy_spread", data=prediction.orbital_energy_spread)
        group.attrs.update(
            {
                "index": index,
                "name": prediction.name,
                "formula": prediction.formula,
                "n_electrons": prediction.n_electrons,
                "homo": prediction.homo,
                "lumo": prediction.lumo,
            }
        )
        self._output.check()
        self.count += 1

    def skipped(self, lines: list[str]) -> None:
        """Note what was left out, one line each."""
        self._output.file.attrs["skipped"] = json.dumps(lines)

    def __enter__(self) -> PredictionWriter:
        self._output.__enter__()
        self._output.file.attrs.update(self._attributes)
        return self

    def __exit__(self, kind, *error) -> None:
        if kind is None:
            self._output.file.attrs["n_structures"] = self.count
        self._output.__exit__(kind, *error)
