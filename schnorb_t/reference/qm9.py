"""QM9's fixed random order, splits and list of failed molecules; its files are read by ``schnorb_t.structures.qm9``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from schnorb_t.errors import UserError
from schnorb_t.structures.qm9 import (  # noqa: F401  (read here since the first version)
    PROPERTIES,
    QM9Molecule,
    parse_member,
    read,
    read_archive,
    read_members,
    read_table,
)
from schnorb_t.structures.structure import Structure


def split_of_rank(rank: int) -> str:
    """The fixed split of labelled QM9 molecules by their place in the random order of ``ranked``."""
    return "test" if rank < 60 else "val" if rank < 100 else "train"


def ranked(n: int) -> np.ndarray:
    """The fixed random order [n] in which molecules of the geometry table are labelled."""
    return np.random.default_rng(2026).permutation(n)


def read_uncharacterized(path: Path) -> set[int]:
    """Indices of the list of molecules that failed QM9's own consistency check (``uncharacterized.txt``).

    Rows begin with an index; lines with words in them are the list's explanations.

    Raises:
        UserError: no such file, or no index in it.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    prose = re.compile(r"\b(?![bcnops]+\b)[a-z]{3,}\b")  # lower-case words that are no aromatic SMILES
    rows = (re.match(r"\s*(\d+)\b", line) for line in lines if not prose.search(line))
    out = {int(row[1]) for row in rows if row}
    if not out:
        raise UserError(f"{path}: holds no index of a molecule; expected QM9's uncharacterized.txt")
    return out


def structures(path: Path, first_order: int = 0) -> list[Structure]:
    """All molecules as structures to label, in the file's order."""
    return [m.structure(str(path), first_order + i) for i, m in enumerate(read(path))]
