"""What every finished output of ORCA (2.6 to 6.1) states: outcome, level of theory, geometry, energies, charges.

Used for the outputs themselves (``orca_text``) and for the output that lies beside an ``orca_2json`` file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..structures.rules import ONLY_CLOSED_SHELLS
from .orca_calculation import ATOMIC_NUMBER, ORCA_BOHR, refuse

#: Programs' lengths of the Bohr lie within this, Å (0.529167 in ORCA 2.6, 0.529177 since CODATA 1986).
_BOHR_SPREAD = 1.5e-5

_RUN_AGAIN = "run it again"
FLOAT = r"-?\d+\.\d+"

_SETTINGS = {  # what ORCA prints in SCF SETTINGS -> key of the level of theory
    "Method": "method",
    "Exchange": "exchange",
    "Correlation": "correlation",
    "LDAOpt": "lda",
    "ScalHFX": "hf_exchange",
    "ScalDFX": "gga_exchange",
    "ScalDFC": "gga_correlation",
    "ScalLDAC": "lda_correlation",
    "RSMu": "range_separation",
}


@dataclass(frozen=True)
class OrcaOutput:
    """The lines of an output whose SCF converged and that ended normally, and what every such output states.

    Attributes:
        lines: the text.
        version: ORCA's.
        charge, n_electrons, n_orbitals: from SCF SETTINGS.
    """

    path: str
    lines: list[str]
    version: str
    charge: int
    n_electrons: int
    n_orbitals: int

    @cached_property
    def _titles(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for i, line in enumerate(self.lines):
            text = line.strip()
            if text and not text[0].isdigit() and len(text) < 80:
                out.setdefault(text, []).append(i)
        return out

    def find(self, *titles: str) -> int | None:
        """The line of a section's title, or ``None``. A second one is refused."""
        places = [i for title in titles for i in self._titles.get(title, [])]
        if len(places) > 1:
            refuse(
                self.path,
                f"has {titles[0]!r} {len(places)} times (lines {', '.join(str(i + 1) for i in sorted(places)[:5])}); "
                "one file must hold one single point",
            )
        return places[0] if places else None

    def places(self, title: str) -> list[int]:
        """Numbers of the lines with this title, in order."""
        return self._titles.get(title, [])

    def line(self, i: int) -> str:
        """Line ``i``.

        Raises:
            UserError: the file ends before it.
        """
        if i >= len(self.lines):
            refuse(self.path, "ends in the middle of a table")
        return self.lines[i]


def read_output(path: str | Path) -> OrcaOutput:
    """Read an output and see whether there is a finished closed-shell SCF in it.

    Raises:
        UserError: not ORCA's, not converged, aborted, cut off, open shell, or several calculations in one file.
    """
    path = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8", "replace")
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})")
    return parse_output(path, text)


def parse_output(path: str, text: str) -> OrcaOutput:
    """``read_output`` for a text in memory."""
    lines = [line.rstrip() for line in text.split("\n")]
    if max(map(len, lines)) > 2000:
        refuse(path, "is no ORCA output (a line of more than 2000 characters)")
    version = next((m[1] for m in (re.search(r"Program Version\s+(\S+)", x) for x in lines[:400]) if m), None)
    if version is None:
        refuse(path, "is no ORCA output (no 'Program Version' near its beginning)")

    not_converged = next((x for x in lines if "SCF NOT CONVERGED" in x or "SCF NOT FULLY CONVERGED" in x), None)
    if not_converged:
        refuse(path, f"SCF not converged: {not_converged.strip(' *!')}; {_RUN_AGAIN} with more cycles or SlowConv")
    aborted = next((x for x in lines if "error termination in" in x or "aborting the run" in x), None)
    if aborted:
        why = next((x for x in lines if re.search(r"\bError\b *\(", x)), "")
        why = re.search(r"Error\b.*", why)[0] if why else "no reason printed"
        refuse(path, f"ORCA aborted ({aborted.strip(' .')}): {why}")
    n_converged = sum("SCF CONVERGED AFTER" in x for x in lines)
    finished = any("ORCA TERMINATED NORMALLY" in x for x in lines)
    if n_converged == 0:
        state = "no SCF in it converged" if finished else "stops in or before the SCF, which is not converged"
        refuse(path, f"{state} (no 'SCF CONVERGED AFTER'): killed, out of time or still running? {_RUN_AGAIN}")
    if not finished:
        refuse(path, f"is cut off (no 'ORCA TERMINATED NORMALLY'): killed, out of time or still running? {_RUN_AGAIN}")
    if n_converged > 1:
        refuse(path, f"holds {n_converged} SCF calculations (optimisation or several jobs); import single points only")

    def setting(name: str, pattern: str) -> str:
        found = {m[1] for m in (re.match(rf".*\s{name}\s+\.\.\.\.\s+({pattern})\s*$", x) for x in lines) if m}
        if len(found) != 1:
            refuse(path, f"{'no' if not found else 'contradicting'} {name!r} in SCF SETTINGS")
        return found.pop()

    kind, multiplicity = setting("HFTyp", r"\w+"), setting("Mult", r"\d+")
    if kind not in ("RHF", "RKS") or multiplicity != "1":
        refuse(path, f"open shell: {kind}, multiplicity {multiplicity}, {ONLY_CLOSED_SHELLS}; import RHF and RKS")
    charge, n_electrons, n_orbitals = (
        int(setting(n, p)) for n, p in (("Charge", r"-?\d{1,4}"), ("NEL", r"\d{1,6}"), ("Dim", r"\d{1,6}"))
    )
    return OrcaOutput(path, lines, version, charge, n_electrons, n_orbitals)


