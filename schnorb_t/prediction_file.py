"""The file of predictions: HDF5, one group per structure. The format is written down in docs/predict.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py

import schnorb_t
from schnorb_t import units
from schnorb_t.errors import UserError
from schnorb_t.hdf5_stream import PatientFile
from schnorb_t.prediction import Prediction
from schnorb_t.training.checkpoint import ModelCard

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


def check_output(path: str | Path, inputs: list[Path], force: bool) -> Path:
    """Find out before any work whether a file can be written there.

    Raises:
        UserError: it is an input or a folder, its folder is missing or not writable, or it exists (without ``force``).
    """
    path = Path(path)
    if any(p.exists() and path.exists() and p.samefile(path) for p in inputs):
        raise UserError(f"{path}: is an input of this command; name another output")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: may not be written to; name another folder")
    if path.exists() and not force:
        raise UserError(f"{path}: exists; name another file, or overwrite it with --force")
    return path


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
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.count = 0
        try:
            self._stream = PatientFile(self.temporary)
        except OSError as error:
            raise self._refused(error) from None
        self._file = h5py.File(self._stream, "w")
        self._file.attrs.update(
            {
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
        )

    def add(self, index: int, prediction: Prediction) -> None:
        """Write one structure's group, called by its 0-based index in the file of structures."""
        group = self._file.create_group(f"{index:06d}")
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
        self._check(f"structure {index}")
        self.count += 1

    def skipped(self, lines: list[str]) -> None:
        """Note what was left out, one line each."""
        self._file.attrs["skipped"] = json.dumps(lines)

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self._file.attrs["n_structures"] = self.count
            self._file.close()
            self._stream.close()
            if kind is None:  # or the error that is on its way is the one to tell
                self._check("the end")
                os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._refused(error) from None
        finally:
            self.temporary.unlink(missing_ok=True)

    def _check(self, what: str) -> None:
        try:
            self._stream.check()
        except OSError as error:
            raise self._refused(error, f" at {what}") from None

    def _refused(self, error: OSError, where: str = "") -> UserError:
        return UserError(f"{self.path}: cannot be written{where} ({error.strerror}); make room, or write elsewhere")
