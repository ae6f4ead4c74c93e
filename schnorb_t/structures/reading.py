"""Structures from files of any format: one at a time, all, or all with the names and groups that labels need."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TextIO

from schnorb_t.errors import UserError
from schnorb_t.files import foreign_content

from .electrons import electrons
from .foreign import foreign_input
from .inputs import kind_of_input, read_gaussian, read_orca, read_qchem, read_turbomole
from .molfiles import read_mol2, read_sdf
from .pdb import read_pdb
from .structure import Structure, with_group
from .with_ase import read_with_ase, statements_beside
from .xyz import read_xyz

_COMPRESSED: dict[str, Callable[..., IO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_Reader = Callable[[TextIO, str], Iterator[Structure]]
_BY_SUFFIX: dict[str, _Reader] = {
    ".xyz": read_xyz,
    ".extxyz": read_xyz,
    ".sdf": read_sdf,
    ".sd": read_sdf,
    ".mol": read_sdf,
    ".mdl": read_sdf,
    ".mol2": read_mol2,
    ".pdb": read_pdb,
    ".ent": read_pdb,
    ".gjf": read_gaussian,
    ".com": read_gaussian,
    ".gau": read_gaussian,
}
_BY_CONTENT: dict[str, _Reader] = {"orca": read_orca, "qchem": read_qchem, "turbomole": read_turbomole}
#: ASE's name of a format -> reader here that sees more.
_BY_ASE: dict[str, _Reader] = {
    "xyz": read_xyz,
    "extxyz": read_xyz,
    "sdf": read_sdf,
    "mol": read_sdf,
    "proteindatabank": read_pdb,
    "gaussian-in": read_gaussian,
    "turbomole": read_turbomole,
}
#: Bytes from the beginning of a file that tell its format.
_HEAD = 65536


def iter_structures(path: str | Path) -> Iterator[Structure]:
    """The structures of a file, one after the other, so that files of any length fit into memory.

    Args:
        path: extended xyz, xyz, SD and mol files, mol2, inputs of Gaussian, ORCA, Q-Chem, Turbomole (each of these also
            compressed: ``.gz``, ``.bz2``, ``.xz``), QM9's archive, unpacked members or geometry table, or any other
            format that ASE reads.

    Raises:
        UserError: no such file, empty, or not readable; names the file and how far it could be read.
    """
    path = Path(path)
    if path.name.endswith((".tar.bz2", ".npz.xz", ".npz")):
        yield from _qm9(_existing(path))
        return
    _existing(path)
    found = 0
    beside = statements_beside(path)
    for structure in _read(path):
        if beside and not structure.charge_from and not structure.multiplicity_from:
            said = electrons(beside, int(structure.atomic_numbers.sum()))
            structure = replace(
                structure,
                charge=said.charge,
                multiplicity=said.multiplicity,
                charge_from=said.charge_from,
                multiplicity_from=said.multiplicity_from,
                faults=structure.faults + ((said.fault,) if said.fault else ()),
            )
        yield structure
        found += 1
    if not found:
        raise UserError(f"{path}: holds no structure; give a file that holds at least one")


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the files in it")
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give a file with structures (xyz, sdf, ...); of a SMILES, schnorb_t geometries "
            "makes one"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give one that holds at least one structure")
    return path


def _qm9(path: Path) -> Iterator[Structure]:
    from . import qm9

    found = False
    for place, molecule in enumerate(qm9.read(path)):
        yield molecule.structure(str(path), place)
        found = True
    if not found:
        raise UserError(f"{path}: holds no structure; QM9's archive has members dsgdb9nsd_NNNNNN.xyz")


def _open(path: Path) -> TextIO:
    opener = _COMPRESSED.get(path.suffix.lower(), open)
    with opener(path, "rb") as file:
        head = file.read(2000)
    if what := foreign_content(head):
        raise UserError(f"{path}: {what if ';' in what else f'{what}; give a file with structures (xyz, sdf, ...)'}")
    # PowerShell writes UTF-16
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in head and path.suffix.lower() in _BY_SUFFIX.keys() | _COMPRESSED.keys():
        raise UserError(f"{path}: is no text (it holds zero bytes); is it damaged? copy or write it again")
    return opener(path, "rt", encoding=encoding, errors="replace")


def _reader_of(path: Path) -> _Reader | None:
    """The reader here that knows the format; ``None``: ASE's."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix in (".smi", ".smiles", ".csv"):
        raise UserError(
            f"{path}: a list of molecules without positions; schnorb_t geometries {path} -o molecules.xyz makes "
            "structures of its SMILES"
        )
    with _open(path) as file:
        head = file.read(_HEAD)
    if (suffix in (".gjf", ".com", ".gau", ".mol") or suffix not in _BY_SUFFIX) and not _is_output(head):
        if kind := kind_of_input(head):
            return _BY_CONTENT[kind]
        program = "Python" if suffix == ".py" else foreign_input(head) if suffix != ".restart" else ""
        if program:
            raise UserError(f"{path}: an input of {program}, which is not read; convert it to extended xyz")
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        return _BY_ASE.get(filetype(str(path)))
    except (UnknownFileTypeError, OSError):
        return None


