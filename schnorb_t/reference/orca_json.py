"""``orca_2json`` files of ORCA 5 and 6 -> ``OrcaCalculation``.

``H-Matrix`` is the *core* Hamiltonian. ``F-Matrix`` (asked for by ``"FockMatrix": ["F"]``) holds the two-electron part
alone, one matrix per spin, so that Fock = H + F. Key names and shapes follow the orca_2json section of ORCA's manual.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..basis import L_LETTERS, GaussianShell
from ..structures.rules import ONLY_CLOSED_SHELLS
from .orca_calculation import ATOMIC_NUMBER, ORCA_BOHR, OrcaCalculation, refuse, shells_from_labels

_EXPORT_AGAIN = "export again with the .json.conf that schnorb_t write-orca writes"
_CLOSED_SHELL = ("RHF", "RKS")


def read_json(path: str | Path) -> OrcaCalculation:
    """Read one ``orca_2json`` file.

    Raises:
        UserError: not readable, truncated, damaged, not ``orca_2json``'s, open shell, or something needed is missing.
    """
    return parse_json(path, _load(path))


def _load(path) -> dict:
    def no_constant(name: str):
        raise ValueError(f"holds {name}")

    def unique(pairs: list[tuple[str, object]]) -> dict:
        out = dict(pairs)
        if len(out) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"has {next(n for n in names if names.count(n) > 1)!r} twice")
        return out

    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})")
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=no_constant, object_pairs_hook=unique)
    except UnicodeDecodeError:
        refuse(path, f"is no text; ASCII JSON is needed, not BSON or UBJSON: {_EXPORT_AGAIN}")
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1
        refuse(
            path,
            f"{'ends in the middle' if cut else 'is no valid JSON'} ({error.msg}, line {error.lineno} of "
            f"{error.doc.count(chr(10)) + 1}); {_EXPORT_AGAIN}",
        )
    except (ValueError, RecursionError) as error:
        refuse(path, f"is damaged: {error}; {_EXPORT_AGAIN}")


class _Node:
    """A JSON object with its place in the file, so that every complaint names it."""

    def __init__(self, path, data, place: str):
        if not isinstance(data, dict):
            refuse(path, f"{place} is no object; is this a file of orca_2json? {_EXPORT_AGAIN}")
        self.path, self.data, self.place = path, data, place

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def get(self, key: str, *kinds: type):
        """The value of a key, of one of some JSON types."""
        if key not in self.data:
            refuse(self.path, f"{self.place} has no {key!r}; {_EXPORT_AGAIN}")
        value = self.data[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(k.__name__ for k in kinds)
            refuse(self.path, f"{self.place}, {key!r} is {type(value).__name__}, expected {wanted}")
        return value

    def node(self, key: str) -> _Node:
        return _Node(self.path, self.get(key, dict), f"{self.place}, {key!r}")

    def nodes(self, key: str) -> list[_Node]:
        return [_Node(self.path, entry, f"{self.place}, {key!r} {i}") for i, entry in enumerate(self.get(key, list))]

    def array(self, key: str, ndim: int) -> np.ndarray:
        """Numbers as float64, with exactly so many dimensions, all finite."""
        value = self.get(key, list)
        flat: list = [value]
        for _ in range(ndim):
            flat = [x for part in flat if isinstance(part, list) for x in part]
        try:
            if not all(type(x) in (int, float) for x in flat):
                raise ValueError("something else than numbers")
            out = np.array(value, dtype=np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            refuse(self.path, f"{self.place}, {key!r} is no array of numbers ({error})")
        if out.ndim != ndim or out.size == 0:
            refuse(self.path, f"{self.place}, {key!r} has shape {list(out.shape)}, expected {ndim} dimensions")
        if not np.isfinite(out).all():
            refuse(self.path, f"{self.place}, {key!r} holds infinity")
        return out

    def number(self, key: str) -> float:
        value = self.get(key, int, float)
        if not abs(value) < 1e300:  # also false for infinity and for integers that no float holds
            refuse(self.path, f"{self.place}, {key!r} is infinite or beyond all bounds")
        return float(value)

    def whole(self, key: str) -> int:
        """An integer, small enough for a molecule; ORCA writes some as ``1.0``."""
        value = self.number(key)
        if value != int(value) or abs(value) > 1e6:
            refuse(self.path, f"{self.place}, {key!r} is {value:g}, expected a small integer")
        return int(value)


def parse_json(path: str | Path, data) -> OrcaCalculation:
    """The content of an ``orca_2json`` file, as ``json.load`` gives it. Raises as ``read_json``."""
    path = str(path)
    top = _Node(path, data, "the file")
    molecule = top.node("Molecule")
    header = top.node("ORCA Header") if "ORCA Header" in top else None
    version = str(header.data.get("Version", "unknown")) if header else "unknown"

    kind, multiplicity = molecule.get("HFTyp", str), molecule.whole("Multiplicity")
    if kind not in _CLOSED_SHELL or multiplicity != 1:
        refuse(path, f"open shell: {kind}, multiplicity {multiplicity}, {ONLY_CLOSED_SHELLS}; import RHF and RKS")

    numbers, positions, functions, shells = _atoms(path, molecule)
    orbitals = molecule.node("MolecularOrbitals")
    labels = orbitals.get("OrbitalLabels", list)
    if not all(isinstance(label, str) for label in labels):
        refuse(path, "'OrbitalLabels' are no texts")
    labelled = shells_from_labels(path, labels, numbers)
    if labelled != shells:
        atom = next(i for i, (a, b) in enumerate(zip(labelled, shells, strict=True)) if a != b)
        refuse(path, f"atom {atom}: orbital labels {labelled[atom]} and basis {shells[atom]} name different shells (l)")
    coefficients, energies, occupations = _orbitals(path, orbitals, len(labels))

    overlap = molecule.array("S-Matrix", 2) if "S-Matrix" in molecule else None
    calculation = OrcaCalculation(
        path=path,
        source="json",
        version=version,
        atomic_numbers=np.array(numbers, dtype=np.int64),
        positions=positions,
        charge=molecule.whole("Charge"),
        shells=shells,
        functions=functions,
        basis_name=None,
        overlap=overlap,
        coefficients=coefficients,
        energies=energies,
        occupations=occupations,
        fock=_fock(path, molecule),
        mulliken=_charges(molecule),
    )
    return calculation


def _atoms(path, molecule: _Node):
    """Atomic numbers, positions in Bohr, Gaussians per element, shells per atom."""
    unit = molecule.get("CoordinateUnits", str)
    per_bohr = {"bohr": 1.0, "angs": ORCA_BOHR}.get(unit[:4].lower())
    if per_bohr is None:
        refuse(path, f"'CoordinateUnits' is {unit!r}; Bohrs and Angs are known")
    numbers: list[int] = []
    positions, shells = [], []
    functions: dict[int, tuple[GaussianShell, ...]] = {}
    for i, atom in enumerate(molecule.nodes("Atoms")):
        symbol, z = atom.get("ElementLabel", str), atom.whole("ElementNumber")
        if ATOMIC_NUMBER.get(symbol.capitalize()) != z:
            refuse(path, f"atom {i}: label {symbol!r} is not element {z}")
        if atom.whole("Idx") != i:
            refuse(path, f"atom {i} has index {atom.whole('Idx')}: atoms are missing, doubled or out of order")
        if atom.number("NuclearCharge") != z:
            refuse(
                path,
                f"atom {i} ({symbol}) has nuclear charge {atom.number('NuclearCharge'):g}; effective core potentials "
                "and ghost atoms are not imported: use an all-electron basis",
            )
        xyz = atom.array("Coords", 1)
        if len(xyz) != 3 or np.abs(xyz).max() > 1e4:
            refuse(path, f"atom {i}: {xyz.tolist()} are no coordinates")
        key = "BasisFunctions" if "BasisFunctions" in atom else "Basis"  # ORCA 5 | ORCA 6
        here = tuple(_shell(path, i, entry) for entry in atom.nodes(key))
        if functions.setdefault(z, here) != here:
            refuse(path, f"atom {i} ({symbol}) has another basis than the other {symbol} atoms")
        numbers.append(z)
        positions.append(xyz / per_bohr)
        shells.append(tuple(f.l for f in here))
    if not numbers:
        refuse(path, "has no atoms")
    return numbers, np.array(positions), functions, tuple(shells)


def _shell(path, atom: int, entry: _Node) -> GaussianShell:
    letter = entry.get("Shell", str).lower()
    if letter not in L_LETTERS or len(letter) != 1:
        refuse(path, f"atom {atom}: shell {letter!r}; known are {', '.join(L_LETTERS)}")
    exponents, coefficients = entry.array("Exponents", 1), entry.array("Coefficients", 1)
    if len(exponents) != len(coefficients) or exponents.min() <= 0 or not coefficients.any():
        refuse(path, f"atom {atom}: a shell needs positive exponents and as many coefficients")
    return GaussianShell(L_LETTERS.index(letter), tuple(exponents.tolist()), tuple(coefficients.tolist()))


def _orbitals(path, orbitals: _Node, n: int):
    unit = orbitals.get("EnergyUnit", str)
    if unit != "Eh":
        refuse(path, f"orbital energies in {unit!r}, expected Eh")
    mos = orbitals.nodes("MOs")
    if len(mos) != n:
        refuse(
            path,
            f"{len(mos)} orbitals for {n} basis functions; all are needed (ORCA drops some where the basis is linearly "
            "dependent: use a smaller basis)",
        )
    columns = [mo.array("MOCoefficients", 1) for mo in mos]
    bad = next((i for i, column in enumerate(columns) if len(column) != n), None)
    if bad is not None:
        refuse(path, f"orbital {bad} has {len(columns[bad])} coefficients for {n} basis functions")
    energies = np.array([mo.number("OrbitalEnergy") for mo in mos])
    occupations = np.array([mo.number("Occupancy") for mo in mos])
    return np.stack(columns, axis=1), energies, occupations


def _fock(path, molecule: _Node) -> np.ndarray | None:
    """Core Hamiltonian plus two-electron part, if the file has both."""
    if "F-Matrix" not in molecule:
        return None
    if "H-Matrix" not in molecule:
        refuse(path, f"has 'F-Matrix' (the two-electron part) without 'H-Matrix'; {_EXPORT_AGAIN}")
    core, value = molecule.array("H-Matrix", 2), molecule.get("F-Matrix", list)
    nested = bool(value) and isinstance(value[0], list) and bool(value[0]) and isinstance(value[0][0], list)
    two_electron = molecule.array("F-Matrix", 3) if nested else molecule.array("F-Matrix", 2)[None]
    if len(two_electron) != 1 or two_electron[0].shape != core.shape:
        refuse(path, f"'F-Matrix' has shape {list(two_electron.shape)}, 'H-Matrix' {list(core.shape)}")
    return core + two_electron[0]


def _charges(molecule: _Node) -> np.ndarray | None:
    """Mulliken charges, which ORCA 6 adds."""
    atoms = molecule.nodes("Atoms")
    if not all("MullikenCharge" in atom for atom in atoms):
        return None
    return np.array([atom.number("MullikenCharge") for atom in atoms])