def geometry(output: OrcaOutput) -> tuple[list[int], np.ndarray]:
    """Atomic numbers and positions [n, 3], Bohr, as the integrals saw them (symmetry may have turned the input)."""
    at, check = output.find("CARTESIAN COORDINATES (A.U.)"), output.find("CARTESIAN COORDINATES (ANGSTROEM)")
    if at is None or check is None:
        refuse(output.path, "prints no coordinates")
    numbers, positions = [], []
    # "C :" is a ghost atom, "4.0000*" a charge without the electrons of an effective core potential
    pattern = re.compile(rf"(\d+)\s+(\w+)(?:\s*:)?\s+(\d+\.\d+)\*?\s+\d+\s+{FLOAT}\s+({FLOAT})\s+({FLOAT})\s+({FLOAT})")
    i = at + 3
    while output.line(i).strip():
        found = pattern.fullmatch(output.lines[i].strip())
        z = ATOMIC_NUMBER.get(found[2].capitalize()) if found else None
        if z is None or int(found[1]) != len(numbers):
            refuse(output.path, f"line {i + 1}: expected atom {len(numbers)}, got {output.lines[i].strip()[:80]!r}")
        if float(found[3]) != z:
            refuse(
                output.path,
                f"atom {len(numbers)} ({found[2]}) has nuclear charge {found[3]}; effective core potentials and ghost "
                "atoms are not imported: use an all-electron basis",
            )
        numbers.append(z)
        positions.append([float(found[k]) for k in (4, 5, 6)])
        i += 1
    out = np.array(positions)
    if not numbers or sum(numbers) - output.charge != output.n_electrons:
        refuse(
            output.path,
            f"{output.n_electrons} electrons, but the atoms and the charge have {sum(numbers)} - {output.charge}",
        )
    angstrom: list[list[float]] = []
    for k, z in enumerate(numbers):
        words = output.line(check + 2 + k).split()
        plain = len(words) == 4 and all(re.fullmatch(FLOAT, w) for w in words[1:])
        if not plain or ATOMIC_NUMBER.get(words[0].capitalize()) != z:
            refuse(output.path, f"the two lists of coordinates (Å and Bohr) differ at atom {k}")
        angstrom.append([float(w) for w in words[1:]])
    bohr = _bohr_of(np.array(angstrom), out)
    off = np.abs(np.array(angstrom) / bohr - out).max(axis=1)
    if off.max() > 1e-4:
        refuse(output.path, f"the two lists of coordinates (Å and Bohr) differ at atom {int(off.argmax())}")
    return numbers, out


def _bohr_of(angstrom: np.ndarray, bohr: np.ndarray) -> float:
    """Å per Bohr of the program that printed these positions [n, 3] twice.

    It is the ratio of both lists (least squares), where that is a length of the Bohr that programs have used (ORCA 2.6:
    0.529167), else ORCA's later one, from which damaged lists then differ.
    """
    size = float((bohr**2).sum())
    ratio = float((angstrom * bohr).sum()) / size if size > 1.0 else ORCA_BOHR
    return ratio if abs(ratio - ORCA_BOHR) < _BOHR_SPREAD else ORCA_BOHR


