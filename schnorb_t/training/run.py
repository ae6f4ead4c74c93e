"""A training as a function: ``train("configs/sample.yaml")``, or from parts of your own with ``fit``.

``train`` reads a configuration, makes data, network and trainer, trains or goes on with a training, tests the best
checkpoint and leaves everything in one folder, ``RUNS/NAME/version_N``:

- ``checkpoints/best.ckpt``, ``checkpoints/last.ckpt``: models, and the state of the training;
- ``run.json``: which of them is the best, its score, what the run went on from; paths relative to the folder;
- ``config.yaml``, ``metrics.csv``, ``test_metrics.json``, pictures.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from torch.multiprocessing.spawn import ProcessException

from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.errors import ConfigurationError, UserError, system_fault
from schnorb_t.files import write_text
from schnorb_t.training.callbacks import RunCheckpoint, WholeFileIO
from schnorb_t.training.checkpoint import load_single
from schnorb_t.training.configuration import (
    ConfigurationParser,
    asked_architecture,
    make_parser,
    parse_configuration,
)
from schnorb_t.training.ema import ExponentialMovingAverage
from schnorb_t.training.energy_module import EnergyModule
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.modules import module_of
from schnorb_t.training.resume import OptimiserFits, Resumed, check_resume, restored

logger = logging.getLogger(__name__)

#: Precisions in which the two-centre functions would lose what they carry.
_TOO_COARSE = ("16-true", "bf16-true", "16", "bf16", "transformer-engine", "transformer-engine-float16")

#: Options of the trainer that Lightning takes at any value, and divides by or turns gradients round with.
_LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}
#: What distributed training says where losses leave out weights, and what is said instead.
_UNUSED = "parameters that were not used in producing the loss"
_ALL_WEIGHTS = (
    "trainer: several processes, and losses that leave out weights; give losses of H and of S in model.outputs, or "
    "--trainer.strategy ddp_find_unused_parameters_true"
)
#: Largest seed of numpy's generators.
_LARGEST_SEED = 2**32 - 1


@dataclass
class TrainingResult:
    """What a training left.

    Attributes:
        folder: of the run; ``None`` for a trial (``trainer.fast_dev_run``) that leaves nothing.
        best: checkpoint with the lowest ``checkpoint.monitor``; the last one if nothing was validated.
        last: checkpoint of the last epoch, if there is one.
        best_score: value of ``checkpoint.monitor`` at ``best``, if it was validated.
        finished: whether the training came to its end; False when it was interrupted (Ctrl-C).
        metrics: content of ``test_metrics.json``: ``{"model": {...}, "mean_block": {...}, "two_centre": {...}}``; empty
            without test molecules or if not finished.
        module: the trained module, with averaged weights.
        data: its data.
        properties: content of ``property_metrics.json``; empty where no property was trained on.
    """

    folder: Path | None
    best: Path | None
    last: Path | None
    best_score: float | None
    finished: bool
    metrics: dict[str, Any] = field(default_factory=dict)
    module: MatrixModule | EnergyModule | None = None
    data: MatrixDataModule | None = None
    properties: dict[str, Any] = field(default_factory=dict)


# ---- errors ----------------------------------------------------------------------------------------------------------


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:397]}..."


def _raised_by_lightning(error: BaseException) -> bool:
    """Whether Lightning itself, rather than code that it called, refused something."""
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals.get("__name__", "").startswith(("pytorch_lightning", "lightning_fabric"))


@contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    """What Lightning or the disk refuses becomes one line; faults of the code keep their traceback."""
    try:
        yield
    except UserError:
        raise
    except ProcessException as error:  # a process of several; its own error is a text
        if _UNUSED in str(error):
            raise ConfigurationError(_ALL_WEIGHTS) from None
        if told := re.search(r"^schnorb_t\.errors\.\w*Error: (.*)", str(error), re.M):
            raise UserError(told[1]) from None
        raise
    except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
        if _UNUSED in str(error):
            raise ConfigurationError(_ALL_WEIGHTS) from None
        if isinstance(error, MisconfigurationException) or _raised_by_lightning(error):
            raise ConfigurationError(f"trainer: {_line(error)}") from None
        raise
    except OSError as error:
        if (fault := system_fault(error, error.filename or folder)) is None:
            raise
        raise UserError(fault) from None


def make_trainer(**options: Any) -> L.Trainer:
    """A ``Trainer`` for a ``MatrixModule``, with Lightning's arguments.

    Raises:
        ConfigurationError: whatever Lightning refuses (accelerators that are not there, unknown strategies, ...), and
            precisions that are too coarse for H.
    """
    options = {"use_distributed_sampler": False, "num_sanity_val_steps": 0, **options}
    if str(options.get("precision")) in _TOO_COARSE:
        raise ConfigurationError(
            f"trainer.precision: {options['precision']} would round two-centre functions to three digits; "
            "give 32-true, 64-true or bf16-mixed"
        )
    if str(options.get("strategy")).endswith("_spawn"):
        raise ConfigurationError(f"trainer.strategy: {options['strategy']} cannot send this training; give ddp")
    for name, least in _LEAST.items():
        value = options.get(name)
        if value is not None and value < least:
            raise ConfigurationError(f"trainer.{name}: must be {least} or more, got {value}")
    if options.get("val_check_interval") == 0:
        raise ConfigurationError("trainer.val_check_interval: must be above 0; limit_val_batches 0 validates nothing")
    plugins = options.pop("plugins", None) or []
    plugins = [*plugins] if isinstance(plugins, list | tuple) else [plugins]
    try:
        return L.Trainer(plugins=[WholeFileIO(), *plugins], **options)
    except UserError:
        raise
    except Exception as error:  # all that it is given is the user's
        device = str(options.get("accelerator", "auto")) not in ("auto", "cpu")
        hint = "; trainer.accelerator auto takes what this machine has" if device else ""
        raise ConfigurationError(f"trainer: {_line(error)}{hint}") from None


# ---- parts -----------------------------------------------------------------------------------------------------------


def fit(
    module: MatrixModule,
    data: MatrixDataModule,
    *,
    ema: float = 0.998,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> L.Trainer:
    """Train a prepared module without leaving files: for benchmarks and loops over models.

    Args:
        module: after ``prepare(data)``; has the averaged weights afterwards.
        data: its data.
        ema: decay of the average.
        callbacks: more of them.
        **options: Lightning's, such as ``max_epochs``, ``max_steps``, ``gradient_clip_val``, ``limit_val_batches``.

    Returns:
        the trainer after the training.

    Raises:
        ConfigurationError: see ``make_trainer``.
        KeyboardInterrupt: Ctrl-C.
    """
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = make_trainer(
        **{**quiet, "enable_progress_bar": Console().is_terminal, "accelerator": "cpu", **options},
        callbacks=[ExponentialMovingAverage(ema), *callbacks],
    )
    with _told(None):
        trainer.fit(module, data)
    if trainer.interrupted:  # Lightning catches it
        raise KeyboardInterrupt
    return trainer


class _Run:
    """What ``train`` puts together from a configuration."""

    def __init__(self, config: Namespace, parser: ConfigurationParser):
        self.config = config
        self.text = parser.dump(config, skip_none=False)
        try:
            parts = parser.instantiate_classes(config)
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # losses, smearing and callbacks refuse their values so
            raise ConfigurationError(f"configuration: {_line(error)}") from None
        self.trial = bool(config.trainer.fast_dev_run)
        if not 0 <= config.seed_everything <= _LARGEST_SEED:
            raise ConfigurationError(f"seed_everything: must lie between 0 and {_LARGEST_SEED}")
        if config.checkpoint.monitor is None:
            raise ConfigurationError("checkpoint.monitor: must name what decides on the best model, such as val/loss")
        if Path(config.name).is_absolute() or ".." in Path(config.name).parts:
            raise ConfigurationError(
                f"name: {config.name} would leave the folder of all runs; --runs names that folder"
            )
        if config.seed_everything is not False:
            L.seed_everything(None if config.seed_everything is True else config.seed_everything, workers=True)
        torch.set_num_threads(max(1, config.threads))
        with _told(None):
            self.checkpoint = RunCheckpoint(**vars(parts.checkpoint))
            callbacks: list[Callback] = [ExponentialMovingAverage(**vars(parts.ema))]
            if config.trainer.limit_val_batches != 0:  # or there is nothing to stop by
                callbacks.append(EarlyStopping(**vars(parts.early_stopping)))
        # of its own, because ModelCheckpoint's save_last is written only when the best one is
        self.last = RunCheckpoint(
            dirpath=self.checkpoint.dirpath, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.trainer = self._trainer(parts, callbacks)
        with _told(None):
            self.data = MatrixDataModule(**parts.data.as_dict())
        model = {name: value for name, value in vars(parts.model).items() if name != "network"}
        network = parts.model.network.as_dict()
        kind = module_of(config.model.architecture)
        self.module = kind(self.data.basis, network, self.data.cutoff, **model)

    def _trainer(self, parts: Namespace, callbacks: list[Callback]) -> L.Trainer:
        config, options = self.config, dict(vars(parts.trainer))
        given, loggers = options.pop("callbacks", None) or [], options.pop("logger", None)
        given = [*given] if isinstance(given, list | tuple) else [given]
        if self.trial or loggers is False:
            loggers = False
        elif loggers in (None, True):
            with _told(Path(config.runs)):
                csv = CSVLogger(config.runs, name=config.name)
                board = TensorBoardLogger(config.runs, name=config.name, version=f"version_{csv.version}")
                loggers = [csv, board]
        callbacks = [*given, *callbacks]
        if options.get("enable_model_summary") is None:
            options["enable_model_summary"] = False  # the network describes itself
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(RichProgressBar(leave=False))
        if loggers:
            callbacks.append(LearningRateMonitor("step"))
        if options.get("enable_checkpointing") is not False:
            callbacks += [self.checkpoint, self.last]  # the last one knows the best
        if loggers is False and not self.trial:
            options["default_root_dir"] = options.get("default_root_dir") or str(Path(config.runs) / config.name)
        return make_trainer(**options, callbacks=callbacks, logger=loggers)

    def folder(self) -> Path | None:
        """Of this run, the same on all ranks."""
        if self.trial:
            return None
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)


# ---- the whole -------------------------------------------------------------------------------------------------------


def train(
    config: str | os.PathLike | Mapping[str, Any] | Sequence[str] | Namespace,
    parser: ConfigurationParser | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train by a configuration, or go on with a training (``ckpt_path``); test the best checkpoint.

    Args:
        config: a YAML file; a dict, nested or with dotted keys (``{"config": "configs/sample.yaml",
            "trainer.max_epochs": 4, "data.max_train": 160}``); the arguments of a command line; or what
            ``parse_configuration`` returned.
        parser: that ``config`` was parsed by.
        tell: called with every line about the run; default: the logger ``schnorb_t.training.run``, level INFO.

    Returns:
        folder, checkpoints and test errors.

    Raises:
        UserError: a configuration, data or a checkpoint that cannot be used, a disk that cannot be written to; one
            line. Faults of the code keep their own type and traceback.
    """
    if parser is None:
        asked = config.model.architecture if isinstance(config, Namespace) else asked_architecture(config)
        parser = make_parser(architecture=asked)
    if not isinstance(config, Namespace):
        config = parse_configuration(config, parser)
    tell = tell or logger.info
    torch.set_float32_matmul_precision("highest")
    run = _Run(config, parser)
    trainer, module, data = run.trainer, run.module, run.data
    main, folder = getattr(rank_zero_only, "rank", 0) == 0, run.folder()
    resumed = _prepare(run, tell if main else lambda text: None)
    module.config_text = run.text
    if main:
        _begin(run, folder, tell)
    state = None if resumed is None else str(resumed.path)
    if resumed is not None:
        trainer.callbacks.insert(0, OptimiserFits(resumed.path))  # type: ignore[attr-defined]
    with _told(folder):
        with restored(state):
            trainer.fit(module, data, ckpt_path=state, weights_only=True)
        if run.last in trainer.checkpoint_callbacks and not run.trial and trainer.global_step == 0:
            # max_epochs 0 and the like: the closed-form start
            assert run.last.dirpath is not None  # the trainer has set it
            path = Path(run.last.dirpath) / "last.ckpt"
            trainer.save_checkpoint(path)
            run.last.best_model_path = str(path)
    if main and run.checkpoint.lost is not None and resumed is not None:
        tell(
            f"{resumed.path}: the best checkpoint so far ({run.checkpoint.monitor} {run.checkpoint.lost:.6g}) is not "
            "found beside it; the best one was chosen among those since"
        )
    result = _result(run, folder)
    result.finished = bool(trainer.state.finished)
    if run.trial:
        tell("trainer.fast_dev_run: trained and validated without a fault; nothing is written")
        return result
    if main:
        with _told(folder):
            _write_run(run, result, resumed)
            if result.best is None:
                tell("no checkpoint was written, hence nothing is tested")
            elif result.finished and folder is not None:
                result.metrics, result.properties = finish(folder, result.best, data, module)
    return result


