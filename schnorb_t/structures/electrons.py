"""Charge and spin of a molecule, under every name that programs and file formats give them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["charge", "multiplicity", "unpaired", "spin", "moment", "charges", "moments"]

#: Sums of charges of atoms nearer to 0 than this are rounding, e.
ROUNDING = 0.25
#: Magnetic moments below this are noise, Bohr magnetons.
NOISE = 0.1

# names as _plain makes them: lower case, letters and digits only
_CHARGE = frozenset(
    """charge charges totalcharge totcharge chargetotal netcharge chargenet molecularcharge moleculecharge molcharge
    molecharge systemcharge formalcharge totalformalcharge overallcharge ioncharge ioniccharge chargestate chrg chg
    totalcharges q qtot qtotal qmol totalq netq molchg totchg totalchg""".split()
)
_MULTIPLICITY = frozenset(
    """multiplicity spinmultiplicity totalmultiplicity totalspinmultiplicity groundstatemultiplicity mult multip
    spinmult 2s1 2sp1 2splus1""".split()
)
_UNPAIRED = frozenset(
    """uhf unpaired nunpaired numunpaired unpairedelectrons nunpairedelectrons numunpairedelectrons
    numberunpairedelectrons numberofunpairedelectrons nopen openshells nopenshell 2s twos""".split()
)
_SPIN = frozenset(
    "spin totalspin totspin netspin spintotal molecularspin moleculespin molspin systemspin sz spinstate".split()
)
_MOMENT = frozenset(
    """magmom totalmagmom magneticmoment totalmagneticmoment magnetization magnetisation totalmagnetization
    totalmagnetisation netmagmom netmagneticmoment""".split()
)
_METHODS = (
    "initial partial atomic atom formal mulliken lowdin loewdin löwdin hirshfeld cm5 mbis resp esp chelpg mk gasteiger "
)
_METHODS += "npa nbo nao ddec ddec6 bader eeq aim dftb xtb ref dft net"
_CHARGES = frozenset(
    [m + c for m in ["", *_METHODS.split()] for c in ("charge", "charges")]
    + ["q", "qs", "atomcharge", "pointcharges"]
    + ["oxidationstate", "oxidationstates", "oxidationnumber", "oxidationnumbers"]
)
_MOMENTS = frozenset(
    """initialmagmoms initialmagmom magmoms magmom magneticmoments magneticmoment spins spin spindensities spindensity
    mullikenspins mullikenspin spinpopulations atomspins atomicspins""".split()
)
_KINDS: dict[Kind, frozenset[str]] = {
    "charge": _CHARGE,
    "multiplicity": _MULTIPLICITY,
    "unpaired": _UNPAIRED,
    "spin": _SPIN,
    "moment": _MOMENT,
}
#: What options of programs say under the name "spin" without a number of electrons.
_NO_SPIN = frozenset("collinear noncollinear polarized unpolarized restricted unrestricted free off no rks uks".split())
#: Last words of longer names, and words that make these something else.
_LAST_WORDS: dict[str, Kind] = {
    "mult": "multiplicity",
    "multip": "multiplicity",
    "uhf": "unpaired",
    "unpaired": "unpaired",
    "nopen": "unpaired",
    "spin": "spin",
}
_ANOTHER_SPIN = frozenset(
    "energy e ev orbit contamination squared nuclear atom site initial max min scale flip".split()
)
#: Words beside "charge" that make it something else than the charge of the molecule.
_ANOTHER_CHARGE = frozenset(
    """nuclear core valence max min mean std n num number count model method scheme type id index iter cycle density
    mixing convergence error transfer center centre atom atomic partial point background mulliken lowdin loewdin
    hirshfeld label name source units unit""".split()
)
#: Last words of columns that hold charges or moments, whatever method stands before them; words that deny it.
_CHARGE_WORDS = frozenset(["charge", "charges"])
_MOMENT_WORDS = frozenset(["magmom", "magmoms", "spins"])
_ANOTHER_COLUMN = frozenset("nuclear nuc core valence max min std error site nuclei z nmr".split())
#: Names of a charge and a multiplicity in one entry.
_BOTH = frozenset(
    """chargemult chargemultiplicity chargeandmultiplicity chargeandmult chargespin chargeandspin chargespinmultiplicity
    chargespinmult""".split()
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def _plain(key: str) -> str:
    return re.sub(r"[^a-zö0-9]", "", key.lower())


@dataclass(frozen=True)
class Statement:
    """One thing that an input says of a molecule's electrons.

    Attributes:
        kind: ``charge`` (e), ``multiplicity`` (2S + 1), ``unpaired`` (electrons), ``spin`` (2S + 1, 2S or S: programs
            differ), ``moment`` (Bohr magnetons), or ``charges`` and ``moments``: [n], of the atoms.
        key: where it stands, for messages.
        value: as found.
    """

    kind: Kind
    key: str
    value: Any


@dataclass(frozen=True)
class Electrons:
    """What all statements together say.

    Attributes:
        charge: e; 0 if nothing is said.
        multiplicity: 2S + 1; 0 if nothing is said.
        charge_from, multiplicity_from: where these stand, ``""`` if nowhere.
        fault: why they cannot be understood, ``""`` if they can.
    """

    charge: int = 0
    multiplicity: int = 0
    charge_from: str = ""
    multiplicity_from: str = ""
    fault: str = ""


def statement_of_atoms(key: str, values: Any) -> Statement | None:
    """What a column of values per atom, [n] or [n, 3], says of the electrons, ``None`` if nothing."""
    name, array = _plain(key), np.asarray(values)
    charges = array.ndim == 1 and (name in _CHARGES or _ends_in(key, _CHARGE_WORDS))
    if not charges and not (name in _MOMENTS or _ends_in(key, _MOMENT_WORDS)):
        return None
    if array.dtype.kind in "USO" and array.size:
        numbers = [_number(value) for value in array.reshape(-1).tolist()]
        if any(number is None for number in numbers):
            return None
        array = np.asarray(numbers).reshape(array.shape)
    if array.dtype.kind not in "iuf":
        return None
    return Statement("charges" if charges else "moments", key, array.astype(float))


def _ends_in(key: str, last: frozenset[str]) -> bool:
    """Whether a column's name is a method and one of the words (``qeq_charges``), none of them of something else."""
    words = [w.lower() for w in _WORD.findall(key)]
    return len(words) > 1 and words[-1] in last and not _ANOTHER_COLUMN & set(words)


