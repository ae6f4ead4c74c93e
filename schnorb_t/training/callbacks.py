"""Checkpoints of a run: written whole or not at all, and a best one that survives interruption, moving and renaming."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write, write_error
from schnorb_t.training.checkpoint import read_checkpoint


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there; an old one stays until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            UserError: full disk, folder that cannot be written to.
        """
        path = Path(path)
        _make_folder_of(path)
        older = f"; {path} of an earlier epoch is whole: go on with --ckpt_path {path}" if path.is_file() else ""
        with atomic_write(path, remedy=f"make room or name another folder (--runs){older}") as temporary:
            torch.save(checkpoint, temporary)


class RunCheckpoint(ModelCheckpoint):
    """``ModelCheckpoint`` that finds its files again, and takes them along into the folder of the run that goes on.

    Its state names files relative to their folder, so that it stays right when the folder is moved or renamed. A run
    that goes on from a checkpoint copies the best ones so far, which lie beside it, into its own folder.

    Attributes:
        resumed_from: the checkpoint that the run goes on from, if any; set before ``Trainer.fit``.
        lost: score of the best checkpoint so far, if its file is not found beside ``resumed_from``.
    """

    resumed_from: Path | None = None
    lost: float | None = None

    @property
    def state_key(self) -> str:
        """That of ``ModelCheckpoint``: states of earlier versions are found under it."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        """State with paths relative to the folder of the checkpoints."""

        def relative(path: str) -> str:
            return os.path.relpath(path, self.dirpath) if path else path

        state = super().state_dict()
        state["best_k_models"] = {relative(path): score for path, score in state["best_k_models"].items()}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = relative(state[name])
        return state | {"dirpath": "."}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the best checkpoints so far; see ``lost``."""
        if self.monitor is None or self.resumed_from is None:
            return  # what is merely the last of the run before stays there
        self.best_k_models = {}
        for name, score in self._named(state).items():
            source, found = self._find(name, score)
            if source is None:
                self.lost = None if found is not None else float(score)
                continue
            target = Path(self.dirpath) / Path(name).name if os.path.isabs(name) else Path(self.dirpath) / name
            if self._trainer.is_global_zero and not (target.exists() and source.samefile(target)):
                _copy(source, target)
            self.best_k_models[str(target)] = found
        if self.best_k_models:
            best, worst = (min, max) if self.mode == "min" else (max, min)
            self.best_model_path = best(self.best_k_models, key=self.best_k_models.get)
            self.best_model_score = self.current_score = self.best_k_models[self.best_model_path]
            if len(self.best_k_models) == self.save_top_k:
                self.kth_best_model_path = worst(self.best_k_models, key=self.best_k_models.get)
                self.kth_value = self.best_k_models[self.kth_best_model_path]
        self._trainer.strategy.barrier("best checkpoints copied")

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning calls this before ``load_state_dict``, which needs the trainer and how far the training was."""
        self._trainer, self._step = trainer, int(checkpoint["global_step"])

    def _named(self, state: dict[str, Any]) -> dict[str, torch.Tensor | float]:
        """Best files so far and their scores.

        In checkpoints of earlier versions, ``last`` was written before ``best``: there may be a file without a name.
        """
        if state["best_k_models"] or "{" in (self.filename or "{"):
            return state["best_k_models"]
        name = f"{self.filename}{self.FILE_EXTENSION}"
        return {name: float("nan")} if (self.resumed_from.parent / name).is_file() else {}

    def _find(self, name: str, score: torch.Tensor | float) -> tuple[Path | None, torch.Tensor | None]:
        """A best checkpoint and its score: beside the one that the run goes on from, or where it was written.

        Elsewhere another run may have written to that place since: the score that stands in the file decides. Beside,
        the file itself is believed, unless it is of a later step than the one gone on from: that will be done again.
        """
        beside = self.resumed_from.parent / (os.path.basename(name) if os.path.isabs(name) else name)
        if beside.is_file():
            step, found = self._score(beside)
            if found is not None:
                return (beside if step <= self._step else None), found
        if os.path.isabs(name) and os.path.isfile(name):
            found = self._score(Path(name))[1]
            if found is not None and float(found) == float(score):
                return Path(name), found
        return None, None

    def _score(self, path: Path) -> tuple[int, torch.Tensor | None]:
        """Step and score that stand in a checkpoint; no score in one that is damaged."""
        try:
            content = read_checkpoint(path)
        except UserError:
            return 0, None
        state = content.get("callbacks", {}).get(self.state_key, {})
        return int(content.get("global_step", 0)), state.get("current_score")


def _make_folder_of(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, "name another folder (--runs, --checkpoint.dirpath)") from None


def _copy(source: Path, target: Path) -> None:
    _make_folder_of(target)
    with atomic_write(target, remedy="make room or name another folder (--runs)") as temporary:
        shutil.copyfile(source, temporary)
