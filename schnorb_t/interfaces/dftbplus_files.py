"""DFTB+'s files of square matrices, ``hamsqr1.dat`` and ``oversqr.dat``, and its gen format of structures.

DFTB+ writes the matrices with ``Options { WriteHS = Yes }`` and never reads them; tools around it do (transport,
plotting). Its orbital order is ours. Numbers are Fortran's ES24.15, Eh, one row of the matrix a line.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.errors import UserError
from schnorb_t.files import write_text
from schnorb_t.prediction import Prediction

HAMILTONIAN_FILE = "hamsqr1.dat"
OVERLAP_FILE = "oversqr.dat"
STRUCTURE_FILE = "geometry.gen"
#: Fortran leaves the letter out of exponents with three digits: 1.0-100
_BARE_EXPONENT = re.compile(r"(?<=\d)([+-]\d{3})$")


def _es24_15(value: float) -> str:
    """Fortran's ES24.15."""
    text = f"{value:.15E}"
    mantissa, exponent = text.split("E")
    return (mantissa + exponent if len(exponent) > 3 else text).rjust(24)


def square_matrix_text(matrix: np.ndarray) -> str:
    """A real symmetric matrix [m, m] as DFTB+ writes it.

    Raises:
        ValueError: not square, or not finite.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"a finite square matrix is needed, got shape {matrix.shape}")
    head = [
        "#" + "".join(word.rjust(10) for word in ("REAL", "NALLORB", "NKPOINT")),
        " " + "T".rjust(10) + f"{len(matrix):10d}{1:10d}",
        "#" + "IKPOINT".rjust(10),
        f" {1:10d}",
        "# MATRIX",
    ]
    return "\n".join(head + ["".join(map(_es24_15, row)) for row in matrix.tolist()]) + "\n"


def write_square_matrix(path: str | Path, matrix: np.ndarray) -> None:
    """``square_matrix_text`` of a matrix [m, m] into a file.

    Raises:
        ValueError: not square, or not finite.
        UserError: the disk refuses.
    """
    write_text(path, square_matrix_text(matrix))


def read_square_matrix(path: str | Path) -> np.ndarray:
    """[m, m] float64 of a ``hamsqr1.dat`` or ``oversqr.dat``; Eh or dimensionless, our orbital order.

    Raises:
        UserError: missing, malformed, complex or with several k-points; names the file and the line.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a matrix of DFTB+ ({error})") from None
    head = lines[1].split() if len(lines) > 1 else []
    if not lines or lines[0].split() != ["#", "REAL", "NALLORB", "NKPOINT"] or len(head) != 3:
        raise UserError(f"{path}: does not begin like a matrix that DFTB+ wrote (# REAL NALLORB NKPOINT)")
    if head[0] != "T" or head[2] != "1":
        raise UserError(f"{path}: complex or several k-points; only matrices of molecules can be read")
    try:
        m = int(head[1])
        rows = [[float(_BARE_EXPONENT.sub(r"E\1", x)) for x in line.split()] for line in lines[5 : 5 + m]]
    except ValueError as error:
        raise UserError(f"{path}: {error}; is the file damaged?") from None
    if len(rows) != m or any(len(row) != m for row in rows):
        bad = next((k for k, row in enumerate(rows) if len(row) != m), len(rows))
        raise UserError(f"{path}, line {6 + bad}: expected {m} rows of {m} numbers; is the file complete?")
    return np.array(rows).reshape(m, m)


def gen_text(atomic_numbers: np.ndarray, positions: np.ndarray) -> str:
    """A molecule in DFTB+'s gen format; ``positions`` [n, 3] in Å."""
    z = [int(q) for q in atomic_numbers]
    kinds = list(dict.fromkeys(z))
    lines = [f"{len(z):5d}  C", " " + " ".join(chemical_symbols[q] for q in kinds)]
    for k, (q, r) in enumerate(zip(z, np.asarray(positions).tolist(), strict=True), 1):
        lines.append(f"{k:5d} {kinds.index(q) + 1:2d} " + " ".join(f"{x:19.12f}" for x in r))
    return "\n".join(lines) + "\n"


def write_dftbplus(folder: str | Path, prediction: Prediction) -> None:
    """``hamsqr1.dat``, ``oversqr.dat`` and ``geometry.gen`` of one prediction; the folder is made if it is not there.

    Raises:
        UserError: the disk refuses.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error})") from None
    write_text(folder / STRUCTURE_FILE, gen_text(prediction.atomic_numbers, prediction.positions))
    write_square_matrix(folder / OVERLAP_FILE, prediction.overlap)
    write_square_matrix(folder / HAMILTONIAN_FILE, prediction.hamiltonian)
