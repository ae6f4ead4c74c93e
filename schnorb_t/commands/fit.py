"""``schnorb_t fit --config configs/sample.yaml``: train, test against two baselines, leave a one-page result.

Every key of the configuration can be overridden (``--data.batch_size 16``); ``--print_config`` shows them all with
their documentation. ``--ckpt_path runs/.../last.ckpt`` goes on where an interrupted run stopped. ``--quiet`` says
nothing but errors; the numbers are in the run's folder.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from schnorb_t.training.run import TrainingResult

#: What makes a run silent.
SILENT = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


def main(argv: list[str] | None = None) -> None:
    """Train by the command line ``argv`` (default: the process's own).

    Raises:
        UserError: the configuration, the data or a checkpoint is wrong.
    """
    from pytorch_lightning.utilities import rank_zero_only
    from rich.console import Console

    from schnorb_t.training.configuration import asked_architecture, make_parser, parse_configuration
    from schnorb_t.training.run import train

    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet = "--quiet" in arguments
    if quiet:
        arguments = [word for word in arguments if word != "--quiet"] + list(SILENT)
        for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
    console = Console(quiet=quiet)
    parser = make_parser("schnorb_t fit", __doc__, asked_architecture(arguments))

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    result = train(parse_configuration(arguments, parser), parser, tell)
    if getattr(rank_zero_only, "rank", 0) == 0:
        tell_result(result, console)


def tell_result(result: TrainingResult, console: Console) -> None:
    """Print errors on test molecules, where everything is and what to do next."""
    from schnorb_t.training.property_metrics import print_comparison
    from schnorb_t.training.report import print_table

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if "elements" in result.metrics:
        from schnorb_t.training.energy_report import print_energy_table

        print_energy_table(result.metrics, "mean absolute errors on test molecules", console)
    elif result.metrics:
        print_table(result.metrics, console=console)
    if result.properties:
        print_comparison(result.properties, console)
    if result.folder is None or result.best is None:
        return
    pictures = sorted(path.name for path in result.folder.glob("*.png"))
    line(f"written: {result.folder} ({', '.join(['test_metrics.json'] * bool(result.metrics) + pictures)})")
    line(f"model: {result.best}")
    if result.finished:
        line(f"next: schnorb_t predict {result.best} molecules.xyz --html pages shows what it predicts")
    elif result.last is not None:
        line(f"next: schnorb_t fit ... --ckpt_path {result.last} goes on with the training")