#: What outputs begin with.
_OUTPUTS = (
    "* O   R   C   A *",
    "Program Version",
    "Welcome to Q-Chem",
    "Entering Gaussian",
    "Northwest Computational Chemistry Package",
    "PROGRAM SYSTEM MOLPRO",
    "Psi4: An Open-Source",
    "GAMESS VERSION",
)


def _is_output(head: str) -> bool:
    """Outputs print their inputs."""
    return any(sign in head for sign in _OUTPUTS)


def _read(path: Path) -> Iterator[Structure]:
    try:
        reader = _reader_of(path)
        if reader is not None:
            with _open(path) as file:
                yield from reader(file, str(path))
            return
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); is it damaged?") from None
    yield from read_with_ase(path)


def read_structures(paths: str | Path | Sequence[str | Path]) -> list[Structure]:
    """All structures of a file, or of several files in order. Arguments and errors as ``iter_structures``."""
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    return [structure for path in files for structure in iter_structures(path)]


#: Structures of files that are kept in memory; of longer files each is read again where it is wanted.
HELD = 5000


class StructureFile:
    """The structures of a file, to be gone through more than once: few are kept in memory, of many none.

    Args:
        path: as in ``iter_structures``.

    Attributes:
        count: how many there are, once somebody went through them all.

    Raises:
        UserError: as ``iter_structures``; or the file was changed between two readings.
    """

    def __init__(self, path: str | Path):
        self.path, self.count = Path(path), -1
        self._held: list[Structure] | None = None

    def __iter__(self) -> Iterator[Structure]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Structure] = []
        n = 0
        for structure in self._read():
            if n < HELD:
                held.append(structure)
            elif n == HELD:
                held.clear()
            n += 1
            yield structure
        self._check_count(n)
        self._held = held if n <= HELD else None

    def _read(self) -> Iterator[Structure]:
        return iter_structures(self.path)

    def _check_count(self, n: int) -> None:
        if self.count not in (-1, n):
            raise UserError(f"{self.path}: the file was changed while it was in use; start again")
        self.count = n

    def windows(self, places: Sequence[int], size: int | None = None) -> Iterator[tuple[list[int], list[Structure]]]:
        """Some of the structures, ``size`` at a time.

        Args:
            places: of the wanted ones in the file, ascending.
            size: of a window; by default as many as are kept in memory.

        Yields:
            places and structures.
        """
        wanted, size = iter(places), size or HELD
        following = next(wanted, None)
        found: tuple[list[int], list[Structure]] = ([], [])
        for place, structure in enumerate(self):
            if place == following:
                found[0].append(place)
                found[1].append(structure)
                following = next(wanted, None)
            if len(found[0]) == size:
                yield found
                found = ([], [])
        if found[0]:
            yield found


class LabelFiles(StructureFile):
    """Structures of several files to be labelled, each with a name of its own, a group and its place in the order.

    A structure without a name is called after its file and place (``water:3``); without a group, its group is the graph
    of its bonds. A folder is one of QM9's members. Structures of one SD or mol2 file that share a title (conformers)
    get their place behind it. Few are kept in memory, of many none.

    Attributes:
        orders: name -> place in the order of all.
        elements: name -> atomic numbers.

    Raises:
        UserError: as ``iter_structures``; or a name occurs twice.
    """

    def __init__(self, paths: Sequence[str | Path]):
        super().__init__(", ".join(map(str, paths)))
        self.paths = [Path(path) for path in paths]
        self._titles = {path: self._shared_titles(path) for path in self.paths}
        self.orders: dict[str, int] = {}
        self.elements: dict[str, frozenset[int]] = {}
        sets: dict[frozenset[int], frozenset[int]] = {}  # one object for all molecules of the same elements
        twice: Counter[str] = Counter()
        for structure in self.without_groups():
            if structure.name in self.orders:
                twice[structure.name] += 1
            self.orders.setdefault(structure.name, structure.order)
            elements = frozenset(structure.atomic_numbers.tolist())
            self.elements[structure.name] = sets.setdefault(elements, elements)
        if twice:
            name, times = twice.most_common(1)[0]
            raise UserError(f"{self.path}: {times + 1} structures are called {name!r}; names must be unique")

    @staticmethod
    def _shared_titles(path: Path) -> frozenset[str]:
        if path.suffix.lower() not in (".sdf", ".sd", ".mol2"):
            return frozenset()
        return frozenset(name for name, n in Counter(s.name for s in iter_structures(path)).items() if name and n > 1)

    def _read(self) -> Iterator[Structure]:
        from . import qm9

        order = 0
        for path in self.paths:
            members = (m.structure(str(path), k) for k, m in enumerate(qm9.read(path))) if path.is_dir() else None
            for place, s in enumerate(members or iter_structures(path)):
                name = f"{s.name}:{s.index}" if s.name in self._titles[path] else s.name or f"{path.stem}:{place}"
                yield replace(s, name=name, order=order)
                order += 1

    def without_groups(self) -> Iterator[Structure]:
        """All, without the work that groups are."""
        return super().__iter__()

    def __iter__(self) -> Iterator[Structure]:
        return map(with_group, self.without_groups())

    def __len__(self) -> int:
        return len(self.orders)


def read_for_labels(paths: Sequence[str | Path]) -> list[Structure]:
    """All structures of several files, with name, group and order, in memory; see ``LabelFiles``.

    Raises:
        UserError: as ``LabelFiles``.
    """
    return list(LabelFiles(paths))
