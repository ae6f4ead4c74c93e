"""One training of a loop of active learning, which goes on where it was killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schnorb_t.training.run import train

#: Of a run's folder, below the one that is given.
NAME = "fit"


def runs(folder: Path) -> list[Path]:
    """Folders of the trainings that were begun there, the latest first."""
    found = (folder / NAME).glob("version_*")
    return sorted(found, key=lambda p: int(p.name.rsplit("_", 1)[1]), reverse=True)


def finished(run: Path) -> Path | None:
    """The best checkpoint of a training that came to its end."""
    try:
        content = json.loads((run / "run.json").read_text(encoding="utf-8"))
        best = run / content["best"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return best if content.get("finished") and best.is_file() else None


def train_on(
    config: Mapping[str, Any], store: Path, folder: Path, start_from: str | None, tell: Callable[[str], None]
) -> Path:
    """Train by a configuration on a store.

    Args:
        config: of ``training.run.train``; data, folder and start are given here.
        store: labelled molecules.
        folder: what an earlier call left there is gone on with, or returned if it was finished.
        start_from: model to start from, or None.
        tell: called with every line about the run.

    Returns:
        the best checkpoint.

    Raises:
        UserError: see ``train``.
        KeyboardInterrupt: Ctrl-C.
    """
    done = runs(folder)
    for run in done:
        if (best := finished(run)) is not None:
            return best
    last = next((p for run in done if (p := run / "checkpoints" / "last.ckpt").is_file()), None)
    given: dict[str, Any] = {"data.path": str(store), "runs": str(folder), "name": NAME}
    given["model.start_from"] = start_from
    if last is not None:
        given["ckpt_path"] = str(last)
    result = train({**config, **given}, tell=tell)
    if not result.finished:
        raise KeyboardInterrupt
    assert result.best is not None  # a finished training has written one
    return result.best
