"""Molecules in the input files of Gaussian, ORCA, Q-Chem and Turbomole (xtb), with their charge and multiplicity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np

from schnorb_t.errors import UserError
from schnorb_t.units import BOHR

from .electrons import Kind, Statement
from .elements import parse_element
from .structure import Structure, build, written_symbols

_ORCA_BLOCK = re.compile(r"^[ \t]*\*[ \t]*(xyzfile|xyz|gzmtfile|gzmt|internal|int|pdbfile)\b(.*)$", re.I | re.M)
_ORCA_COORDS = re.compile(r"^[ \t]*%coords\b(.*?)\bcoords\b(.*?)\bend\b", re.I | re.M | re.S)
#: Kind, name and pattern of what Turbomole and xtb say.
_TURBOMOLE: tuple[tuple[Kind, str, str], ...] = (
    ("charge", "$chrg", r"\$?\b(?:chrg|charge)\b\s*[=\s]\s*([+-]?\d+)"),
    ("unpaired", "$uhf", r"\$?\b(?:uhf|unpaired)\b\s*[=\s]\s*(\d+)"),
)


def kind_of_input(text: str) -> str:
    """``"orca"``, ``"qchem"``, ``"turbomole"`` or ``""``, by the block that holds the molecule."""
    if _ORCA_BLOCK.search(text) or re.search(r"^[ \t]*%coords\b", text, re.I | re.M):
        return "orca"
    if re.search(r"^[ \t]*\$molecule\b", text, re.I | re.M):
        return "qchem"
    return "turbomole" if re.search(r"^[ \t]*\$coord\b", text, re.I | re.M) else ""


def _refuse(path: str, index: int, what: str) -> NoReturn:
    raise UserError(f"{path}: structure {index} cannot be read: {what}")


def _said(charge: str | int, multiplicity: str | int, key: str) -> list[Statement]:
    return [
        Statement("charge", f"{key}: charge", charge),
        Statement("multiplicity", f"{key}: multiplicity", multiplicity),
    ]


def _elsewhere(path: str, index: int, what: str, said: Sequence[Statement] = ()) -> Structure:
    """A molecule without atoms, because its file only tells where its geometry is."""
    fault = f"takes its geometry from {what}, which does not stand in the file; give that geometry"
    return build(np.zeros(0), np.zeros((0, 3)), said, file=path, index=index, order=index, faults=(fault,))


def _build(
    path: str,
    index: int,
    atoms: list[tuple[str, list[str]]],
    said: list[Statement],
    unit: float,
    faults: tuple[str, ...] = (),
) -> Structure:
    """From words: element and three coordinates of each atom; ``unit`` is Å per coordinate.

    Charges beside symbols count, and a nuclear charge of its own (``H(ZNuc=1.5)``) is a fault.
    """
    z, x, masses = [], [], []
    for word, place in atoms:
        found = parse_element(word)
        if found is None:
            _refuse(path, index, f"{word!r} is no element; mend the file")
        try:
            if len(place) != 3:
                raise ValueError(place)
            x.append([float(re.sub("[dD]", "e", w)) * unit for w in place])
        except ValueError:
            _refuse(path, index, f"{' '.join([word, *place])!r} is no atom with x, y, z; mend the file")
        z.append(found[0])
        masses.append(found[1])
        if re.search(r"\bz(nuc)?=", word, re.I):
            faults += (
                f"atom {len(z) - 1} ({word}) has a nuclear charge of its own, which cannot be treated; remove it",
            )
    return build(
        np.array(z, dtype=np.int64),
        np.array(x, dtype=float).reshape(-1, 3),
        said,
        symbols=written_symbols([word for word, _ in atoms], z),
        masses=np.array(masses) if np.isfinite(masses).any() else None,
        file=path,
        index=index,
        order=index,
        faults=faults,
    )


#: What a molecule stands in, if not in empty space.
_SURROUNDED = "stands in {} ({}), and only molecules by themselves can be treated so far; remove that"


def read_gaussian(file: TextIO, path: str) -> Iterator[Structure]:
    """Molecules of all jobs (``--Link1--``) of a Gaussian input; of jobs with ``geom=check`` one with a fault.

    Raises:
        UserError: a job that cannot be understood.
    """
    index = 0
    for job in re.split(r"^[ \t]*--link1--.*$", file.read().replace("\r", ""), flags=re.I | re.M):
        lines = job.split("\n")
        begin = next((i for i, x in enumerate(lines) if x.lstrip().startswith("#")), None)
        if begin is None:
            continue
        sections: list[list[str]] = [[]]
        for line in lines[begin:]:
            if line.strip():
                sections[-1].append(line.split("!")[0].rstrip())
            elif sections[-1]:
                sections.append([])
        route = " ".join(sections[0]).lower()
        if len(sections) < 3 or not sections[2]:
            if re.search(r"geom\S*check", route):
                yield _elsewhere(path, index, "the job's checkpoint (geom=check)")
                index += 1
                continue
            _refuse(path, index, "a Gaussian input has route, title, and charge with atoms, each ended by a blank line")
        head = re.fullmatch(r"\s*([+-]?\d+)[\s,]+(\d+)([\s,].*)?", sections[2][0])
        if head is None:
            _refuse(path, index, f"{sections[2][0].strip()!r} stands where charge and multiplicity belong")
        said = _said(head[1], head[2], "molecule specification")
        if len(sections[2]) == 1 and re.search(r"geom\S*check", route):
            yield _elsewhere(path, index, "the job's checkpoint (geom=check)", said)
            index += 1
            continue
        if several := re.search(r"\bqst[23]\b", route):
            _refuse(path, index, f"its job {several[0]} holds several geometries; give one in a job")
        structure = _gaussian_molecule(path, index, sections[2:], said, BOHR if _in_bohr(route) else 1.0)
        around = re.search(r"(?<![\w=])(charge|field)(?![\w])", route)
        if around:
            what = "an electric field" if around[1] == "field" else "point charges"
            structure = replace(structure, faults=(*structure.faults, _SURROUNDED.format(what, around[1])))
        yield structure
        index += 1


def _in_bohr(route: str) -> bool:
    return bool(re.search(r"units?\s*[=(]\s*\(?[^)\s]*\b(au|bohr)\b", route))


def _gaussian_molecule(
    path: str, index: int, sections: list[list[str]], said: list[Statement], unit: float
) -> Structure:
    """From the sections from the molecule specification on."""
    atoms, lines = [], sections[0][1:]
    for line in lines:
        # H(Iso=2,Fragment=1): one word
        words = re.split(
            r"[\s,/]+", re.sub(r"\([^)]*\)", lambda m: m[0].replace(",", ";").replace(" ", ""), line).strip()
        )
        place = words[-3:] if len(words) == 4 else words[2:5]
        if len(words) not in (4, 5, 6) or not all(
            re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", w) for w in place
        ):
            return _z_matrix(path, index, lines, sections[1:], said)
        atoms.append((words[0], place))
    return _build(path, index, atoms, said, unit)


def _z_matrix(path: str, index: int, lines: list[str], more: list[list[str]], said: list[Statement]) -> Structure:
    """Internal coordinates, whose variables (``R1=0.97`` or ``R1 0.97``) stand in the sections behind or below."""
    from ase.io.zmatrix import parse_zmatrix

    variables: dict[str, float] = {}
    rows = []
    for line in [*lines, *(line for section in more for line in section)]:
        found = re.fullmatch(r"\s*([A-Za-z]\w*)\s*[=,\s]\s*([+-]?\d*\.?\d+(?:[eEdD][+-]?\d+)?)\s*", line)
        if found:
            variables[found[1].lower()] = float(re.sub("[dD]", "e", found[2]))
        elif line in lines and line.strip().lower().rstrip(":") not in ("variables", "constants"):
            rows.append(re.split(r"[\s,]+", line.strip()))
    symbols = [row[0] for row in rows]
    if any(len(row) == 8 and row[7] != "0" for row in rows):
        _refuse(path, index, "a Z-matrix with two angles per atom is not read; give Cartesian coordinates")
    elements = [parse_element(symbol) for symbol in symbols]
    wrong = next((s for s, e in zip(symbols, elements, strict=True) if e is None), None)
    if wrong is not None:
        _refuse(path, index, f"{wrong!r} is no element; mend the file")
    plain = []
    for row in rows:
        words = []
        for word in row[1:7]:
            sign, name = ("-", word[1:]) if word[:1] in "+-" and word[1:2].isalpha() else ("", word)
            known = variables.get(name.lower())
            words.append(word if known is None else f"{-known if sign and word[0] == '-' else known:.12g}")
        plain.append(" ".join(["X", *words]))
    try:
        positions = parse_zmatrix(plain).positions
        if not np.isfinite(positions).all():
            raise ValueError("atoms on one line")
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        _refuse(
            path, index, f"its Z-matrix cannot be understood ({type(error).__name__}: {error}); give Cartesian ones"
        )
    atoms = [(s, [repr(float(v)) for v in x]) for s, x in zip(symbols, positions, strict=True)]
    return _build(path, index, atoms, said, 1.0)


def read_orca(file: TextIO, path: str) -> Iterator[Structure]:
    """The molecules of an ORCA input: ``* xyz q m`` blocks, ``* xyzfile q m name``, ``%coords``, of all jobs.

    Raises:
        UserError: internal coordinates, or a block that cannot be understood.
    """
    # a comment ends with its line or at the next #
    text = re.sub(r"#[^#\n]*#?", "", file.read().replace("\r", ""))
    index, so_far, unit = 0, "", 1.0
    for job in re.split(r"^[ \t]*\$new_job\b", text, flags=re.I | re.M):
        so_far += job  # a job has all settings of those before it
        for word in re.findall(r"\b(bohrs?|angs)\b", " ".join(re.findall(r"^\s*!.*", job, re.M)), re.I):
            unit = 1.0 if word.lower() == "angs" else BOHR
        for structure in _orca_job(job, path, index, unit, _orca_surroundings(so_far)):
            yield structure
            index += 1


def _orca_job(text: str, path: str, index: int, unit: float, faults: tuple[str, ...]) -> Iterator[Structure]:
    for block in _ORCA_COORDS.finditer(text):
        options = dict(re.findall(r"(charge|mult|units|ctyp)\s*=?\s*(\S+)", block[1].lower()))
        if options.get("ctyp", "xyz") != "xyz":
            _refuse(path, index, f"coordinates of type {options['ctyp']!r} are not read; give Cartesian ones")
        said = _said(options.get("charge", 0), options.get("mult", 1), "%coords")
        scale = BOHR if options.get("units", "").startswith("bohr") else 1.0 if "units" in options else unit
        yield _build(path, index, _orca_atoms(block[2]), said, scale, faults)
        index += 1
    for block in _ORCA_BLOCK.finditer(text):
        kind, words = block[1].lower(), block[2].split()
        if kind not in ("xyz", "xyzfile"):
            _refuse(path, index, f"coordinates of type {kind!r} are not read; give Cartesian ones (* xyz)")
        if len(words) < 2:
            _refuse(path, index, f"{block[0].strip()!r} lacks charge and multiplicity")
        said = _said(words[0], words[1], f"* {kind}")
        if kind == "xyz":
            body = text[block.end() :].split("*", 1)
            if len(body) != 2:
                _refuse(path, index, "its * xyz block is not closed by *")
            yield _build(path, index, _orca_atoms(body[0]), said, unit, faults)
            index += 1
            continue
        if len(words) < 3:
            _refuse(path, index, f"{block[0].strip()!r} names no file")
        name = Path(path).parent / words[2].strip("\"'")
        if not name.is_file():
            _refuse(path, index, f"{name}: no such file")
        from .xyz import read_xyz

        with open(name, encoding="utf-8-sig", errors="replace") as other:
            for s in read_xyz(other, str(name)):
                found: dict[str, Any] = {"symbols": s.symbols, "masses": s.masses, "faults": (*faults, *s.faults)}
                yield build(s.atomic_numbers, s.positions, said, file=path, index=index, order=index, **found)
                index += 1


def _orca_surroundings(text: str) -> tuple[str, ...]:
    """Point charges, an electric field, a molecule in parts of which only one is quantum mechanics."""
    around = {
        r"%pointcharges\b": ("point charges", "%pointcharges"),
        r"\befield\b": ("an electric field", "efield"),
        r"%qmmm\b": ("a force field's surroundings", "%qmmm"),
        r"^\s*!.*\b(qm\d?/\w+|\w+-crystal-qmmm|qmmm)\b": ("a force field's surroundings", "QM/MM"),
    }
    return tuple(_SURROUNDED.format(*what) for sign, what in around.items() if re.search(sign, text, re.I | re.M))


def _orca_atoms(text: str) -> list[tuple[str, list[str]]]:
    text = re.sub(r"\b([MZ])[ \t]*(?:=[ \t]*|[ \t])(?=\d+\.?\d*[ \t]*([MZ\n]|$))", r"\1=", text, flags=re.I)
    rows = [line.split() for line in text.split("\n") if line.strip()]
    # "H : 0 0 0" is a ghost too; Q is a point charge, whose first number is its charge
    rows = [[r[0] + ":", *r[2:]] if r[1:2] == [":"] else r for r in rows]
    for row in rows:  # "H 0 0 0 M=2.014" is deuterium, "Z=1.5" a nucleus of another charge
        mass = next((m for w in row[1:] if (m := re.fullmatch(r"m=(\d+\.?\d*)", w, re.I))), None)
        charge = next((w for w in row[1:] if re.fullmatch(r"z=\d+\.?\d*", w, re.I)), None)
        row[0] += f"(iso={mass[1]})" if mass else ""
        row[0] += f"({charge})" if charge else ""
    return [(r[0], r[2:5] if r[0].upper() == "Q" else r[1:4]) for r in rows]


def read_qchem(file: TextIO, path: str) -> Iterator[Structure]:
    """The molecule of each job (``@@@``) of a Q-Chem input; fragments (``--``) are one molecule.

    Of a job whose ``$molecule`` is ``read`` from elsewhere comes one with a fault.

    Raises:
        UserError: a ``$molecule`` block that cannot be understood.
    """
    text = re.sub(r"!.*", "", file.read().replace("\r", ""))
    index = 0
    for job in re.split(r"^[ \t]*@@@.*$", text, flags=re.M):
        unit = BOHR if re.search(r"^\s*input_bohr\s*=?\s*(true|1)\b", job, re.I | re.M) else 1.0
        faults = tuple(
            _SURROUNDED.format(what, f"${name}")
            for name, what in _QCHEM_AROUND.items()
            if re.search(rf"^[ \t]*\${name}\b", job, re.I | re.M)
        )
        for block in re.findall(r"^[ \t]*\$molecule\b(.*?)^[ \t]*\$end\b", job, re.I | re.M | re.S):
            yield _qchem_molecule(path, index, block, unit, faults)
            index += 1


_QCHEM_AROUND = {
    "external_charges": "point charges",
    "multipole_field": "an electric field",
    "efp_fragments": "effective fragments",
    "force_field_params": "a force field's surroundings",
}


def _qchem_molecule(path: str, index: int, block: str, unit: float, faults: tuple[str, ...]) -> Structure:
    rows = [line.split() for line in block.split("\n") if line.strip()]
    if rows and rows[0][0].lower() == "read":
        return _elsewhere(path, index, f"{rows[0][1] if len(rows[0]) > 1 else 'the job before'} ($molecule read)")
    head = rows[0] if rows else []
    if len(head) != 2 or not all(re.fullmatch(r"[+-]?\d+", w) for w in head):
        _refuse(path, index, "its $molecule block does not begin with charge and multiplicity")
    atoms, fragment = [], False
    for row in rows[1:]:
        if row[0].startswith("--"):
            fragment = True
        elif fragment and len(row) == 2:
            fragment = False  # charge and multiplicity of the fragment
        elif len(row) < 4:
            _refuse(path, index, f"{' '.join(row)!r} in $molecule is no atom with x, y, z; Z-matrices are not read")
        else:
            atoms.append((row[0], row[1:4]))
    return _build(path, index, atoms, _said(head[0], head[1], "$molecule"), unit, faults)


def read_turbomole(file: TextIO, path: str) -> Iterator[Structure]:
    """The molecule of a Turbomole ``coord`` or ``control`` file, or an xtb input, with ``$eht``, ``$chrg``, ``$uhf``.

    Raises:
        UserError: no Cartesian coordinates, or a line that cannot be understood.
    """
    text = re.sub(r"#.*", "", file.read().replace("\r", ""))
    block = re.search(r"^[ \t]*\$coord\b([^\n]*)\n(.*?)(?=^[ \t]*\$|\Z)", text, re.I | re.M | re.S)
    if block is None:
        _refuse(path, 0, "its $coord group holds no atoms")
    option = block[1].lower()
    if elsewhere := re.search(r"file\s*=\s*(\S+)", block[1]):
        _refuse(path, 0, f"its $coord group stands in another file ({elsewhere[1]}); give that one")
    if "frac" in option:
        _refuse(path, 0, "fractional coordinates are not read; give Cartesian ones")
    rows = [line.split() for line in block[2].split("\n") if line.strip()]
    if any(len(row) < 4 for row in rows):
        _refuse(path, 0, "its $coord group holds lines that are no x, y, z, element")
    said = [
        Statement(kind, name, value) for kind, name, pattern in _TURBOMOLE for value in re.findall(pattern, text, re.I)
    ]
    periodic = re.search(r"^[ \t]*\$periodic\s+([1-3])", text, re.I | re.M)
    structure = _build(path, 0, [(row[3], row[:3]) for row in rows], said, 1.0 if "ang" in option else BOHR)
    if periodic:
        n = int(periodic[1])
        structure = replace(structure, pbc=(n > 0, n > 1, n > 2))
    yield structure
