"""QM9 as published (``dsgdb9nsd.xyz.tar.bz2``), read without unpacking, and its compressed geometry table.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014). A member ``dsgdb9nsd_NNNNNN.xyz`` has

    number of atoms n
    gdb INDEX and 15 properties
    n lines: element, x, y, z (Å), Mulliken charge (e)
    3n-6 harmonic frequencies (3n-5 if linear), cm^-1
    SMILES of GDB-17 and of the relaxed geometry
    InChI of both

with exponents written ``*^`` where a program of Wolfram's wrote them.
"""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers as number_of

from schnorb_t.errors import UserError

from .structure import Structure

#: The 15 properties in their order, with units.
PROPERTIES = {
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
    "mu": "Debye",
    "alpha": "Bohr^3",
    "homo": "Eh",
    "lumo": "Eh",
    "gap": "Eh",
    "r2": "Bohr^2",
    "zpve": "Eh",
    "U0": "Eh",
    "U": "Eh",
    "H": "Eh",
    "G": "Eh",
    "Cv": "cal/(mol K)",
}
_MEMBER = re.compile(r"(?:.*/)?dsgdb9nsd_(\d{6})\.xyz")
UNPACK_AGAIN = "the file is damaged, unpack it again"
_POSITION_UNIT = 1e-5  # Å, of the geometry table


@dataclass(frozen=True)
class QM9Molecule:
    """One molecule of QM9.

    Attributes:
        index: 1..133885.
        atomic_numbers: [n] int64.
        positions: [n, 3] float64, Å.
        properties: see ``PROPERTIES``; empty from the geometry table.
        charges: [n] Mulliken charges, e, or ``None``.
        frequencies: cm^-1, or ``None``.
        smiles: of GDB-17, ``""`` if unknown.
        smiles_relaxed: perceived from the relaxed geometry.
    """

    index: int
    atomic_numbers: np.ndarray
    positions: np.ndarray
    properties: dict[str, float]
    charges: np.ndarray | None = None
    frequencies: np.ndarray | None = None
    smiles: str = ""
    smiles_relaxed: str = ""

    @property
    def name(self) -> str:
        """``"qm9:INDEX"``: the name and the group of its structure."""
        return f"qm9:{self.index}"

    def structure(self, file: str = "", place: int = 0) -> Structure:
        """As the package takes molecules in; ``place`` is its place in ``file``."""
        return Structure(self.atomic_numbers, self.positions, self.name, self.name, order=place, file=file, index=place)


def _float(text: str) -> float:
    return float(text.replace("*^", "e"))


def parse_member(text: str, name: str, remedy: str = "the archive is damaged, download it again") -> QM9Molecule:
    """One member of the archive, packed or unpacked.

    Args:
        text: its content.
        name: its name, for messages and for the check of its index.
        remedy: for messages.

    Raises:
        UserError: naming the member and what is wrong in which line.
    """

    def refuse(line: int, what: str):
        raise UserError(f"{name}, line {line}: {what}; {remedy}")

    def floats(line: int, words: list[str]) -> np.ndarray:
        try:
            values = np.array([_float(word) for word in words])
        except ValueError:
            refuse(line, f"not all numbers: {' '.join(words)[:60]!r}")
        if not np.isfinite(values).all():
            refuse(line, "holds NaN or infinity")
        return values

    lines = text.splitlines()
    if not lines or not lines[0].strip().isdecimal() or int(lines[0]) < 1:
        refuse(1, "no number of atoms")
    n = int(lines[0])
    if len(lines) < n + 5:
        refuse(len(lines), f"{len(lines)} lines, {n + 5} expected for {n} atoms")
    if any(line.strip() for line in lines[n + 5 :]):
        refuse(n + 6, f"text after the last of {n + 5} lines")
    head = lines[1].split()
    if len(head) != 2 + len(PROPERTIES) or head[0] != "gdb" or not head[1].isdecimal():
        refuse(2, f"'gdb', an index and {len(PROPERTIES)} properties expected")
    index = int(head[1])
    member = _MEMBER.fullmatch(name)
    if member is not None and int(member[1]) != index:
        refuse(2, f"index {index} in a member called {Path(name).name}")
    properties = dict(zip(PROPERTIES, floats(2, head[2:]).tolist(), strict=True))
    numbers, rows = [], []
    for i in range(n):
        words = lines[2 + i].split()
        if len(words) != 5 or words[0] not in number_of or words[0] == "X":
            refuse(3 + i, "element, x, y, z and charge expected")
        numbers.append(number_of[words[0]])
        rows.append(floats(3 + i, words[1:]))
    table = np.array(rows)
    frequencies = floats(n + 3, lines[n + 2].split())
    if len(frequencies) not in (max(3 * n - 6, 0), 3 * n - 5):
        refuse(n + 3, f"{len(frequencies)} frequencies for {n} atoms")
    smiles = lines[n + 3].split()
    if len(smiles) != 2:
        refuse(n + 4, "two SMILES expected")
    if len(lines[n + 4].split()) != 2:
        refuse(n + 5, "two InChI expected")
    z = np.array(numbers, dtype=np.int64)
    return QM9Molecule(index, z, table[:, :3], properties, table[:, 3], frequencies, *smiles)


