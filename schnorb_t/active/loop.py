"""The loop of active learning: select, label, train, calibrate, judge, until a budget of labels or an accuracy.

What each step does to files is given by ``Steps``, so that labels may come from anywhere; which molecules it works on
and what is done already stands in ``State``. A killed loop goes on with the step in which it was killed: labels and
trainings have memories of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from schnorb_t.active.selection import Labelled, candidates, select, write_structures
from schnorb_t.active.state import Round, State
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.predictor import load
from schnorb_t.structures import Structure

#: Files in the folder of a loop.
STATE, LABELS, ASKED = "state.json", "labels.h5", "asked.extxyz"


@dataclass(frozen=True)
class Settings:
    """What a loop does.

    Attributes:
        folder: holds everything that it leaves; the same folder goes on with the same loop.
        pool: files with molecules; only split train is chosen from where there are splits, and split val and test give
            the molecules to judge by.
        model: checkpoint, or name of a model of the package, that selects first and that the first training starts
            from; null: the first molecules are taken at random and trained on from scratch.
        labelled: store of labels to begin with, copied into the folder; null: none.
        method: of selection (schnorb_t select --method).
        start: molecules of the first round where model is null.
        number: molecules of each later round.
        val: molecules to validate with and to calibrate doubt on; labelled first, unless labelled has some.
        test: molecules to judge by, likewise.
        budget: training molecules with labels at which the loop ends.
        measure: error on the validation molecules that accuracy is about, a name of schnorb_t evaluate --json.
        accuracy: the loop ends below this; null: it ends by its budget alone.
        train_on: each training starts from the model before it; false: from what the first one starts from.
        seed: of everything random.
        label: options of schnorb_t label, with underscores.
        fit: configuration of schnorb_t fit, or the name of one that comes with the package.
        fit_options: keys of that configuration to override, with dots.
    """

    folder: str = "runs/learn"
    pool: list[str] = field(default_factory=list)
    model: str | None = None
    labelled: str | None = None
    method: str = "fps-doubt"
    start: int = 50
    number: int = 50
    val: int = 20
    test: int = 40
    budget: int = 500
    measure: str = "gap_mae_ev"
    accuracy: float | None = None
    train_on: bool = True
    seed: int = 0
    label: dict[str, Any] = field(default_factory=dict)
    fit: str = "organic"
    fit_options: dict[str, Any] = field(default_factory=dict)


#: Settings that may change from one call to the next, and options of labelling that change no label.
FREE = ("folder", "budget", "accuracy", "measure")
FREE_LABEL = ("workers", "scheduler", "memory", "retry_failed")


class Steps(Protocol):
    """What a loop does to files. Each function can be killed, and goes on when it is called again."""

    def label(self, structures: Path, store: Path) -> None:
        """Label those of a file's structures that the store does not know yet."""
        ...

    def train(self, store: Path, folder: Path, start_from: str | None) -> Path:
        """Train on a store's molecules, leave everything in ``folder``; returns the checkpoint."""
        ...

    def calibrate(self, model: Path, store: Path, output: Path) -> None:
        """Give a model its doubt."""
        ...

    def judge(self, model: Path, store: Path, split: str) -> dict[str, Any]:
        """Errors on a split."""
        ...


