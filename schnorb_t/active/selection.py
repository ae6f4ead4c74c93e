"""From a pool of molecules to those that shall be labelled next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from schnorb_t.active.features import look
from schnorb_t.active.methods import METHODS, choose, needs
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.predictor import Predictor
from schnorb_t.structures import NEUTRAL, Structure, fault_of

#: Why a molecule of a pool is no candidate, in the order in which the reasons are looked at.
REASONS = ("labelled already", "held out for validation or test", "of no split", "not sound")


@dataclass(frozen=True)
class Labelled:
    """What is labelled already.

    Attributes:
        names: of all molecules that were tried, also in vain: none is chosen again.
        held_out: groups of the molecules in splits val and test: no geometry of them is chosen.
        structures: of the molecules that are learned from; farthest-point sampling keeps away from them.
    """

    names: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()
    structures: tuple[Structure, ...] = ()

    @classmethod
    def of(cls, store: Store) -> Labelled:
        """What a store holds."""
        splits = store.splits.astype(str)
        learned = np.flatnonzero((splits == "train") | (splits == ""))
        out = np.isin(splits, ("val", "test"))
        records = (store[int(i)] for i in learned)
        return cls(
            frozenset(store.names.tolist()) | {name for name, _, _ in store.failures},
            frozenset(store.groups[out].astype(str).tolist()),
            tuple(
                Structure(r.atomic_numbers, r.positions, r.name, r.group, r.split, charge=int(store.total_charges[i]))
                for i, r in zip(learned, records, strict=True)
            ),
        )


@dataclass(frozen=True)
class Chosen:
    """A molecule that was chosen.

    Attributes:
        structure: as it stands in the pool.
        place: in the pool.
        doubt: eV, NaN where the method did not ask for it.
    """

    structure: Structure
    place: int
    doubt: float


def candidates(
    pool: Sequence[Structure],
    labelled: Labelled,
    elements: Sequence[int] | None = None,
    charges: Sequence[int] = NEUTRAL,
) -> tuple[list[int], dict[int, str]]:
    """Which molecules of a pool may be chosen.

    Where one of them has a split, only those of split train may. None of a group that is held out elsewhere may, none
    that is labelled already, none that a model cannot treat.

    Args:
        pool: with names and groups.
        labelled: what is labelled already.
        elements: atomic numbers that the model knows; None: all.
        charges: total charges that the model knows.

    Returns:
        their places in the pool, and place -> reason (of ``REASONS``; the fault itself of unsound ones) of the others.
    """
    split = any(s.split for s in pool)
    out = labelled.held_out | {s.group for s in pool if s.split in ("val", "test") and s.group}
    found: list[int] = []
    refused: dict[int, str] = {}
    for place, s in enumerate(pool):
        if s.name in labelled.names:
            refused[place] = REASONS[0]
        elif s.split in ("val", "test") or s.group in out:
            refused[place] = REASONS[1]
        elif split and s.split != "train":
            refused[place] = REASONS[2]
        elif fault := fault_of(s, elements, charges):
            refused[place] = fault
        else:
            found.append(place)
    return found, refused


def select(
    pool: Sequence[Structure],
    n: int,
    *,
    method: str = "fps-doubt",
    predictor: Predictor | None = None,
    labelled: Labelled | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[list[Chosen], dict[int, str]]:
    """Choose the molecules of a pool that shall be labelled next; the same arguments give the same choice.

    Args:
        pool: with names of their own.
        n: how many; all candidates if there are no more.
        method: one of ``methods.METHODS``.
        predictor: the model; not needed by ``random``.
        labelled: what is labelled already.
        seed: see ``methods.choose``.
        batch_size: molecules that pass through the model at once.
        progress: called with the number of molecules that have passed (candidates, and for diversity those labelled).

    Returns:
        the chosen ones in the order of choice, and why others were no candidates (``candidates``).

    Raises:
        UserError: no candidate is left, or the model cannot give what the method needs.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    labelled = labelled or Labelled()
    features, doubt = needs(method)
    if (features or doubt) and predictor is None:
        raise ValueError(f"{method} needs a model")
    known_here = (None, NEUTRAL) if predictor is None else (predictor.basis.elements, predictor.charges)
    places, refused = candidates(pool, labelled, *known_here)
    if not places:
        counts = Counter(reason if reason in REASONS else REASONS[3] for reason in refused.values())
        why = ", ".join(f"{counts[r]:,} {r}" for r in REASONS if counts[r])
        raise UserError(f"the pool has no molecule left to choose ({why}); give a larger one")
    structures = [pool[p] for p in places]
    seen = spread = known = None
    if predictor is not None and (features or doubt):
        view = look(predictor, structures, features=features, doubt=doubt, batch_size=batch_size, progress=progress)
        seen, spread = view.features, view.doubt
        if features and labelled.structures:
            learned = [s for s in labelled.structures if not fault_of(s, *known_here)]
            known = look(predictor, learned, doubt=False, batch_size=batch_size, progress=progress).features
    order = choose(method, n, len(places), features=seen, doubt=spread, labelled=known, seed=seed)
    chosen = [
        Chosen(structures[k], places[k], float("nan") if spread is None else float(spread[k])) for k in order.tolist()
    ]
    return chosen, refused


def write_structures(path: Path, structures: Sequence[Structure], more: Sequence[dict] | None = None) -> None:
    """Extended xyz that ``structures.read_structures`` reads back with name, group, split, charge and multiplicity.

    Args:
        path: the file; appears whole.
        structures: to write.
        more: further entries of each comment line.

    Raises:
        UserError: the system refuses.
    """
    from schnorb_t.reference.geometry_file import frame_text

    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for k, s in enumerate(structures):
            atoms = replace(s, order=k).to_atoms()
            atoms.info.update(more[k] if more else {})
            file.write(frame_text(atoms))
