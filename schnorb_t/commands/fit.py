"""``schnorb_t fit --config configs/sample.yaml``: train, test against two baselines, leave a one-page result.

Every key of the configuration can be overridden (``--data.batch_size 16``); ``--print_config`` shows them all with
their documentation. ``--ckpt_path runs/.../last.ckpt`` goes on where an interrupted run stopped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import ActionConfigFile
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from schnorb_t.commands.parser import OneLineErrors
from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.errors import UserError
from schnorb_t.training.checkpoint import load_model, read_checkpoint
from schnorb_t.training.ema import ExponentialMovingAverage
from schnorb_t.training.module import MatrixModule


class FitParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with errors of one line."""


class FitCLI(LightningCLI):
    """Lightning's CLI with this package's callbacks as sections of the configuration."""

    def init_parser(self, **kwargs):
        """A parser that reads ``--config`` files."""
        parser = FitParser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="configuration (YAML); may be repeated")
        return parser

    def add_arguments_to_parser(self, parser):
        parser.add_argument("--ckpt_path", type=str, default=None, help="checkpoint to go on from")
        parser.add_argument("--name", type=str, default="fit", help="runs/NAME/version_N holds what this run leaves")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument(
            "--threads", type=int, default=1, help="CPU threads per process; the tensors are too small to share out"
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ExponentialMovingAverage, "ema")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/loss",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 1000,
            }
        )
        parser.link_arguments("data.cutoff", "model.cutoff")
        parser.link_arguments("data", "model.basis", compute_fn=lambda data: data.basis, apply_on="instantiate")

    def parse_arguments(self, parser, args):
        """The configuration from ``args`` alone; Lightning's own would warn where ``sys.argv`` has more."""
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs):
        config = self.config
        torch.set_num_threads(config.threads)
        csv = CSVLogger(config.runs, name=config.name)
        board = TensorBoardLogger(config.runs, name=config.name, version=f"version_{csv.version}")
        bar = [] if config.trainer.enable_progress_bar is False else [RichProgressBar(leave=False)]
        # of its own, because ModelCheckpoint's save_last is written only when the best one is
        last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        callbacks = [*(self.config_init.trainer.callbacks or []), *bar, LearningRateMonitor("step"), last]
        return super().instantiate_trainer(logger=[csv, board], callbacks=callbacks, **kwargs)


def _run(cli: FitCLI) -> None:
    trainer, module, data, config = cli.trainer, cli.model, cli.datamodule, cli.config
    console = Console()
    if config.ckpt_path is None:
        module.prepare(data)
    else:
        read_checkpoint(config.ckpt_path)  # a clear error now rather than a traceback later
        module.describe(data)
    module.config_text = cli.parser.dump(config, skip_none=False)
    folder = Path(trainer.log_dir)
    if rank_zero_only.rank == 0:
        sizes = {name: len(rows) for name, rows in data.split.items()}
        console.print(repr(module.model), highlight=False, markup=False)
        console.print(
            f"{data.store.path}: {sizes['train']} to train on, {sizes['val']} to validate, "
            f"{sizes['test']} to test; {100 * data.sampler('train').padded_fraction():.0f} % of a batch is padding\n"
            f"results go to {folder}",
            highlight=False,
            markup=False,
        )
    trainer.fit(module, data, ckpt_path=config.ckpt_path, weights_only=True)
    if rank_zero_only.rank == 0 and trainer.state.finished:
        best, last = (
            next(c.best_model_path for c in trainer.checkpoint_callbacks if bool(c.monitor) == m) for m in (1, 0)
        )
        finish(folder, best or last, data, module)


def finish(folder: Path, best: str, data: MatrixDataModule, module: MatrixModule) -> dict:
    """Test the best checkpoint beside the baselines; write ``test_metrics.json`` and the pictures; print the table.

    Of a module that trained on properties ``property_metrics.json`` besides.

    Returns:
        the content of ``test_metrics.json``.
    """
    from schnorb_t.training import evaluation, property_metrics, report

    model, card = load_model(best)
    levels = evaluation.OrbitalLevels()
    result = evaluation.test_against_baselines(model.to(module.device), data, module.device, levels)
    report.write_json(folder / "test_metrics.json", result)
    report.write_pictures(folder, model, data, result, levels)
    report.print_table(result)
    if module.properties:
        property_metrics.write_comparison(folder, model, data, module.properties, module.smearing)
    return result


def main(argv: list[str] | None = None) -> None:
    """Train by the command line ``argv`` (default: the process's own).

    Raises:
        UserError: the configuration, the data or a checkpoint is wrong.
    """
    torch.set_float32_matmul_precision("highest")
    try:
        cli = FitCLI(
            MatrixModule,
            MatrixDataModule,
            run=False,
            args=argv,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "use_distributed_sampler": False,  # the size-bucketed sampler shares out the batches itself
                "num_sanity_val_steps": 0,
            },
            parser_kwargs={"parser_mode": "yaml", "prog": "schnorb_t fit"},
        )
    except (TypeError, ValueError) as error:  # a value or a name that a section of the configuration refuses
        raise UserError(f"configuration: {error}") from None
    _run(cli)
