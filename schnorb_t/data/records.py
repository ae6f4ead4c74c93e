"""One labelled molecule, and its packed form: symmetric matrices as lower triangles, row by row.

What a record holds follows from ``keys.stored()``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from .. import keys
from ..basis import Basis
from ..errors import UserError

SPLITS = ("train", "val", "test")

#: Larger differences between a matrix and its transpose than this (Eh, or 1 for the overlap) are refused.
ASYMMETRY_LIMIT = 1e-6


class _Fields:
    """Attributes by the names of the declared fields; ``None`` where a molecule lacks an optional quantity."""

    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "values":  # while a copy is made
            raise AttributeError(name)
        if name in self.values:
            return self.values[name]
        if any(name == q.field for q in keys.stored()):
            return None
        raise AttributeError(f"a molecule has no {name!r}; declared are {', '.join(q.field for q in keys.stored())}")


@dataclasses.dataclass(frozen=True, init=False, eq=False)
class MoleculeRecord(_Fields):
    """One molecule with its labels, as the store holds it: ``MoleculeRecord(atomic_numbers=..., positions=..., ...)``.

    Takes every declared field (``keys.stored()``; docs/store.md lists them), by name or in the order of declaration;
    those not optional must be given. ``dataclasses.replace(record, split="test")`` makes a changed copy.

    Attributes:
        atomic_numbers: [n] int.
        positions: [n, 3] float64, Å.
        hamiltonian: [m, m] float64, Eh, our orbital order (``schnorb_t.basis``); optional.
        overlap: [m, m] float64; optional.
        large_basis_energies: [L] float64, Eh: orbital energies of the large-basis calculation, ascending, less those of
            a core that the basis leaves out (``Basis.core``); optional.
        total_energy: Eh, of the large-basis calculation; optional.
        n_electrons: those that the basis's orbitals hold, so without ``Basis.core``.
        name: unique in a file, e.g. ``"qm9:48036"`` or ``"g2/CH4/0"``.
        group: identity of the molecule; all geometries of one molecule share it.
        split: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        order: place in the input; a file is sorted by it.
        contraction: [M_large, m] float64, the projection A; optional.
        charge, n_unpaired: int: total charge (e) and unpaired electrons; optional.
        forces: [n, 3] float64, Eh/Bohr; optional.
        dipole: [3] float64, e*Bohr; optional.
        partial_charges: [n] float64, e; optional.

    Raises:
        TypeError: a field that is not declared, given twice, or missing.
    """

    values: Mapping[str, Any]

    def __init__(self, *positional: Any, values: Mapping[str, Any] | None = None, **named: Any):
        declared = keys.stored()
        merged = dict(values or {})
        if positional or named:
            merged |= self._arguments(positional, named)
        for q in declared:
            if merged.get(q.field) is None:
                merged.pop(q.field, None)
                if q.default is not None:
                    merged[q.field] = q.default
                elif not q.optional:
                    raise TypeError(f"a molecule needs {q.field}")
        object.__setattr__(self, "values", merged)

    @staticmethod
    def _arguments(positional: tuple, named: dict[str, Any]) -> dict[str, Any]:
        fields = [q.field for q in keys.stored()]
        if len(positional) > len(fields):
            raise TypeError(f"a molecule has {len(fields)} fields, got {len(positional)}")
        in_order = dict(zip(fields, positional, strict=False))
        if twice := in_order.keys() & named.keys():
            raise TypeError(f"{', '.join(sorted(twice))} given twice")
        if unknown := named.keys() - set(fields):
            raise TypeError(f"a molecule has no {', '.join(sorted(unknown))}; declared are {', '.join(fields)}")
        return in_order | named


@dataclasses.dataclass(frozen=True)
class PackedRecord(_Fields):
    """A ``MoleculeRecord`` as it lies on disk.

    Attributes:
        values: by field: numbers, texts, arrays; symmetric matrices are [m(m+1)/2] lower triangles, row by row. What
            the molecule lacks is not among them. Each is an attribute too, ``None`` if lacking.
        n_orbitals: m.
        asymmetries: max |X - X^T| before packing of each symmetric matrix, by field.
    """

    values: Mapping[str, Any]
    n_orbitals: int
    asymmetries: Mapping[str, float]


@lru_cache(maxsize=64)
def _triangle_of_square(m: int) -> np.ndarray:
    """Place of every element of an m x m symmetric matrix in its packed lower triangle, [m, m] int64."""
    row, column = np.divmod(np.arange(m * m), max(m, 1))
    low, high = np.minimum(row, column), np.maximum(row, column)
    return (high * (high + 1) // 2 + low).reshape(m, m)


@lru_cache(maxsize=64)
def _square_of_triangle(m: int) -> np.ndarray:
    """Flat place in an m x m matrix of every element of its packed lower triangle, [m(m+1)/2] int64."""
    row, column = np.tril_indices(m)
    return row * m + column


def pack_triangle(matrix: np.ndarray) -> np.ndarray:
    """Lower triangle row by row: [m, m] -> [m(m+1)/2]."""
    return np.ascontiguousarray(matrix).take(_square_of_triangle(len(matrix)))


def unpack_triangle(triangle: np.ndarray, m: int) -> np.ndarray:
    """Symmetric matrix from its lower triangle: [m(m+1)/2] -> [m, m]."""
    return triangle.take(_triangle_of_square(m))


def pack(record: MoleculeRecord, basis: Basis) -> PackedRecord:
    """Check a molecule's shapes, numbers and symmetry against declarations and basis, and pack it.

    Raises:
        UserError: naming the molecule and what is wrong with it.
    """

    def refuse(what: str):
        raise UserError(f"molecule {record.name!r} cannot be stored: {what}")

    z = np.asarray(record.atomic_numbers)
    _check_texts(record, refuse)
    if z.ndim != 1 or len(z) == 0 or not np.issubdtype(z.dtype, np.integer):
        refuse(f"atomic_numbers must be a non-empty list of integers, got {z!r}")
    if z.min() < 1 or z.max() > 118:
        refuse(f"atomic_numbers must lie in 1..118, got {z.tolist()}")
    try:
        m = int(basis.n_orbitals(z).sum())
    except KeyError as error:
        refuse(str(error.args[0]))
    values: dict[str, Any] = {}
    asymmetries: dict[str, float] = {}
    for q in keys.stored():
        value = record.values.get(q.field)
        if value is None:
            continue
        if q.dtype == "text":
            values[q.field] = value
        elif not q.record_axes:
            values[q.field] = _number(q, value, refuse)
        else:
            array = _array(q, value, q.record_shape(len(z), m), refuse)
            if q.symmetric:
                asymmetry = asymmetries[q.field] = float(np.abs(array - array.T).max())
                if asymmetry > ASYMMETRY_LIMIT:
                    refuse(f"{q.field} is not symmetric: it differs from its transpose by {asymmetry:.1e}")
                array = pack_triangle(array)
            values[q.field] = array
    packed = PackedRecord(values, m, asymmetries)
    if fault := electron_fault(packed, basis):
        refuse(fault)
    return packed


def electron_fault(packed: PackedRecord, basis: Basis) -> str | None:
    """What is wrong between the numbers of electrons, unpaired electrons and the total charge, as far as given."""
    n, charge, unpaired = packed.n_electrons, packed.charge, packed.n_unpaired
    if charge is not None and n != (neutral := int(basis.n_electrons(packed.atomic_numbers.astype(np.int64)))) - charge:
        return f"n_electrons is {n}, but charge {charge:+d} leaves {neutral - charge}"
    if unpaired is not None and (not 0 <= unpaired <= n or (n - unpaired) % 2):
        return f"{n} electrons cannot have {unpaired} unpaired"
    return None


def _check_texts(record: MoleculeRecord, refuse) -> None:
    for q in keys.stored():
        value = record.values.get(q.field)
        if q.dtype == "text" and value is not None and (not isinstance(value, str) or "\0" in value):
            refuse(f"{q.field} must be text without zero bytes, got {value!r}")
    if not record.name or not record.group:
        refuse("name and group must not be empty")
    if record.split not in ("", *SPLITS):
        refuse(f"split is {record.split!r}, expected one of {', '.join(SPLITS)} or nothing")


def _number(q: keys.Quantity, value: Any, refuse) -> int | float | bool:
    kind = {"float64": float, "int64": int, "bool": bool}[q.dtype]
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        refuse(f"{q.field} must be one number, got {value!r}")
    if not np.isfinite(number):
        refuse(f"{q.field} is {number}")
    if q.dtype == "int64" and number != value:
        refuse(f"{q.field} must be a whole number, got {value!r}")
    return number


def _array(q: keys.Quantity, value: Any, shape: tuple[int | None, ...], refuse) -> np.ndarray:
    try:
        array = np.asarray(value)
        if q.dtype == "float64":
            array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        refuse(f"{q.field} must be an array of numbers, got {value!r}")
    if array.ndim != len(shape) or any(s is not None and s != v for s, v in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        refuse(f"{q.field} has shape {list(array.shape)}, expected [{wanted}]")
    if q.dtype == "float64" and not np.isfinite(array).all():
        refuse(f"{q.field} holds NaN or infinity")
    typed = np.ascontiguousarray(array, dtype=np.dtype(q.stored_as))
    if q.dtype != "float64" and not np.array_equal(typed, array):
        refuse(f"{q.field} must hold {q.dtype} values, got {value!r}")
    return typed


def unpack(packed: PackedRecord) -> MoleculeRecord:
    """The way back from ``pack``, bitwise for symmetric matrices."""
    values = dict(packed.values)
    for q in keys.stored():
        value = values.get(q.field)
        if value is not None and q.symmetric:
            values[q.field] = unpack_triangle(value, packed.n_orbitals)
        elif isinstance(value, np.ndarray) and q.dtype == "int64":
            values[q.field] = value.astype(np.int64)
    return MoleculeRecord(values=values)
