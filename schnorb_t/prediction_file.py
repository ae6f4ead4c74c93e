"""The file of predictions: HDF5, one group per structure. The format is written down in docs/predict.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

from schnorb_t import __version__, keys, units
from schnorb_t.errors import UserError, brief, uninterrupted
from schnorb_t.files import check_output
from schnorb_t.hdf5 import HDF5Output
from schnorb_t.prediction import Prediction
from schnorb_t.sparse_prediction import SparsePrediction
from schnorb_t.training.checkpoint import ModelCard

__all__ = ["PredictionWriter", "check_output"]

FORMAT = "schnorb_t predictions"
#: 3: matrices of large molecules are sparse, and they have charges in place of levels.
#: 2: any declared quantity, each dataset with its unit. 1: without.
FORMAT_VERSION = 3
ORBITAL_ORDER = (
    "atoms in input order; within an atom shells by l, then as the basis lists them; within a shell m = -l..l of "
    "standard real spherical harmonics (p: y, z, x; d: xy, yz, z2, xz, x2-y2)"
)


def predicted() -> list[keys.Quantity]:
    """What a file of predictions holds of each structure, as far as the model gives it."""
    return [q for q in keys.KEYS.values() if q.predicted]


def _plain_unit(quantity: keys.Quantity) -> str:
    return {"Å": "Angstrom", "": "1"}.get(quantity.unit, quantity.unit)


def units_of_file() -> dict[str, str]:
    """Units of datasets and group attributes."""
    return {q.field: _plain_unit(q) for q in predicted() if q.dtype == "float64"} | {"homo": "Eh", "lumo": "Eh"}


class PredictionWriter:
    """Writes predictions one by one; the file appears, whole, when the ``with`` block ends without an error.

    Args:
        path: of the file; one that exists is replaced at the end.
        card: of the model.
        model: path or name of the model.
        source: file of the structures.
        more: further attributes of the file.

    Raises:
        UserError: the disk refuses.
    """

    def __init__(
        self, path: str | Path, card: ModelCard, model: str, source: str, more: Mapping[str, str] | None = None
    ):
        self.path = Path(path)
        self.count = 0
        self._output = HDF5Output(path)
        self._attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "schnorb_t_version": __version__,
            "model": model,
            "structures": source,
            "target": card.target,
            "level_of_theory": json.dumps(card.level),
            "basis": card.basis.to_json(),
            "orbital_order": ORBITAL_ORDER,
            "units": json.dumps(units_of_file()),
            "hartree_in_ev": units.HARTREE,
            **(more or {}),
        }

    def add(self, index: int, prediction: Prediction | SparsePrediction) -> None:
        """Write one structure's group, called by its 0-based index in the file of structures.

        Raises:
            UserError: the disk refuses.
        """
        with uninterrupted():
            self._add(index, prediction)
        self._output.check()
        self.count += 1

    def _add(self, index: int, prediction: Prediction | SparsePrediction) -> None:
        group = self._output.file.create_group(f"{index:06d}")
        for q in predicted():
            value: Any = prediction.properties.get(q.field, getattr(prediction, q.field, None))
            if scipy.sparse.issparse(value):
                part = group.create_group(q.field)
                part.attrs.update({"unit": _plain_unit(q), "sparse": "csr", "shape": value.shape})
                for name in ("data", "indices", "indptr"):
                    part.create_dataset(name, data=getattr(value, name), compression="gzip", shuffle=True)
            elif value is not None:
                group.create_dataset(q.field, data=value).attrs["unit"] = _plain_unit(q)
        if isinstance(prediction, SparsePrediction):
            group.create_dataset("mulliken_charges", data=prediction.mulliken_charges).attrs["unit"] = "e"
        group.attrs.update(
            {
                "index": index,
                "name": prediction.name,
                "formula": prediction.formula,
                "charge": prediction.charge,
                "n_electrons": prediction.n_electrons,
                "homo": prediction.homo,
                "lumo": prediction.lumo,
                **({} if prediction.doubt is None else {"doubt_ev": prediction.doubt}),
            }
        )

    def skipped(self, lines: list[str]) -> None:
        """Note what was left out, one line each."""
        with uninterrupted():
            self._output.file.attrs["skipped"] = json.dumps(lines)

    def __enter__(self) -> PredictionWriter:
        with ExitStack() as stack:  # removes what was begun if the block does not come to its end
            stack.enter_context(self._output)
            with uninterrupted():
                self._output.file.attrs.update(self._attributes)
            stack.pop_all()
        return self

    def __exit__(self, kind, *error) -> None:
        if kind is None:
            with uninterrupted():
                self._output.file.attrs["n_structures"] = self.count
        self._output.__exit__(kind, *error)


def _read(data: h5py.Dataset | h5py.Group) -> np.ndarray | scipy.sparse.csr_array:
    if isinstance(data, h5py.Dataset):
        return data[()]
    parts = tuple(data[name][()] for name in ("data", "indices", "indptr"))
    return scipy.sparse.csr_array(parts, shape=tuple(int(n) for n in data.attrs["shape"]))


def is_predictions(path: str | Path) -> bool:
    """Whether a file holds predictions; False of what cannot be read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return file.attrs.get("format") == FORMAT
    except (OSError, RuntimeError):
        return False


def read_predictions(path: str | Path) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Structures of a file of predictions of any format, one by one.

    Yields:
        index in the file of structures, and by name its datasets (sparse matrices as SciPy's CSR) and its group's
        attributes (docs/predict.md).

    Raises:
        UserError: no such file, not one of predictions, of a newer format, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT:
                raise UserError(f"{path}: holds no predictions of schnorb_t predict")
            version = int(file.attrs["format_version"])
            if version > FORMAT_VERSION:
                raise UserError(f"{path}: format {version} is newer than this package's {FORMAT_VERSION}; update it")
            for group in file.values():
                attributes = dict(group.attrs)
                yield int(attributes["index"]), attributes | {name: _read(data) for name, data in group.items()}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = f"cannot be read ({brief(error)})"
        raise UserError(f"{path}: {reason}; the file is damaged or of another kind, copy or write it again") from None
