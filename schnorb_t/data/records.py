"""One labelled molecule, and its packed form: symmetric matrices as lower triangles, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..basis import Basis
from ..errors import UserError

SPLITS = ("train", "val", "test")

#: Larger differences between a matrix and its transpose than this (Eh, or 1 for the overlap) are refused.
ASYMMETRY_LIMIT = 1e-6


@dataclass(frozen=True)
class MoleculeRecord:
    """One molecule with its labels, as the store holds it.

    Attributes:
        atomic_numbers: [n] int.
        positions: [n, 3] float64, Å.
        hamiltonian: [m, m] float64, Eh, our orbital order (``schnorb_t.basis``).
        overlap: [m, m] float64.
        large_basis_energies: [L] float64, Eh: orbital energies of the large-basis calculation, ascending, less those of
            a core that the basis leaves out (``Basis.core``).
        total_energy: Eh, of the large-basis calculation.
        n_electrons: those that the basis's orbitals hold, so without ``Basis.core``.
        name: unique in a file, e.g. ``"qm9:48036"`` or ``"g2/CH4/0"``.
        group: identity of the molecule; all geometries of one molecule share it.
        split: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        order: place in the input; a file is sorted by it.
        contraction: [M_large, m] float64, the projection A, if kept.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    hamiltonian: np.ndarray
    overlap: np.ndarray
    large_basis_energies: np.ndarray
    total_energy: float
    n_electrons: int
    name: str
    group: str
    split: str = ""
    order: int = 0
    contraction: np.ndarray | None = None


@dataclass(frozen=True)
class PackedRecord:
    """A ``MoleculeRecord`` as it lies on disk.

    Attributes:
        hamiltonian, overlap: [m(m+1)/2] lower triangles, row by row.
        hamiltonian_asymmetry, overlap_asymmetry: max |X - X^T| before packing.
        contraction: [M_large, m]; M_large is 0 if none is kept.
        others: as in ``MoleculeRecord``.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    hamiltonian: np.ndarray
    overlap: np.ndarray
    large_basis_energies: np.ndarray
    contraction: np.ndarray
    total_energy: float
    n_electrons: int
    name: str
    group: str
    split: str
    order: int
    hamiltonian_asymmetry: float
    overlap_asymmetry: float


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
    """Check a molecule's shapes, numbers and symmetry against the basis, and pack it.

    Raises:
        UserError: naming the molecule and what is wrong with it.
    """

    def refuse(what: str):
        raise UserError(f"molecule {record.name!r} cannot be stored: {what}")

    def array(name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        value = np.ascontiguousarray(getattr(record, name), dtype=np.float64)
        if value.ndim != len(shape) or any(s is not None and s != v for s, v in zip(shape, value.shape, strict=True)):
            wanted = ", ".join("any" if s is None else str(s) for s in shape)
            refuse(f"{name} has shape {list(value.shape)}, expected [{wanted}]")
        if not np.isfinite(value).all():
            refuse(f"{name} holds NaN or infinity")
        return value

    for text in ("name", "group", "split"):
        value = getattr(record, text)
        if not isinstance(value, str) or "\0" in value:
            refuse(f"{text} must be text without zero bytes, got {value!r}")
    if not record.name or not record.group:
        refuse("name and group must not be empty")
    if record.split not in ("", *SPLITS):
        refuse(f"split is {record.split!r}, expected one of {', '.join(SPLITS)} or nothing")
    z = np.asarray(record.atomic_numbers)
    if z.ndim != 1 or len(z) == 0 or not np.issubdtype(z.dtype, np.integer):
        refuse(f"atomic_numbers must be a non-empty list of integers, got {z!r}")
    if z.min() < 1 or z.max() > 118:
        refuse(f"atomic_numbers must lie in 1..118, got {z.tolist()}")
    try:
        m = int(basis.n_orbitals(z).sum())
    except KeyError as error:
        refuse(str(error.args[0]))
    matrices = {name: array(name, (m, m)) for name in ("hamiltonian", "overlap")}
    asymmetry = {name: float(np.abs(x - x.T).max()) for name, x in matrices.items()}
    for name, value in asymmetry.items():
        if value > ASYMMETRY_LIMIT:
            refuse(f"{name} is not symmetric: it differs from its transpose by {value:.1e}")
    if not np.isfinite(record.total_energy):
        refuse(f"total_energy is {record.total_energy}")
    contraction = np.zeros((0, m)) if record.contraction is None else array("contraction", (None, m))
    return PackedRecord(
        atomic_numbers=z.astype(np.uint8),
        positions=array("positions", (len(z), 3)),
        hamiltonian=pack_triangle(matrices["hamiltonian"]),
        overlap=pack_triangle(matrices["overlap"]),
        large_basis_energies=array("large_basis_energies", (None,)),
        contraction=contraction,
        total_energy=float(record.total_energy),
        n_electrons=int(record.n_electrons),
        name=record.name,
        group=record.group,
        split=record.split,
        order=int(record.order),
        hamiltonian_asymmetry=asymmetry["hamiltonian"],
        overlap_asymmetry=asymmetry["overlap"],
    )


def unpack(packed: PackedRecord) -> MoleculeRecord:
    """The way back from ``pack``, bitwise for symmetric matrices."""
    m = packed.contraction.shape[1]
    return MoleculeRecord(
        atomic_numbers=packed.atomic_numbers.astype(np.int64),
        positions=packed.positions,
        hamiltonian=unpack_triangle(packed.hamiltonian, m),
        overlap=unpack_triangle(packed.overlap, m),
        large_basis_energies=packed.large_basis_energies,
        total_energy=packed.total_energy,
        n_electrons=packed.n_electrons,
        name=packed.name,
        group=packed.group,
        split=packed.split,
        order=packed.order,
        contraction=packed.contraction if len(packed.contraction) else None,
    )
