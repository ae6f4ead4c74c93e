"""What DFTB+ reads and writes around a calculation with given matrices.

DFTB+ takes shells and electrons from Slater-Koster files and builds its own H and S from them before it asks for ours.
The files written here hold nothing but that structure: shells, the electrons of the neutral atom, tables of zeros.
An atom with several shells of one l (1s, 2s) has one file for each group of shells of different l.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from schnorb_t.basis import L_LETTERS, Basis
from schnorb_t.errors import UserError
from schnorb_t.files import write_text
from schnorb_t.interfaces.dftbplus_files import STRUCTURE_FILE, gen_text
from schnorb_t.interfaces.dftbplus_library import INPUT_FILE
from schnorb_t.physics.occupations import Smearing
from schnorb_t.prediction import Prediction
from schnorb_t.units import DFTBPLUS_HARTREE

SETTINGS_FILE = "settings.hsd"
PROCESSED_FILE = "dftb_pin.hsd"
BAND_FILE = "band.out"
DETAILED_FILE = "detailed.out"
EIGENVECTOR_FILE = "eigenvec.bin"
#: Tables of zeros up to 2 Bohr; DFTB+ wants at least eight rows.
_SPACING, _ROWS = 0.1, 20
#: The extended format, which has columns for f shells.
_COLUMNS = 20
#: DFTB+ 25.1's version of the input format; later ones read it too.
_PARSER_VERSION = 14


def shell_groups(shells: Iterable[int]) -> list[str]:
    """Shells in order, cut where an l comes again: (0, 0, 1) -> ["s", "sp"]; DFTB+ keeps the order.

    Raises:
        ValueError: shells beyond f.
    """
    groups: list[str] = []
    for l in shells:
        if l > 3:
            raise ValueError(L_LETTERS[l])
        letter = L_LETTERS[l]
        if groups and letter not in groups[-1]:
            groups[-1] += letter
        else:
            groups.append(letter)
    return groups


def structural_files(basis: Basis, elements: Iterable[int]) -> dict[str, str]:
    """Slater-Koster files without integrals: name -> text.

    ``pair.skf`` for every unlike pair of shell groups; ``C.1.skf``, ``C.2.skf``, ... for each group of an element
    with itself, which tell its electrons.

    Raises:
        UserError: the basis lacks shells for electrons of the free atom.
    """
    end = ["Spline", "1 1.0", "0.0 0.0 -1.0", "0.5 1.0 0.0 0.0 0.0 0.0 0.0 0.0"]
    rows = [f"{2 * _COLUMNS}*0.0"] * _ROWS
    head = ["@", f"{_SPACING} {_ROWS + 1}"]
    out = {"pair.skf": "\n".join([*head, "0.0 8*0.0 0.0 10*0.0", *rows, *end]) + "\n"}
    for z in elements:
        symbol, shells = chemical_symbols[z], basis.shells[z]
        electrons, wanted = basis.shell_electrons(z), int(basis.nuclear_charges([z])[0])
        if sum(electrons) != wanted:
            raise UserError(
                f"basis {basis.name!r} has shells for {sum(electrons)} of the {wanted} electrons of {symbol}; DFTB+ "
                "needs a place for each"
            )
        at = 0
        for k, group in enumerate(shell_groups(shells), 1):
            held = dict(zip(group, electrons[at : at + len(group)], strict=True))
            at += len(group)
            numbers = " ".join(str(held.get(letter, 0)) for letter in "fdps")
            atom = f"4*0.0 0.0 4*0.0 {numbers}"  # energies, spin constant, Hubbard U, electrons
            mass = f"{atomic_masses[z]:.6f} 8*0.0 0.0 10*0.0"
            out[f"{symbol}.{k}.skf"] = "\n".join([*head, atom, mass, *rows, *end]) + "\n"
    return out


def filling_block(smearing: Smearing) -> tuple[str, float]:
    """DFTB+'s name of a distribution, with its order, and its temperature in Eh."""
    if smearing.kind == "methfessel-paxton":
        return f"MethfesselPaxton {{\n    Order = {smearing.order}\n", smearing.width
    return ("Gaussian" if smearing.kind == "gaussian" else "Fermi") + " {\n", smearing.width