def printed_energies(output: OrcaOutput) -> tuple[np.ndarray, np.ndarray]:
    """(energies, occupations) of ORBITAL ENERGIES, 6 decimals; ORCA 6 prints only the first ten virtual ones."""
    at = output.find("ORBITAL ENERGIES")
    if at is None:
        refuse(output.path, "prints no orbital energies")
    energies, occupations = [], []
    pattern = re.compile(r"\s*(\d+)\s+(\d\.\d{4})\s+(-?\d+\.\d{6})\s+(-?\d+\.\d{4})(\s+\S+)?\s*")
    i = at + 2
    while i < len(output.lines) and (not output.lines[i].strip() or output.lines[i].split()[0] == "NO"):
        i += 1
    while i < len(output.lines) and (found := pattern.fullmatch(output.lines[i])):
        energy_eh, energy_ev = float(found[3]), float(found[4])  # ORCA's Hartree was 27.2107 eV in 2.6
        if int(found[1]) != len(energies) or abs(energy_eh * 27.211386 - energy_ev) > 5e-4 + 3e-5 * abs(energy_ev):
            refuse(output.path, f"line {i + 1}, ORBITAL ENERGIES: {output.lines[i].strip()!r} is damaged")
        energies.append(energy_eh)
        occupations.append(float(found[2]))
        i += 1
    if 2 * len(energies) < output.n_electrons:
        refuse(output.path, f"ORBITAL ENERGIES ends after {len(energies)} orbitals for {output.n_electrons} electrons")
    return np.array(energies), np.array(occupations)


def basis_name(output: OrcaOutput) -> str | None:
    """``Your calculation utilizes the basis: NAME``, or before ORCA 4 the one keyword that looks like a basis."""
    stated = [x.split(":", 1)[1].strip() for x in output.lines if x.startswith("Your calculation utilizes the basis:")]
    if stated:
        return stated[0] if len(set(stated)) == 1 else None
    likely = re.compile(r"(sto-\dg|\d-\d+\S*g\S*|(ma-)?def2-\S+|(aug-)?cc-p\S+|sv\(?p?\)?|tzvp+|qzvp+)", re.IGNORECASE)
    words = [w for x in output.lines if (m := re.match(r"\|\s*\d+>\s*!(.*)", x)) for w in m[1].split()]
    found = {w for w in words if likely.fullmatch(w) and "/" not in w}
    return found.pop() if len(found) == 1 else None


def level_of_theory(output: OrcaOutput) -> dict[str, str]:
    """What SCF SETTINGS says about the Hamiltonian: method, functional, its fractions, RI and COSX, solvent."""
    at = output.places("SCF SETTINGS")
    if not at:
        refuse(output.path, "prints no SCF SETTINGS")
    level = {"ri_j": "off", "cosx": "off"}
    for line in output.lines[at[0] : at[0] + 80]:
        if line.startswith("General Settings"):
            break
        found = re.match(r".*?\s(\w+)\s+\.\.\.\.\s+(\S+)", line)
        if found and found[1] in _SETTINGS:
            level[_SETTINGS[found[1]]] = found[2]
        if "RI-approximation to the Coulomb term is turned on" in line:
            level["ri_j"] = "on"
        if "RIJ-COSX" in line:
            level["cosx"] = "on"
    if "method" not in level:
        refuse(output.path, "SCF SETTINGS names no method")
    for key, sign in (("solvent", "CPCM SOLVATION MODEL"), ("relativity", "Relativistic Method")):
        stated = next((x for x in output.lines if sign in x), None)
        if stated:
            level[key] = " ".join(stated.split())
    return level


def energy(output: OrcaOutput, name: str) -> float:
    """An energy of TOTAL SCF ENERGY, Eh: of the SCF alone, without MP2 or dispersion corrections."""
    at = output.find("TOTAL SCF ENERGY")
    block = output.lines[at : at + 16] if at is not None else []
    found = [m for m in (re.match(rf"{name}\s*:\s+({FLOAT}) Eh", x) for x in block) if m]
    if len(found) != 1:
        refuse(output.path, f"prints no {name!r} in TOTAL SCF ENERGY")
    return float(found[0][1])


def mulliken(output: OrcaOutput, numbers: list[int]) -> np.ndarray | None:
    """Mulliken charges, [n], if printed once (a later method may print its own)."""
    places = output.places("MULLIKEN ATOMIC CHARGES")
    if len(places) != 1:
        return None
    charges = []
    for k, z in enumerate(numbers):
        line = output.line(places[0] + 2 + k)
        found = re.fullmatch(rf"\s*(\d+)\s+([A-Z][A-Za-z]?)\s*:\s+({FLOAT})\s*", line)
        if found is None or int(found[1]) != k or ATOMIC_NUMBER.get(found[2].capitalize()) != z:
            refuse(output.path, f"line {places[0] + 3 + k}, Mulliken charges: {line.strip()[:60]!r} is not atom {k}")
        charges.append(float(found[3]))
    return np.array(charges)
