"""Going on with an interrupted or finished training: whether its checkpoint fits, and what is different now."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
import yaml

from schnorb_t.basis import Basis
from schnorb_t.data.header import theory
from schnorb_t.errors import UserError
from schnorb_t.nn.base import network
from schnorb_t.nn.constants import Constants
from schnorb_t.training.checkpoint import KEY, read_checkpoint
from schnorb_t.training.networks import DEFAULT

#: What a checkpoint holds besides its model when its training can go on.
TRAINING_STATE = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
#: Sections and keys of a configuration that may differ without a word: they change where and how fast, not what.
WITHOUT_CONSEQUENCE = {
    "ckpt_path", "name", "runs", "threads", "data.num_workers", "data.keep_in_memory", "data.eval_batch_size",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.log_every_n_steps", "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time", "checkpoint.verbose", "early_stopping.verbose", "trainer.default_root_dir",
}  # fmt: skip
#: What decides on the validation loss: if it differs, the best so far cannot be compared with what follows.
JUDGEMENT = ("data.path", "model.outputs", "model.smearing")


@dataclass(frozen=True)
class Resumed:
    """A training to go on with.

    Attributes:
        path: its checkpoint.
        epochs: that it had finished or begun.
        training_groups: identities of the molecules that it saw.
        differences: one line for each key of the configuration that is another now.
        comparable: whether validation losses mean the same as before.
    """

    path: Path
    epochs: int
    training_groups: tuple[str, ...]
    differences: tuple[str, ...]
    comparable: bool


def check_resume(
    path: str | Path,
    arguments: Mapping[str, Any],
    basis: Basis,
    level: Mapping,
    config: str,
    architecture: str = DEFAULT,
) -> Resumed:
    """Read what a training is to go on from, and compare it with what is asked for now.

    Args:
        path: checkpoint with the state of a training (``last.ckpt``, ``best.ckpt`` of a run).
        arguments: of the network asked for now.
        basis: of the labels now.
        level: of theory of the labels now.
        config: of the run now, YAML.
        architecture: name of the network asked for now.

    Raises:
        UserError: no such checkpoint, damaged, of another format, without state of a training; of another network,
            basis or level of theory.
    """
    content = read_checkpoint(path)
    try:
        return _compared(path, content, arguments, basis, level, config, architecture)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        what = f"what it says of its training is damaged ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {what}; go on from another checkpoint of the run") from None


def _compared(
    path: str | Path,
    content: Mapping[str, Any],
    arguments: Mapping[str, Any],
    basis: Basis,
    level: Mapping,
    config: str,
    architecture: str,
) -> Resumed:
    entry = content[KEY]
    if "fit_loop" not in content.get("loops", {"fit_loop": {}}):
        raise KeyError("fit_loop")
    if missing := [name for name in TRAINING_STATE if name not in content]:
        raise UserError(
            f"{path}: a model without the state of its training ({', '.join(missing)}), nothing to go on with; begin a "
            f"new training from its weights: --model.start_from {path} without --ckpt_path"
        )
    states = content["optimizer_states"]
    if not isinstance(states, list) or len(states) > 1 or (content["global_step"] and not states):
        raise ValueError("optimizer_states is not one state of an optimiser")
    if entry.get("members"):
        raise UserError(f"{path}: an ensemble; go on with the training of one of its members")
    if entry["network"] != architecture:
        raise UserError(
            f"{path}: of another network ({entry['network']}, now {architecture}); give the same model.architecture, "
            "or begin a new training without --ckpt_path"
        )
    was, now = (_with_defaults(architecture, a) for a in (entry["arguments"], arguments))
    if differ := sorted(name for name in {*was, *now} if was.get(name) != now.get(name)):
        values = ", ".join(f"{name} {_short(was.get(name))}, now {_short(now.get(name))}" for name in differ)
        raise UserError(
            f"{path}: of another network ({values}); give the same model.network and data.cutoff, or begin a new "
            f"training without --ckpt_path"
        )
    if Basis.from_json(entry["basis"]) != basis:
        raise UserError(
            f"{path}: of another basis or other elements ({Basis.from_json(entry['basis'])}) than the data ({basis}); "
            f"begin a new training from its weights: --model.start_from {path} without --ckpt_path"
        )
    if theory(entry["level"]) != theory(level):
        raise UserError(
            f"{path}: learned labels of another level of theory ({theory(entry['level'])}); begin a new training from "
            f"its weights: --model.start_from {path} without --ckpt_path"
        )
    lines = tuple(_differences(entry.get("config", ""), config))
    return Resumed(
        Path(path),
        int(content["epoch"]) + 1,
        tuple(entry["training_groups"]),
        lines,
        not any(line.startswith(JUDGEMENT) for line in lines),
    )


class OptimiserFits(L.Callback):
    """Before the first step after resuming: whether the optimiser's state is one of these weights.

    PyTorch takes a state with missing entries or of other shapes, and fails in the middle of a step or not at all.

    Args:
        path: the checkpoint, for the message.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a state that does not fit.

        Raises:
            UserError: says what does not fit.
        """
        for optimizer in trainer.optimizers:
            state = optimizer.state
            if trainer.global_step and not any(state.values()):
                raise unfit(self.path, "its optimiser remembers nothing of the steps that it has made")
            names = {name for entry in state.values() for name in entry}
            for group in optimizer.param_groups:
                if lacking := sorted(optimizer.defaults.keys() - group.keys()):
                    raise unfit(self.path, f"a group of weights of its optimiser has no {lacking[0]}")
                for weights in group["params"]:
                    entry = state.get(weights) or {}
                    if entry and (lacking := sorted(names - entry.keys())):
                        raise unfit(self.path, f"its optimiser's state of some weights has no {lacking[0]}")
                    for name, value in entry.items():
                        if not isinstance(value, torch.Tensor) or value.shape not in (weights.shape, torch.Size()):
                            raise unfit(self.path, f"its optimiser's {name} is not of the shape of the weights")


def unfit(path: str | Path, what: str) -> UserError:
    """What is said of a checkpoint whose state of a training cannot be taken up."""
    return UserError(
        f"{path}: the state of its training is damaged or of another network ({what}); go on from another checkpoint "
        "of the run, or begin a new training from its weights by --model.start_from"
    )


@contextmanager
def restored(path: str | Path | None) -> Iterator[None]:
    """One line for a state that Lightning or PyTorch cannot take up while Lightning hands it on.

    Args:
        path: the checkpoint; ``None``: nothing is taken up.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if path is None or not any(Path(frame.filename).name == "checkpoint_connector.py" for frame in frames):
            raise
        text = " ".join(str(error).split())
        what = f"{type(error).__name__}: {text if len(text) <= 200 else text[:197] + '...'}"
        raise unfit(path, what) from None


def _with_defaults(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a network, those that were not given with their default; tuples as lists."""
    out = {**network(architecture).defaults(), **arguments}
    out["constants"] = Constants.of(out.get("constants")).to_dict()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in out.items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return out


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _differences(was: str, now: str) -> list[str]:
    """``key: before, now`` of the keys that both configurations have and that matter."""
    try:
        trees = [_flat(yaml.safe_load(text) or {}) for text in (was, now)]
    except yaml.YAMLError:
        return []
    old, new = trees
    keys = [k for k in old if k in new and k not in WITHOUT_CONSEQUENCE and not k.startswith("model.network")]
    return [f"{k}: {_short(old[k])} before, {_short(new[k])} now" for k in keys if old[k] != new[k]]