def input_text(basis: Basis, elements: list[int], smearing: Smearing, charge: float, settings: bool) -> str:
    """``dftb_in.hsd``. Marks: ``!`` replaces what the settings say, ``/`` stands unless they say something,
    ``*`` adds to it; ``check_processed`` then finds what they should not have said.
    """
    symbols = {z: chemical_symbols[z] for z in elements}
    groups = {z: shell_groups(basis.shells[z]) for z in elements}
    shells = [f"    {symbols[z]} = SelectedShells {{ {' '.join(f'{g!r}' for g in groups[z])} }}" for z in elements]
    files = []
    for a in elements:
        for b in elements:
            names = [
                f'"{symbols[a]}.{i}.skf"' if a == b and i == j else '"pair.skf"'
                for i in range(1, len(groups[a]) + 1)
                for j in range(1, len(groups[b]) + 1)
            ]
            files.append(f"    {symbols[a]}-{symbols[b]} = {' '.join(names)}")
    filling, temperature = filling_block(smearing)
    lines = [
        f'<<+ "{SETTINGS_FILE}"' if settings else "",
        f'!Geometry = GenFormat {{\n  <<< "{STRUCTURE_FILE}"\n}}',
        "*Hamiltonian = *DFTB {",
        "  /SCC = No",
        f"  /Charge = {charge!r}",
        f"  /Filling = {filling}    Temperature = {temperature!r}\n  }}",
        "  !MaxAngularMomentum {",
        *shells,
        "  }",
        "  !SlaterKosterFiles {",
        *files,
        "  }",
        "  !ASI {}",  # without it registering a callback crashes the process
        "}",
        "!Driver {}",
        "*Options {\n  !WriteDetailedOut = Yes\n  /WriteHS = No\n  /WriteRealHS = No",
        '  !BinaryAccessTypes = "stream"\n}',
        "*Analysis {\n  /MullikenAnalysis = No\n  /PrintForces = No",
        "  !WriteBandOut = Yes\n  !WriteEigenvectors = Yes\n}",
        "*ParserOptions {",
        f"  /ParserVersion = {_PARSER_VERSION}\n  !WriteHSDInput = Yes\n  !StopAfterParsing = No\n}}",
    ]
    return "\n".join(lines).lstrip() + "\n"


def write_input(folder: Path, prediction: Prediction, smearing: Smearing, charge: float, settings: str) -> None:
    """All that DFTB+ needs of a molecule but its matrices.

    Raises:
        UserError: see ``structural_files``; the disk refuses.
    """
    basis = prediction.basis
    elements = list(dict.fromkeys(int(z) for z in prediction.atomic_numbers))
    for name, text in structural_files(basis, elements).items():
        write_text(folder / name, text)
    write_text(folder / STRUCTURE_FILE, gen_text(prediction.atomic_numbers, prediction.positions))
    if settings:
        write_text(folder / SETTINGS_FILE, settings.rstrip() + "\n")
    write_text(folder / INPUT_FILE, input_text(basis, elements, smearing, charge, bool(settings)))


# ---- what DFTB+ understood ------------------------------------------------------------------------------------


def processed_input(text: str) -> dict[str, str]:
    """Lower-case path -> value of a ``dftb_pin.hsd``, e.g. ``{"hamiltonian/dftb/scc": "no"}``."""
    path: list[list[str]] = []
    out = {}
    for line in text.splitlines():
        line = line.strip().lower()
        opened = re.fullmatch(r"([^={}]+?)\s*=\s*([^={}]*?)\s*\{(\s*\})?", line)
        if opened:
            names = [name for name in opened.group(1, 2) if name]
            if opened.group(3):
                out["/".join(sum(path, []) + names)] = ""
            else:
                path.append(names)
        elif line == "}" and path:
            path.pop()
        elif " = " in line:
            name, _, value = line.partition(" = ")
            out["/".join(sum(path, []) + [name.strip()])] = value.strip().strip('"')
    return out


_OWN = "DFTB+ would silently compute it with its own matrices"
_STOPS = "DFTB+ ends the process once it has written them"
#: setting -> what it has to be, why
_NEEDED = {
    "Hamiltonian/DFTB/SCC": ("no", "the given H does not answer to charges, DFTB+ would silently keep it as it is"),
    "Hamiltonian/DFTB/ElectricField": ("", "it would change DFTB+'s own Hamiltonian only"),
    "Analysis/MullikenAnalysis": ("no", f"{_OWN}; the prediction has mulliken_charges"),
    "Analysis/PrintForces": ("no", "the matrices have no forces"),
    "Analysis/AtomResolvedEnergies": ("no", _OWN),
    "Analysis/EigenvectorsAsText": ("no", f"{_OWN}; the result has orbital_coefficients"),
    "Analysis/ProjectStates": ("", _OWN),
    "Options/WriteHS": ("no", f"{_STOPS}; schnorb_t predict --dftbplus writes these files"),
    "Options/WriteRealHS": ("no", _STOPS),
}


