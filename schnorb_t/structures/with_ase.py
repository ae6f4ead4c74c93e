"""Files in the other formats that ASE reads, with what ASE's readers leave unread: charge and multiplicity."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms

from schnorb_t.errors import UserError, brief

from .electrons import Kind, Statement
from .structure import Structure, as_structure

#: ASE's name of a format -> (kind, pattern of the value) of what its files say.
_SAID: dict[str, tuple[tuple[Kind, str], ...]] = {
    "gaussian-out": (
        ("charge", r"^ *Charge *= *(-?\d+) +Multiplicity"),
        ("multiplicity", r"^ *Charge *= *-?\d+ +Multiplicity *= *(\d+)"),
    ),
    "orca-output": (
        ("charge", r"^ *Total Charge +Charge +\.+ +(-?\d+)"),
        ("multiplicity", r"^ *Multiplicity +Mult +\.+ +(\d+)"),
    ),
    "nwchem-out": (("charge", r"^ *Charge *: *(-?\d+)"), ("multiplicity", r"^ *Spin multiplicity *: *(\d+)")),
    "nwchem-in": (
        ("charge", r"^\s*charge\s+([+-]?\d+)"),
        ("multiplicity", r"^\s*mult\s+(\d+)"),
        ("unpaired", r"^\s*nopen\s+(\d+)"),
    ),
    "gamess-us-out": (
        ("charge", r"CHARGE OF MOLECULE *= *(-?\d+)"),
        ("multiplicity", r"(?:SPIN|STATE) MULTIPLICITY *= *(\d+)"),
    ),
    "gamess-us-punch": (("charge", r"ICHARG *= *(-?\d+)"), ("multiplicity", r"\bMULT *= *(\d+)")),
    "cjson": (
        ("charge", r'"totalCharge"\s*:\s*(-?\d+)'),
        ("multiplicity", r'"totalSpinMultiplicity"\s*:\s*(\d+)'),
    ),
    "dftb": (("charge", r"^\s*Charge\s*=\s*([+-]?\d+)"), ("unpaired", r"^\s*UnpairedElectrons\s*=\s*(\d+)")),
    "octopus-in": (("charge", r"^\s*ExcessCharge\s*=\s*([+-]?\d+)"),),
    "cp2k-restart": (("charge", r"^\s*CHARGE\s+([+-]?\d+)"), ("multiplicity", r"^\s*MULTIPLICITY\s+(\d+)")),
    "espresso-in": (("charge", r"tot_charge\s*=\s*([+-]?\d+)"),),
    "aims": (("charge", r"^\s*charge\s+([+-]?\d+)"),),
}
#: Files that may stand beside an input of xtb or Turbomole.
_BESIDE: tuple[tuple[str, Kind], ...] = ((".CHRG", "charge"), (".UHF", "unpaired"))


def read_with_ase(path: Path) -> Iterator[Structure]:
    """All structures of a file in any format that ASE knows.

    Raises:
        UserError: ASE cannot read it; says how far it came.
    """
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError, filetype

    n, kind = 0, ""
    try:
        kind = filetype(str(path))
        said = statements_in_file(path, kind)
        for atoms in _rows(path) if kind in ("db", "json") else iread(path, index=":"):
            yield as_structure(atoms, order=n, said=said, file=str(path), index=n)
            n += 1
    except UnknownFileTypeError:
        raise UserError(
            f"{path}: neither its name nor its content tells a format that can be read; convert it to extended xyz"
        ) from None
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        if isinstance(error, UserError):
            raise
        where = f"structure {n} cannot be read" if n else "cannot read structures from it"
        # most of these errors are of the parser, and tell nothing of the file
        reason = f": {brief(error)}" if isinstance(error, ValueError | OSError) and " " in str(error) else ""
        raise UserError(
            f"{path}: {where}, taken for the format {kind}{reason}; mend it, or convert it to extended xyz"
        ) from None


def _rows(path: Path) -> Iterator[Atoms]:
    """Rows of a database of ASE's, with what their key-value pairs and calculators' options say."""
    from ase.db import connect

    with connect(path, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            entries = {**(row.get("calculator_parameters") or {}), **row.key_value_pairs, **row.data}
            atoms.info.update({key: value for key, value in entries.items() if key not in atoms.info})
            yield atoms


def statements_in_file(path: Path, kind: str) -> list[Statement]:
    """What the text of a file says of charge and spin; ``kind`` is ASE's name of its format."""
    if kind not in _SAID:
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    out = []
    for what, pattern in _SAID[kind]:
        # several jobs in one file may differ: then their charges contradict each other
        values = dict.fromkeys(v for v in re.findall(pattern, text, re.M | re.I) if v)
        out += [Statement(what, f"{what} in the file", value) for value in values]
    return out


def statements_beside(path: Path) -> list[Statement]:
    """What xtb's ``.CHRG`` and ``.UHF`` in the folder of a file say."""
    out: list[Statement] = []
    for name, kind in _BESIDE:
        beside = path.parent / name
        if beside.is_file():
            words: list[Any] = beside.read_text(errors="replace").split()
            if words:
                out.append(Statement(kind, f"{name} beside the file", words[0]))
    return out