def _prepare(run: _Run, tell: Callable[[str], None]) -> Resumed | None:
    """The start of the network: closed-form, of another model, or of the training that goes on."""
    module, data, path = run.module, run.data, run.config.ckpt_path
    if path is None:
        taken = module.prepare(data)
        if taken is not None:
            tell(f"{module.start_from}: {taken} is taken from it")
        _leave_out_seen(run, tell)
        return None
    resumed = check_resume(path, module.arguments, data.basis, data.store.level, run.text, module.architecture)
    most = run.config.trainer.max_epochs
    if most is not None and 0 <= most < resumed.epochs:
        raise ConfigurationError(
            f"{path}: has trained {resumed.epochs} epochs already, and trainer.max_epochs is {most}; "
            f"give {resumed.epochs} or more"
        )
    for line in resumed.differences:
        tell(f"{path}: goes on with another {line}")
    module.describe(data, resumed.training_groups)
    if resumed.comparable:
        run.checkpoint.resumed_from = run.last.resumed_from = resumed.path
    else:
        tell(f"{path}: what is validated has changed, so the best model is chosen among those from now on")
        run.checkpoint.resumed_from = None
    _leave_out_seen(run, tell)
    return resumed


def _leave_out_seen(run: _Run, tell: Callable[[str], None]) -> None:
    """Test molecules that the weights have seen, in the training of the model they come from, test nothing."""
    module, data = run.module, run.data
    assert module.card is not None  # ``prepare`` or ``describe`` has made it
    seen = np.array(module.card.training_groups, dtype=str)
    test = data.split["test"]
    known = np.isin(data.store.groups[test].astype(str), seen) if len(test) else np.zeros(0, bool)
    if known.any():
        example = data.store.names[test][known][0]
        tell(
            f"{data.store.path}: {known.sum():,} of {len(test):,} test molecules (such as {example}) were in the "
            "training that these weights come from; they are left out of the test"
        )
        data.leave_out("test", known)