def read_archive(path: Path, on_bad: Callable[[str], None] | None = None) -> Iterator[QM9Molecule]:
    """Molecules of the archive in its order, one after the other; nothing is unpacked to disk.

    Args:
        path: ``dsgdb9nsd.xyz.tar.bz2`` (any compression that ``tarfile`` knows).
        on_bad: called with the message of a malformed member, which is then left out; ``None`` raises it.

    Raises:
        UserError: no archive, a truncated one, or a malformed member.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isfile() or _MEMBER.fullmatch(member.name) is None:
                    continue
                packed = archive.extractfile(member)
                content = packed.read() if packed is not None else b""
                try:
                    molecule = parse_member(content.decode("ascii"), member.name)
                except UnicodeDecodeError:
                    error = UserError(f"{member.name}: not a text; the archive is damaged, download it again")
                except UserError as caught:
                    error = caught
                else:
                    yield molecule
                    continue
                if on_bad is None:
                    raise UserError(f"{path}: {error}")
                on_bad(str(error))
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as an archive ({error}); download it again") from None


def read_table(path: Path) -> Iterator[QM9Molecule]:
    """Molecules of the geometry table (``.npz`` or ``.npz.xz``): geometries without properties.

    Raises:
        UserError: no such table, or its arrays do not fit each other.
    """
    path = Path(path)
    try:
        with lzma.open(path) if path.suffix == ".xz" else open(path, "rb") as file:
            data = np.load(file)
            indices, counts = data["qm9_index"], data["n_atoms"].astype(np.int64)
            z, x = data["atomic_numbers"].astype(np.int64), data["positions_1e5_angstrom"] * _POSITION_UNIT
    except (OSError, EOFError, ValueError, KeyError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as a geometry table ({error})") from None
    if len(counts) != len(indices) or not len(z) == len(x) == counts.sum():
        raise UserError(f"{path}: its arrays do not fit each other; download it again")
    ends = np.cumsum(counts)
    for index, n, end in zip(indices.tolist(), counts.tolist(), ends.tolist(), strict=True):
        yield QM9Molecule(int(index), z[end - n : end], x[end - n : end], {})


def read_members(path: Path, on_bad: Callable[[str], None] | None = None) -> Iterator[QM9Molecule]:
    """Molecules of the unpacked archive, by index: a folder (searched) of ``dsgdb9nsd_*.xyz``, or one of them.

    Args:
        path: folder or file.
        on_bad: as in ``read_archive``.

    Raises:
        UserError: no such file in the folder, or a malformed one.
    """
    path = Path(path)
    files = sorted(p for p in path.rglob("*.xyz") if _MEMBER.fullmatch(p.name)) if path.is_dir() else [path]
    if not files:
        raise UserError(
            f"{path}: holds no dsgdb9nsd_NNNNNN.xyz; give the folder that QM9 was unpacked to, or its archive"
        )
    for file in sorted(files, key=lambda p: p.name):
        try:
            molecule = parse_member(file.read_text(encoding="ascii"), str(file), UNPACK_AGAIN)
        except (OSError, UnicodeDecodeError) as error:
            caught = UserError(f"{file}: cannot be read as text ({error}); {UNPACK_AGAIN}")
        except UserError as error:
            caught = error
        else:
            yield molecule
            continue
        if on_bad is None:
            raise caught
        on_bad(str(caught))


def read(path: Path, on_bad: Callable[[str], None] | None = None) -> Iterator[QM9Molecule]:
    """``read_table`` for ``.npz`` and ``.npz.xz``, ``read_members`` for folders and ``.xyz``, else ``read_archive``."""
    path = Path(path)
    if path.is_dir() or path.suffix == ".xyz":
        return read_members(path, on_bad)
    return read_table(path) if ".npz" in path.suffixes else read_archive(path, on_bad)