def statement(key: str, value: Any) -> Statement | None:
    """What an entry with a number or text says of the electrons, ``None`` if nothing.

    Args:
        key: its name in the file, in any case and spelling.
        value: as found; arrays of one number count as that number.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        if value is None or np.size(value) != 1:
            return None
        value = np.asarray(value).reshape(-1)[0]
        if isinstance(value, bool | np.bool_) or value is None:
            return None
    elif value.strip().lower() in ("", "none", "null"):
        return None
    key = key.strip(" \t()[]{},;'\"")
    name, number = _plain(key), _number(value)
    for kind, names in _KINDS.items():
        if name in names:
            if kind == "spin" and number is None and _plain(str(value)) in _NO_SPIN:
                return None
            # these are too common for other things: text under them says nothing
            return None if number is None and name in ("q", "2s", "charges", "sz") else Statement(kind, key, value)
    if number is not None and (open_shell := _spin_of_square(key, number)) is not None:
        return Statement("moment", f"{key}={number:g}", open_shell) if open_shell else None
    listed = [w.lower() for w in _WORD.findall(key)]
    words = set(listed)
    if number is not None and number == round(number) and abs(number) < 20:
        if "charge" in words and not _ANOTHER_CHARGE & words:
            return Statement("charge", key, value)
        if "multiplicity" in words and not {"site", "wyckoff", "bond"} & words:
            return Statement("multiplicity", key, value)
        if {"unpaired", "electrons"} <= words:
            return Statement("unpaired", key, value)
        if len(listed) > 1 and listed[-1] in _LAST_WORDS and number >= 0 and not _ANOTHER_SPIN & words:
            return Statement(_LAST_WORDS[listed[-1]], key, value)
    return None


def _spin_of_square(key: str, number: float) -> float | None:
    """Unpaired electrons of ``S=1`` or ``<S^2>=2.0`` (0.0 of a closed shell); ``None`` of other entries."""
    if key.strip() == "S":
        return 2 * number if number <= 4 and 2 * number == round(2 * number) and number >= 0 else None
    name = _plain(key)
    if name in ("ssquared", "spinsquared", "ssq") or (name == "s2" and re.search(r"[\^*<]", key)):
        return float(np.sqrt(1 + 4 * number) - 1) if 0.1 < number < 50 else 0.0
    return None


def statements(info: Mapping[Any, Any], arrays: Mapping[str, Any] | None = None) -> list[Statement]:
    """What a table of entries (``Atoms.info``) and one of columns (``Atoms.arrays``) say; tables in tables too."""
    out: list[Statement] = []
    for key, value in info.items():
        if isinstance(value, Mapping):
            out += statements(value)
            if "value" in value and (found := statement(str(key), value["value"])):
                out.append(found)
        elif both := _charge_and_multiplicity(str(key), value):
            out += both
        elif found := statement(str(key), value) or (
            statement_of_atoms(str(key), value) if isinstance(value, Sequence | np.ndarray) and np.ndim(value) else None
        ):
            out.append(found)
    out += filter(None, (statement_of_atoms(key, values) for key, values in (arrays or {}).items()))
    return out


def _charge_and_multiplicity(key: str, value: Any) -> list[Statement]:
    """``charge_mult="-1 2"``, ``charge_multiplicity=[-1, 2]``: both in one entry, else nothing."""
    if _plain(key) not in _BOTH:
        return []
    parts = re.split(r"[\s,;/]+", value.strip(" \t[]()")) if isinstance(value, str) else np.ravel(value).tolist()
    if len(parts) != 2:
        return []
    return [Statement("charge", key, parts[0]), Statement("multiplicity", key, parts[1])]


_IN_TEXT = re.compile(
    r"([A-Za-z<][\w+\-^*<> ]*?)\s*[:=]\s*[\"']?([+-]?\d+(?:\.\d*)?[+-]?)(?: ?e|\|e\|)?[\"']?(?=[\s,;)\]}/|]|$)"
)
_WORD_AND_NUMBER = re.compile(
    r"\b((?:(?:total|net|molecular|formal|overall|spin)[ _])?(?:charge|spin|mult(?:iplicity)?|uhf|unpaired))"
    r"(?:\s+(?:of|is|equals?))?\s+([+-]?\d+[+-]?)(?=[\s,;.)]|$)",
    re.IGNORECASE,
)
_UNPAIRED_ELECTRONS = re.compile(r"(\d+)\s+(unpaired(?:\s+electrons?)?)\b", re.IGNORECASE)
_TWO_NUMBERS = re.compile(r"\s*([+-]?\d)(?:\.0*)?[\s,;/]+([1-9])\s*")
_TWO_AND_TITLE = re.compile(r"\s*([+-]\d)[\s,;/]+([1-9])\s(?=\s*[A-Za-z])")
_BOTH_IN_TEXT = re.compile(
    r"\b(?:charge|chrg|c)\s*(?:/|,|;|&|and\b|\s)\s*(?:spin[ _]?)?(?:mult(?:iplicity)?|spin|m)\b\s*[:=]?\s*[(\[]?\s*"
    r"([+-]?\d+)\s*[,;/\s]\s*(\d+)",
    re.IGNORECASE,
)
_STATES = {"doublet": 2, "triplet": 3, "quartet": 4, "quintet": 5, "sextet": 6, "septet": 7, "octet": 8}
_STATE = re.compile(rf"(?<![\w-])({'|'.join(_STATES)})(?![\w-])(?!\s+(?:gap|instab))", re.IGNORECASE)
_IONS = {"dication": 2, "dianion": -2, "trication": 3, "trianion": -3, "cation": 1, "anion": -1}
_ION = re.compile(
    r"\b(?:radical[ -](cation|anion)\b|(di(?:cat|an)ion|tri(?:cat|an)ion)\b|(cation|anion)[ .]*$)", re.IGNORECASE
)


def statements_in_text(text: str, n_protons: int, words_too: bool = True) -> list[Statement]:
    """What a free line of text says: ``charge: -2``, ``charge -2``, ``mult = 1``; or both alone, ``-2 1``; or in JSON.

    Args:
        text: a comment or title.
        n_protons: sum of the atomic numbers; two bare numbers count only where both fit the number of electrons.
        words_too: where there are no numbers, words such as "triplet" and "radical cation" count.
    """
    text = text[:4000].replace("−", "-").replace("–", "-")
    if text.lstrip().startswith("{"):
        try:
            table = json.loads(text)
        except ValueError:
            table = None
        if isinstance(table, dict):
            return statements(table)
    pair = _TWO_NUMBERS.fullmatch(text) or _TWO_AND_TITLE.match(text)
    if pair:
        charge, multiplicity = int(pair[1]), int(pair[2])
        if abs(charge) <= 4 and (n_protons - charge - multiplicity) % 2:
            return [Statement("charge", "first line", charge), Statement("multiplicity", "first line", multiplicity)]
    out, text = [], text[:1000]
    if both := _BOTH_IN_TEXT.search(text):
        out += [Statement("charge", "charge", int(both[1])), Statement("multiplicity", "multiplicity", int(both[2]))]
        text = text[: both.start()] + " " + text[both.end() :]
    out += [Statement("unpaired", name, number) for number, name in _UNPAIRED_ELECTRONS.findall(text)]
    for name, value in _IN_TEXT.findall(text) + _WORD_AND_NUMBER.findall(text):
        words = name.split()
        for first in range(len(words)):
            if found := statement(" ".join(words[first:]), value):
                out.append(found)
                break
    if not out and words_too:
        if (state := _STATE.search(text)) and "singlet" not in text.lower():
            out.append(Statement("multiplicity", f"its title: {state[1]}", _STATES[state[1].lower()]))
        if ion := _ION.search(text):
            out.append(
                Statement("charge", f"its title: {ion[0].strip(' .')}", _IONS[(ion[1] or ion[2] or ion[3]).lower()])
            )
    return out


def _number(value: Any) -> float | None:
    """``-2``, ``"-2"``, ``"2-"``, ``"+1"``; ``None`` for what is no finite number."""
    if isinstance(value, str):
        value = value.replace("−", "-").strip().strip("()[]{},;'\"").strip()
        value = re.sub(r"(?<=\d)\s*(?:e|\|e\|)$", "", value) if value[-1:].isalpha() or value[-1:] == "|" else value
        if value[-1:] in ("+", "-") and value[:-1].isdecimal():
            value = value[-1] + value[:-1]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _say(s: Statement) -> str:
    return f"{s.key}={s.value}"


def _charge_of(s: Statement) -> tuple[float | None, str, str]:
    """Charge, where it stands, fault."""
    if s.kind == "charge":
        number = _number(s.value)
        if number is None:
            return None, "", f"charge is no number ({_say(s)}); write charge=0 for a neutral molecule, or leave it out"
        if abs(number - round(number)) > 0.01:
            return None, "", f"charge is no whole number ({_say(s)}); correct it"
        return round(number), s.key, ""
    total = float(np.sum(s.value))
    key = f"sum of {s.key}"
    if not np.isfinite(total):
        return None, "", f"{s.key} hold NaN or infinity; correct them, or leave them out"
    if abs(total) <= ROUNDING:
        return None, "", ""
    if abs(total - round(total)) > ROUNDING:
        return None, "", f"charge is no whole number ({key}: {total:+.2f}); correct it"
    return round(total), key, ""


def _multiplicity_of(s: Statement, n_protons: int) -> tuple[int, str]:
    """2S + 1 (0: says nothing) and fault."""
    if s.kind == "moments":
        values = np.asarray(s.value, dtype=float)
        if values.ndim == 2:
            values = np.linalg.norm(values, axis=1)
        if not np.isfinite(values).all():
            return 0, f"{s.key} hold NaN or infinity; correct them, or leave them out"
        if np.abs(values).max(initial=0) <= NOISE:
            return 0, ""
        total = abs(values.sum())
        return 1 + max(1, round(total if total > 0.5 else np.abs(values).sum())), ""
    number = _number(s.value)
    what = {"unpaired": "number of unpaired electrons", "moment": "magnetic moment"}.get(s.kind, s.kind)
    if number is None:
        return 0, f"{what} is no number ({_say(s)}); write multiplicity=1 for a closed shell, or leave it out"
    if s.kind == "moment":
        return (1 + max(1, round(abs(number))) if abs(number) > NOISE else 0), ""
    if s.kind == "spin":
        if n_protons % 2 == 0 and number in (0, 1):
            return 1, ""
        if number == round(number) and number > 0:
            return int(number) + (int(number) % 2 == n_protons % 2 and number > 1), ""
        return (int(2 * abs(number)) + 1 if 2 * number == round(2 * number) else 0), (
            "" if 2 * number == round(2 * number) else f"spin is neither whole nor half ({_say(s)}); correct it"
        )
    if number != round(number) or number < 0:
        return 0, f"{what} is no whole number from 0 on ({_say(s)}); correct it"
    return int(number) + (s.kind == "unpaired"), ""


def electrons(said: Iterable[Statement], n_protons: int) -> Electrons:
    """Charge and multiplicity from everything an input says.

    Args:
        said: in order; the first of several equal ones is named.
        n_protons: sum of the atomic numbers, which tells what ``spin`` means.
    """
    charges: list[tuple[int, str]] = []
    multiplicity, multiplicity_from, fault = 0, "", ""
    for s in said:
        if s.kind in ("charge", "charges"):
            charge, key, wrong = _charge_of(s)
            if charge is not None:
                charges.append((int(charge), key))
        else:
            m, wrong = _multiplicity_of(s, n_protons)
            if m > multiplicity:
                multiplicity, multiplicity_from = m, _origin(s)
        fault = fault or wrong
    charge, charge_from = next(((q, key) for q, key in charges if q), charges[0] if charges else (0, ""))
    other = next(((q, key) for q, key in charges if q != charge), None)
    if other is not None and not fault:
        fault = f"charge is {charge:+d} ({charge_from}) and {other[0]:+d} ({other[1]}); correct the wrong one"
    return Electrons(charge, multiplicity, charge_from, multiplicity_from, fault)


def _origin(s: Statement) -> str:
    return s.key if s.kind == "moments" or s.key.startswith("its title") or "=" in s.key else _say(s)