class Loop:
    """A loop of active learning, new or gone on with.

    Args:
        settings: what it does.
        pool: molecules with names, groups and splits.
        steps: what it does to files.
        tell: called with a line about each step.
        after_round: called with the state after each judged round.
        progress: see ``selection.select``.

    Raises:
        UserError: the folder holds another loop, or the pool has too few molecules.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Sequence[Structure],
        steps: Steps,
        *,
        tell: Callable[[str], None] = lambda text: None,
        after_round: Callable[[State], None] = lambda state: None,
        progress: Callable[[int], None] = lambda n: None,
    ):
        self.settings, self.pool, self.steps = settings, list(pool), steps
        self.tell, self.after_round, self.progress = tell, after_round, progress
        self.folder = Path(settings.folder)
        self.by_name = {s.name: s for s in self.pool}
        about = {k: v for k, v in vars(settings).items() if k not in FREE}
        about["label"] = {k: v for k, v in settings.label.items() if k not in FREE_LABEL}
        self.state = State(self.folder / STATE, about)
        missing = [name for name in self.state.asked if name not in self.by_name]
        if missing:
            raise UserError(f"{self.state.path}: {missing[0]} was asked for and is no longer in the pool; put it back")

    @property
    def labels(self) -> Path:
        """The store of all labels."""
        return self.folder / LABELS

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> State:
        """Work until budget, accuracy or the end of the pool; killed, the next call goes on.

        Returns:
            the state at the end.

        Raises:
            UserError: a step that cannot be done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.state.begun:
            self._begin()
        while (reason := self._over()) is None:
            if not self.state.rounds or self.state.rounds[-1].is_done("judged"):
                self._select()
            self._finish_round()
        self.tell(reason)
        return self.state

    def _over(self) -> str | None:
        """Why the loop has come to its end, or None."""
        if not self.state.rounds or not self.state.rounds[-1].is_done("judged"):
            return None
        last, s = self.state.rounds[-1], self.settings
        if s.accuracy is not None:
            value = last.metrics["val"].get(s.measure)
            if value is None:
                raise UserError(f"measure: no {s.measure} among {', '.join(sorted(last.metrics['val']))}")
            if value <= s.accuracy:
                return f"{s.measure} of the validation molecules is {value:.4g}, at most {s.accuracy:g}: done"
        if last.labels >= s.budget:
            return f"{last.labels:,} training labels: the budget is used"
        if not candidates(self.pool, self._known(), self.state.elements)[0]:
            return "no molecule of the pool is left to label"
        return None

    def _begin(self) -> None:
        """Held-out molecules, the elements of the labels, and the labels to begin with."""
        s, known = self.settings, Labelled()
        elements = None if s.model is None else list(load(s.model).basis.elements)
        have: set[str] = set()
        if s.labelled is not None:
            copy_whole(Path(s.labelled), self.labels)
            with Store(self.labels) as store:
                known, have = Labelled.of(store), set(store.splits.astype(str).tolist())
                elements = [z for z in store.basis.elements if elements is None or z in elements]
        wanted = {"val": 0 if "val" in have else s.val, "test": 0 if "test" in have else s.test}
        self.state.held_out = self._hold_out(wanted, known, elements)
        free, _ = candidates(self.pool, self._known(known), elements)
        if not free:
            raise UserError("the pool has no molecule left to learn from; give a larger one, or smaller val and test")
        there = {int(z) for k in free for z in self.pool[k].atomic_numbers}
        there |= {int(z) for x in known.structures for z in x.atomic_numbers}
        self.state.elements = sorted(there)
        for split, names in self.state.held_out.items():
            fit = [n for n in names if there.issuperset(self.by_name[n].atomic_numbers.tolist())]
            self.state.held_out[split] = fit
            if wanted[split] and not fit:
                raise UserError(f"{split}: the pool has no molecule for it; give a larger pool")
        self.state.save()

    def _hold_out(self, wanted: dict[str, int], known: Labelled, elements: list[int] | None) -> dict[str, list[str]]:
        """Split -> names: those of the pool's own splits, in its order, else of molecules drawn at random."""
        free = [replace(s, split="") for s in self.pool]
        sound = [self.pool[k] for k in candidates(free, replace(known, held_out=frozenset()), elements)[0]]
        out: dict[str, list[str]] = {}
        if any(s.split for s in self.pool):
            for split, n in wanted.items():
                out[split] = [s.name for s in sound if s.split == split][:n]
                if len(out[split]) < n:
                    self.tell(f"the pool has {len(out[split])} molecules for {split} instead of {n}")
            return out
        learned = {s.group for s in known.structures}
        groups: dict[str, list[str]] = {}
        for s in sound:
            if s.group not in learned and s.group not in known.held_out:
                groups.setdefault(s.group or s.name, []).append(s.name)
        keys = list(groups)
        order = [keys[k] for k in np.random.default_rng(self.settings.seed).permutation(len(keys))]
        for split, n in wanted.items():
            out[split] = [groups[g][0] for g in order[:n]]
            order = order[n:]
        return out

    def _known(self, known: Labelled | None = None) -> Labelled:
        """What is labelled or asked for."""
        if known is None:
            known = Labelled()
            if self.labels.exists():
                with Store(self.labels) as store:
                    known = Labelled.of(store)
        held = [self.by_name[n] for names in self.state.held_out.values() for n in names]
        return Labelled(
            known.names | frozenset(self.state.asked),
            known.held_out | frozenset(s.group for s in held if s.group),
            known.structures,
        )

    # ---- one round ------------------------------------------------------------------------------------------------

    def _select(self) -> None:
        s, first = self.settings, not self.state.rounds
        known, model = self._known(), self._last_model()
        have = self.state.rounds[-1].labels if self.state.rounds else len(known.structures)
        method = s.method if model is not None else "random"
        n = min(s.start if model is None else s.number, max(s.budget - have, 1))
        chosen, _ = select(
            self.pool,
            n,
            method=method,
            predictor=None if model is None else load(model),
            labelled=known,
            seed=s.seed + len(self.state.rounds),
            progress=self.progress,
        )
        names = [c.structure.name for c in chosen]
        if first:
            names = self._with_all_elements(names, known)
        self.state.rounds.append(Round(names))
        self.state.save()
        self.tell(f"round {len(self.state.rounds)}: {len(names)} molecules chosen by {method}")

    def _with_all_elements(self, names: list[str], known: Labelled) -> list[str]:
        """As many molecules, so that a training meets every element: the first that have it replace the last chosen."""
        missing = self._missing(known.structures)
        here, _ = candidates(self.pool, known, self.state.elements)
        order = [self.pool[here[k]].name for k in np.random.default_rng(self.settings.seed).permutation(len(here))]
        needed: list[str] = []
        for z in missing:
            if not any(z in self.by_name[n].atomic_numbers for n in needed):
                needed += [n for n in (*names, *order) if z in self.by_name[n].atomic_numbers][:1]
        rest = [n for n in names if n not in needed]
        return [*needed, *rest[: max(len(names) - len(needed), 0)]]

    def _missing(self, structures: Sequence[Structure]) -> list[int]:
        there = {int(z) for s in structures for z in s.atomic_numbers}
        return [z for z in self.state.elements if z not in there]

    def _last_model(self) -> str | None:
        """Path or name of the model that selects next and that a training goes on from."""
        return str(self.folder / self.state.rounds[-1].model) if self.state.rounds else self.settings.model

    def _finish_round(self) -> None:
        """All steps of the last round that are not done yet."""
        number = len(self.state.rounds)
        last, folder = self.state.rounds[-1], self.folder / f"round_{number:02d}"
        folder.mkdir(exist_ok=True)
        if not last.is_done("labelled"):
            self._label(last)
            self._done(last, "labelled")
            self.tell(f"round {number}: {last.labels:,} training labels, {last.failed} failed")
        if not last.is_done("trained"):
            before = self.state.rounds[-2].model if number > 1 and self.settings.train_on else ""
            start_from = str(self.folder / before) if before else self.settings.model
            model = self.steps.train(self.labels, folder, start_from)
            last.model = str(model.relative_to(self.folder))
            self._done(last, "trained")
        if not last.is_done("calibrated"):
            calibrated = folder / "model.ckpt"
            self.steps.calibrate(self.folder / last.model, self.labels, calibrated)
            last.model = str(calibrated.relative_to(self.folder))
            self._done(last, "calibrated")
        if not last.is_done("judged"):
            with Store(self.labels) as store:
                splits = [x for x in ("val", "test") if len(store.indices(x))]
            last.metrics = {x: self.steps.judge(self.folder / last.model, self.labels, x) for x in splits}
            self._done(last, "judged")
            self.after_round(self.state)

    def _done(self, last: Round, step: str) -> None:
        last.done = step
        self.state.save()

    def _label(self, last: Round) -> None:
        """Label what was asked for; where an element got no label at all, ask for another molecule that has it."""
        while True:
            write_structures(self.folder / ASKED, self._asked_structures())
            self.steps.label(self.folder / ASKED, self.labels)
            with Store(self.labels) as store:
                known = Labelled.of(store)
                counts = {x: len(store.indices(x)) for x in ("train", "val")}
                failed = {name for name, _, _ in store.failures}
            last.labels, last.failed = counts["train"], len(failed)
            if not counts["val"]:
                raise UserError(f"{self.labels}: no validation molecule got a label; see its failures: schnorb_t check")
            missing = self._missing(known.structures)
            if not missing:
                return
            more = self._with_all_elements([], self._known())
            if not any(set(missing) & set(self.by_name[n].atomic_numbers.tolist()) for n in more):
                raise UserError(
                    f"{self.labels}: no molecule with one of its elements got a label ({len(failed)} failed); "
                    "see its failures: schnorb_t check"
                )
            last.chosen += more
            self.state.save()

    def _asked_structures(self) -> list[Structure]:
        """Begun labels first (they are known), then all that was asked for; splits are those of this loop."""
        split = {name: x for x, names in self.state.held_out.items() for name in names}
        asked = [replace(self.by_name[n], split=split.get(n, "train")) for n in self.state.asked]
        if self.settings.labelled is None:
            return asked
        with Store(self.labels) as store:
            names = set(self.state.asked)
            records = (store[k] for k in range(len(store)))
            begun = [Structure(r.atomic_numbers, r.positions, r.name, r.group, r.split) for r in records]
        return [s for s in begun if s.name not in names] + asked


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole.

    Raises:
        UserError: it is not there, or the system refuses.
    """
    import shutil

    from schnorb_t.files import atomic_write

    if not source.is_file():
        raise UserError(f"labelled: {source} is not there; name a store of labels, or null")
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def row(entry: Round, split: str, names: Sequence[str]) -> list[float]:
    """Numbers of a round, NaN where there is none."""
    found = entry.metrics.get(split, {})
    values = (found.get(name) for name in names)
    return [math.nan if v is None else float(v) for v in values]
