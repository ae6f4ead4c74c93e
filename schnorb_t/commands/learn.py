"""``schnorb_t learn --config configs/learn.yaml``: select, label, train, calibrate, judge, until budget or accuracy."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schnorb_t.active.loop import Settings

#: Options of schnorb_t label that the loop gives itself.
OWN = ("structures", "output", "skip_bad")


class CommandSteps:
    """The steps of a loop, by the functions behind ``schnorb_t label``, ``fit``, ``calibrate`` and ``evaluate``."""

    def __init__(self, settings: Settings, tell: Any):
        self.settings, self.tell = settings, tell

    def label(self, structures: Path, store: Path) -> None:
        """PySCF, on this machine's cores or a dask cluster."""
        from schnorb_t.commands.label import label_files

        label_files([structures], output=store, **self.settings.label)

    def train(self, store: Path, folder: Path, start_from: str | None) -> Path:
        """``schnorb_t fit``."""
        from schnorb_t.active.training import train_on

        config = {"config": self.settings.fit, "seed_everything": self.settings.seed, **self.settings.fit_options}
        return train_on(config, store, folder, start_from, self.tell)

    def calibrate(self, model: Path, store: Path, output: Path) -> None:
        """``schnorb_t calibrate``."""
        from schnorb_t.commands.calibrate import calibrate_model

        calibrate_model(str(model), store, output=output, force=True)

    def judge(self, model: Path, store: Path, split: str) -> dict[str, Any]:
        """``schnorb_t evaluate``."""
        from schnorb_t.commands.evaluate import evaluate

        return {k: v for k, v in evaluate(str(model), str(store), split=split).items() if k != "about"}  # type: ignore[arg-type]


def learn(*, config: Path, folder: Path | None = None, budget: int | None = None, accuracy: float | None = None):
    """Choose molecules, label them, train on, calibrate, judge; again, until a budget of labels or an accuracy.

        schnorb_t learn --config configs/learn.yaml

    Everything stands in one folder: labels.h5, the store of all labels; round_NN/model.ckpt, the model of each round;
    state.json; learn.png, errors against labels. Killed at any moment, the same command goes on where it stopped;
    with a larger budget it goes on after its end.

    Args:
        config: YAML, see configs/learn.yaml
        folder: in place of the configuration's
        budget: in place of the configuration's, training labels
        accuracy: in place of the configuration's

    Returns:
        ``folder``, ``model`` (of the last round), ``rounds`` (dicts of chosen, labels, failed, model, metrics),
        ``picture``, ``ended`` (why).

    Raises:
        UserError: a configuration, pool or step that cannot be.
    """
    from rich.console import Console

    from schnorb_t.active.configuration import read_settings
    from schnorb_t.active.loop import Loop
    from schnorb_t.active.methods import check_installed
    from schnorb_t.active.report import draw, print_row
    from schnorb_t.commands.label import label_files
    from schnorb_t.structures import read_for_labels

    options = set(inspect.signature(label_files).parameters) - set(OWN)
    changes = {"folder": folder and str(folder), "budget": budget, "accuracy": accuracy}
    settings = read_settings(config, options, changes)
    check_installed(settings.method)
    console = Console(stderr=True)
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    picture = Path(settings.folder) / "learn.png"

    def after_round(state: Any) -> None:
        print_row(state, console)
        draw(state, picture)

    loop = Loop(
        settings,
        read_for_labels([Path(p) for p in settings.pool]),
        CommandSteps(settings, tell),
        tell=tell,
        after_round=after_round,
    )
    state = loop.run()
    last = state.rounds[-1]
    return {
        "folder": settings.folder,
        "model": str(loop.folder / last.model),
        "rounds": [vars(r) for r in state.rounds],
        "picture": str(picture),
        "ended": said[-1],
        "_rounds": state.rounds,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table of all rounds and where the last model is."""
    from rich.console import Console

    from schnorb_t.active.report import table

    console = Console()
    console.print(table(result["_rounds"]))
    for line in (result["ended"], f"model: {result['model']}", f"picture: {result['picture']}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