def check_processed(folder: Path, smearing: Smearing, charge: float) -> None:
    """Refuse settings under which DFTB+ would not work with given matrices.

    Raises:
        UserError: names the setting and the reason.
    """
    path = folder / PROCESSED_FILE
    if not path.is_file():
        return  # the input is not even well formed: DFTB+ tells why
    found = processed_input(path.read_text(errors="replace"))
    for name, (value, reason) in _NEEDED.items():
        key = name.lower()
        if found.get(key, value) != value or any(other.startswith(f"{key}/") for other in found):
            raise UserError(f"settings: {name} cannot be had: {reason}; leave it out")
    place = "hamiltonian/dftb"
    if f"{place}/scc" not in found:
        raise UserError("settings: the Hamiltonian must be DFTB, as the matrices are handed to that")
    if not _equal(found.get(f"{place}/charge"), charge):
        raise UserError("settings: give the charge as charge= instead")
    kind, width = filling_block(smearing)
    filling = f"{place}/filling/{kind.split()[0].lower()}"
    same = _equal(found.get(f"{filling}/temperature"), width)
    if smearing.kind == "methfessel-paxton":
        same = same and _equal(found.get(f"{filling}/order"), smearing.order)
    if not same or f"{filling}/fixedfermilevel" in found:
        raise UserError("settings: give the filling as smearing= instead")


def _equal(text: str | None, value: float) -> bool:
    try:
        return text is not None and abs(float(text) - value) <= 1e-12 * max(1.0, abs(value))
    except ValueError:
        return False


# ---- what DFTB+ found -----------------------------------------------------------------------------------------


#: Number of the level, eV, electrons; columns may touch where an energy is large.
_BAND_ROW = re.compile(r"\s*(\d+?)\s*(-?\d+\.\d+|\*+)\s*(\d+\.\d+)\s*")


def _fortran(text: str) -> float:
    return float("nan") if text.startswith("*") else float(text)


def read_band_file(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """``band.out`` of a molecule: orbital energies [m] (Eh, from eV in DFTB+'s own constants; 1e-4 eV fine) and
    electrons in each [m] (1e-5 fine). Energies too wide for their column, which Fortran writes as stars, are NaN.

    Raises:
        UserError: missing, damaged, or with several k-points or spins.
    """
    try:
        lines = Path(path).read_text().splitlines()
        rows = [_BAND_ROW.fullmatch(line) for line in lines[1:] if line.strip()]
        if not all(rows):
            raise ValueError(f"line {2 + rows.index(None)} is no number, energy and filling")
        table = np.array([[_fortran(x) for x in row.groups()] for row in rows if row]).reshape(-1, 3)
        if not lines[0].split()[:1] == ["KPT"] or table[:, 0].tolist() != list(range(1, len(table) + 1)):
            raise ValueError("not the levels of one molecule")
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a band file of DFTB+ ({error})") from None
    return table[:, 1] / DFTBPLUS_HARTREE, table[:, 2]


def read_eigenvectors(path: str | Path, n_orbitals: int) -> np.ndarray:
    """[m, m], columns are orbitals, of an ``eigenvec.bin``: an integer, then the columns in double precision.

    Raises:
        UserError: missing, or not of this size.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(data) != 4 + 8 * n_orbitals**2:
        raise UserError(f"{path}: {len(data)} bytes are not {n_orbitals} orbitals")
    return np.frombuffer(data, dtype=np.float64, offset=4).reshape(n_orbitals, n_orbitals).T.copy()


def read_energies(path: str | Path) -> dict[str, float]:
    """``fermi level``, ``band energy``, ``ts`` of a ``detailed.out``, Eh (1e-10 fine).

    Raises:
        UserError: missing, or without them.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    out = {}
    for name in ("Fermi level", "Band energy", "TS"):
        line = re.search(rf"^{name}:\s+(-?[\d.]+(?:E[+-]?\d+)?) H\s", text, re.MULTILINE)
        if not line:
            raise UserError(f"{path}: has no {name}")
        out[name.lower()] = float(line.group(1))
    return out
