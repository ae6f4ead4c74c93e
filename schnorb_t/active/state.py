"""What a loop of active learning has done so far: one file, replaced as a whole after every step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError
from schnorb_t.files import write_text

#: Raised whenever an old file would be read wrongly.
FORMAT = 1
#: Steps of a round, in their order; a round's ``done`` is the last that is finished.
STEPS = ("selected", "labelled", "trained", "calibrated", "judged")


@dataclass
class Round:
    """One round.

    Attributes:
        chosen: names of the molecules that it asks labels for, in the order of choice.
        done: last finished step of ``STEPS``.
        labels: training molecules with labels, once labelled.
        failed: molecules that were asked for in vain up to here.
        model: checkpoint of the training and then of the calibration, relative to the folder.
        metrics: split -> errors, once judged.
    """

    chosen: list[str]
    done: str = STEPS[0]
    labels: int = 0
    failed: int = 0
    model: str = ""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_done(self, step: str) -> bool:
        """Whether a step is finished."""
        return STEPS.index(self.done) >= STEPS.index(step)


class State:
    """The rounds of a loop and what it was begun with.

    Args:
        path: of the file; read if it is there.
        about: settings that must stay what they were.

    Attributes:
        held_out: split -> names of the molecules that are labelled to judge by.
        elements: atomic numbers of the labels.
        rounds: in their order.

    Raises:
        UserError: the file is of another loop, or none of this package.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.about = Path(path), json.loads(json.dumps(about))
        self.held_out: dict[str, list[str]] = {}
        self.elements: list[int] = []
        self.rounds: list[Round] = []
        self.begun = self.path.exists()
        if not self.begun:
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] > FORMAT:
                raise UserError(f"{self.path}: of a newer version of schnorb_t; update it")
            theirs = content["about"]
            self.held_out, self.elements = content["held_out"], content["elements"]
            self.rounds = [Round(**r) for r in content["rounds"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: no state of schnorb_t learn ({error}); name another folder") from None
        differs = sorted(k for k in {*theirs, *self.about} if theirs.get(k) != self.about.get(k))
        if differs:
            raise UserError(
                f"{self.path}: this loop was begun with other settings ({', '.join(differs)}); "
                "name another folder, or set them back"
            )

    @property
    def asked(self) -> list[str]:
        """Names of all molecules that labels were asked for: held-out ones, then round after round."""
        return [n for names in self.held_out.values() for n in names] + [n for r in self.rounds for n in r.chosen]

    def save(self) -> None:
        """Replace the file.

        Raises:
            UserError: the system refuses.
        """
        content = {
            "format": FORMAT,
            "about": self.about,
            "held_out": self.held_out,
            "elements": self.elements,
            "rounds": [asdict(r) for r in self.rounds],
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n")