def _begin(run: _Run, folder: Path | None, tell: Callable[[str], None]) -> None:
    """Say what is trained on what; write the configuration."""
    data, module = run.data, run.module
    sizes = {name: len(rows) for name, rows in data.split.items()}
    tell(repr(module.model))
    tell(
        f"{data.store.path}: {sizes['train']} to train on, {sizes['val']} to validate, {sizes['test']} to test; "
        f"{100 * data.sampler('train').padded_fraction():.0f} % of a batch is padding"
    )
    if folder is not None:
        tell(f"results go to {folder}")
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.yaml", run.text)


def _result(run: _Run, folder: Path | None) -> TrainingResult:
    def there(path: str) -> Path | None:
        return Path(path) if path and Path(path).is_file() else None

    best, last = there(run.checkpoint.best_model_path), there(run.last.best_model_path)
    score = run.checkpoint.best_model_score
    return TrainingResult(
        folder,
        best or last,
        last,
        None if best is None or score is None else float(score),
        False,
        module=run.module,
        data=run.data,
    )


def _write_run(run: _Run, result: TrainingResult, resumed: Resumed | None) -> None:
    """``run.json``: what a reader, or a run that goes on, needs to know; paths relative to the folder."""
    from schnorb_t.training.report import write_json

    def relative(path: Path | None) -> str | None:
        return None if path is None else os.path.relpath(path, result.folder)

    assert result.folder is not None  # a trial writes nothing
    write_json(
        result.folder / "run.json",
        {
            "best": relative(result.best),
            "last": relative(result.last),
            "monitor": run.checkpoint.monitor,
            "best_score": result.best_score,
            "epochs": run.trainer.current_epoch,
            "steps": run.trainer.global_step,
            "finished": result.finished,
            "resumed_from": None if resumed is None else relative(resumed.path.resolve()),
            "started_from": run.config.model.start_from,
        },
    )


def finish(
    folder: Path, best: str | Path, data: MatrixDataModule, module: MatrixModule | EnergyModule
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Test the best checkpoint beside the baselines; write ``test_metrics.json`` and the pictures.

    Of a module that trained on properties ``property_metrics.json`` besides.

    Args:
        folder: of the run.
        best: checkpoint to test.
        data: with the test molecules; without any only the pictures are made.
        module: tells device and properties.

    Returns:
        the content of ``test_metrics.json`` and of ``property_metrics.json`` (empty where there is none).
    """
    if isinstance(module, EnergyModule):
        from schnorb_t.training.energy_report import finish_energies

        return finish_energies(folder, best, data, module.device), {}
    from schnorb_t.training import evaluation, property_metrics, report

    model, _ = load_single(best)
    if not len(data.split["test"]):
        return {}, {}
    levels = evaluation.OrbitalLevels()
    result = evaluation.test_against_baselines(model.to(module.device), data, module.device, levels)
    report.write_json(folder / "test_metrics.json", result)
    report.write_pictures(folder, model, data, result, levels)
    if not module.properties:
        return result, {}
    return result, property_metrics.write_comparison(folder, model, data, module.properties, module.smearing)
