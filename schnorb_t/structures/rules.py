"""What a structure must be to be worked on: one list of rules, and one sentence for each fault, at every door."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from schnorb_t.errors import UserError

from .geometry import closest, other_unit, scale_fault
from .structure import Structure, as_structure, describe, symbol_of

#: Atoms closer than this part of the sum of their covalent radii overlap. A triple bond squeezed by 30 % has 0.54.
OVERLAP = 0.4
#: Bad structures that a message lists before it only counts.
MAX_LISTED = 10

#: Atomic numbers that a model or basis knows; ``None``: all.
Known = Collection[int] | None
#: Total charges (e) that can be treated; ``None``: all.
Charges = Collection[int] | None
#: Of whatever knows neutral molecules only.
NEUTRAL = (0,)

ONLY_CLOSED_SHELLS = "and only closed shells can be treated so far"

_NO_NUMBER = "position of atom {} ({}) is NaN or infinite; mend or remove it"


def _no_atoms(s: Structure, known: Known) -> str:
    return "" if len(s) else s.faults[0] if s.faults else "has no atoms; remove it"


def _positions(s: Structure, known: Known) -> str:
    bad = np.flatnonzero(~np.isfinite(s.positions).all(1))
    return _NO_NUMBER.format(bad[0], symbol_of(s, bad[0])) if len(bad) else ""


def _elements(s: Structure, known: Known) -> str:
    bad = np.flatnonzero((s.atomic_numbers <= 0) | (s.atomic_numbers >= len(chemical_symbols)))
    if not len(bad):
        return ""
    symbol = symbol_of(s, bad[0])
    if symbol.upper() == "TV":
        return "is periodic (translation vector Tv), and only molecules can be treated so far; remove the Tv lines"
    return f"holds {symbol}, which is no element (atom {bad[0]}); ghost and dummy atoms cannot be treated: remove them"


def _known_elements(s: Structure, known: Known) -> str:
    if known is None:
        return ""
    unknown = sorted(set(s.atomic_numbers.tolist()) - set(known))
    if not unknown:
        return ""
    symbols = ", ".join(chemical_symbols[z] for z in sorted(known))
    return (
        f"holds {', '.join(chemical_symbols[z] for z in unknown)}, and the model knows only {symbols}; leave it out or "
        "train a model on such molecules"
    )


def _reading(s: Structure, known: Known) -> str:
    return s.faults[0] if s.faults else ""


def _periodic(s: Structure, known: Known) -> str:
    if not any(s.pbc):
        return ""
    which = "".join("TF"[not p] + " " for p in s.pbc).strip()
    return (
        f'is periodic (pbc="{which}"), and only molecules can be treated so far; switch periodicity off (pbc="F F F" '
        "in extended xyz) if it is one molecule in a box"
    )


def charges_text(charges: Iterable[int]) -> str:
    """``-1, 0, +1``."""
    return ", ".join(f"{q:+d}" if q else "0" for q in sorted(charges))


def charge_fault(s: Structure, charges: Charges = NEUTRAL) -> str:
    """Why the charge of a structure is none of those that can be treated; ``""`` if it is."""
    where = f" ({s.charge_from})" if s.charge_from else ""
    if charges is None or s.charge in charges:
        if s.n_electrons > 0:
            return ""
        return f"has charge {s.charge:+d}{where}, which leaves {s.n_electrons} electrons; correct it or leave it out"
    if set(charges) <= {0}:
        what, remedy = "only neutral molecules can be treated so far", "neutralise it or leave it out"
    else:
        what = f"the model knows only charges {charges_text(charges)}"
        remedy = "leave it out or train a model on such ions"
    return f"has charge {s.charge:+d}{where}, and {what}; {remedy}"


def _overlap(s: Structure, known: Known) -> str:
    if len(s) < 2:
        return ""
    other, ratio = closest(s.atomic_numbers, s.positions)
    i = int(ratio.argmin())
    if ratio[i] >= OVERLAP:
        return ""
    i, j = sorted((i, int(other[i])))
    apart = np.linalg.norm(s.positions[i] - s.positions[j])
    advice = other_unit(s.atomic_numbers, s.positions)
    return (
        f"atoms {i} ({symbol_of(s, i)}) and {j} ({symbol_of(s, j)}) overlap: {apart:.3f} Å apart; is an atom there "
        f"twice, or are the positions not in Å?{advice and f' {advice}'}"
    )


def _scale(s: Structure, known: Known) -> str:
    return scale_fault(s.atomic_numbers, s.positions)


def _shell(s: Structure, known: Known) -> str:
    if s.n_electrons % 2:
        return f"open shell: {s.n_electrons} electrons, an odd number, {ONLY_CLOSED_SHELLS}; is a hydrogen missing?"
    if s.multiplicity > 1:
        where = f" ({s.multiplicity_from})" if s.multiplicity_from else ""
        return (
            f"open shell: multiplicity {s.multiplicity}{where}, {ONLY_CLOSED_SHELLS}; leave it out, or "
            "state multiplicity 1 if all electrons are paired"
        )
    return ""


def _charge(s: Structure, known: Known) -> str:
    return charge_fault(s)


@dataclass(frozen=True)
class Rule:
    """One thing that a structure must be.

    Attributes:
        name: of the rule.
        fault: a structure, and the elements that are known here (``None``: all) -> why it breaks the rule, with the
            remedy, as a sentence without subject; ``""`` if it does not.
    """

    name: str
    fault: Callable[[Structure, Known], str]


#: In the order in which they are looked at; each may rely on those before it.
RULES = (
    Rule("atoms", _no_atoms),
    Rule("positions", _positions),
    Rule("elements", _elements),
    Rule("known elements", _known_elements),
    Rule("reading", _reading),
    Rule("periodic", _periodic),
    Rule("overlap", _overlap),
    Rule("charge", _charge),
    Rule("scale", _scale),
    Rule("closed shell", _shell),
)


def broken_rule(structure: Atoms | Structure, elements: Known = None, charges: Charges = NEUTRAL) -> tuple[str, str]:
    """The first rule that a structure breaks.

    Args:
        structure: positions in Å.
        elements: atomic numbers that a model or basis knows; ``None`` allows all.
        charges: total charges that can be treated; ``None`` allows all.

    Returns:
        name of the rule and the fault; two empty texts for a sound structure.
    """
    s = as_structure(structure)
    for rule in RULES:
        fault = charge_fault(s, charges) if rule.name == "charge" else rule.fault(s, elements)
        if fault:
            return rule.name, fault
    return "", ""


def fault_of(structure: Atoms | Structure, elements: Known = None, charges: Charges = NEUTRAL) -> str:
    """Why a structure cannot be worked on, with the remedy; ``""`` if it can. Arguments as ``broken_rule``."""
    return broken_rule(structure, elements, charges)[1]


def open_shell(structure: Atoms | Structure) -> str:
    """Why a structure has no closed shell, ``""`` if it has (as far as the input tells)."""
    return _shell(as_structure(structure), None)


def check_structure(
    structure: Atoms | Structure,
    elements: Known = None,
    index: int = 0,
    file: str | Path | None = None,
    charges: Charges = NEUTRAL,
) -> None:
    """Refuse a structure that cannot be worked on.

    Args:
        structure: positions in Å.
        elements: atomic numbers that a model or basis knows; ``None`` allows all.
        index: what to call it.
        file: where it comes from, for the message.
        charges: total charges that can be treated; ``None`` allows all.

    Raises:
        UserError: names file, structure, fault and remedy.
    """
    fault = fault_of(structure, elements, charges)
    if fault:
        raise UserError(f"{f'{file}, ' if file else ''}{describe(index, structure)}: {fault}")


def check_structures(
    structures: Iterable[Atoms | Structure],
    elements: Known = None,
    file: str | Path | None = None,
    skip_bad: bool = False,
    charges: Charges = NEUTRAL,
) -> tuple[list[int], list[str]]:
    """Check all structures before any work.

    Args:
        structures: to check, looked at one by one and once.
        elements: atomic numbers that a model or basis knows; ``None`` allows all.
        file: where they come from, for messages.
        skip_bad: do not raise for bad structures as long as one is sound.
        charges: total charges that can be treated; ``None`` allows all.

    Returns:
        indices of the sound ones, and a line for each of the others.

    Raises:
        UserError: some are bad (with ``skip_bad``: all are); names each, up to ``MAX_LISTED``.
    """
    sound, bad = [], []
    for index, structure in enumerate(structures):
        fault = fault_of(structure, elements, charges)
        if fault:
            bad.append(f"{describe(index, structure)}: {fault}")
        else:
            sound.append(index)
    if bad and (not skip_bad or not sound):
        refuse_all(bad, len(sound) + len(bad), file, skippable=not skip_bad and bool(sound) and bool(file))
    return sound, bad


def sort_out(
    structures: Iterable[Structure], skip_bad: bool = False, skippable: bool = True, charges: Charges = NEUTRAL
) -> dict[str, str]:
    """Name -> reason of every structure that cannot be calculated, found before any calculation.

    Args:
        structures: with names; looked at one by one and once.
        skip_bad: do not raise for broken structures.
        skippable: point to ``--skip-bad`` in the message.
        charges: total charges that can be treated; ``None`` allows all.

    Returns:
        the reasons. Open shells are no fault of the input, so they are here without ``skip_bad`` too.

    Raises:
        UserError: a structure is broken and ``skip_bad`` is not given, or none is left; names each, up to
            ``MAX_LISTED``.
    """
    broken: dict[str, str] = {}
    shells: dict[str, str] = {}
    places: dict[str, int] = {}
    total = 0
    for s in structures:
        rule, fault = broken_rule(s, charges=charges)
        if fault:
            (shells if rule == "closed shell" else broken)[s.name] = fault
            places[s.name] = total
        total += 1
    bad = {**broken, **shells} if len(broken) + len(shells) == total else broken
    if bad and (not skip_bad or len(bad) == total):
        lines = [f"structure {k} ({name}): {bad[name]}" for name, k in places.items() if name in bad]
        more = f"\n  and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
        rest = "" if len(bad) == total or not skippable else "\nmend them, or leave them out with --skip-bad"
        listing = "\n  ".join(lines[:MAX_LISTED])
        raise UserError(f"{len(bad)} of {total} structures cannot be labelled:\n  {listing}{more}{rest}")
    return {name: broken.get(name) or shells[name] for name in places}


def refuse_all(bad: Sequence[str], total: int, file: str | Path | None = None, skippable: bool = True) -> None:
    """Raise the error that lists bad structures.

    Args:
        bad: a line for each.
        total: how many there were, good and bad.
        file: where they come from.
        skippable: point to ``--skip-bad``.

    Raises:
        UserError: always.
    """
    where = f"{file}, " if file else ""
    if len(bad) == 1 and total == 1:
        raise UserError(where + bad[0])
    more = [f"... and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    rest = "; mend them, or skip them with --skip-bad" if skippable else ""
    listing = "\n  ".join([*bad[:MAX_LISTED], *more])
    raise UserError(f"{where}{len(bad)} of {total} structures cannot be worked on{rest}\n  {listing}")
