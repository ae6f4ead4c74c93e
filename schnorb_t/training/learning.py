"""What every training has, whatever it learns: optimiser and rate, what a checkpoint says, whether arguments can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.errors import ConfigurationError, UserError
from schnorb_t.nn.base import Network, network
from schnorb_t.training.checkpoint import KEY, ModelCard, find_model, load_network
from schnorb_t.training.losses import Output


def check_network(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse values that no network of this name can have.

    Raises:
        ConfigurationError: names the argument and what it may be.
    """
    try:
        kind = network(name)
    except ValueError as error:
        raise ConfigurationError(f"model.architecture: {error}") from None
    known = {*kind.defaults()}
    if unknown := [argument for argument in arguments if argument not in known]:
        raise ConfigurationError(
            f"model.network: no argument {', '.join(unknown)}; known: {', '.join(sorted(known - {'cutoff'}))}"
        )
    for argument, wanted in kind.faults(arguments):
        raise ConfigurationError(f"model.network.{argument}: must be {wanted}, got {arguments[argument]}")


def check_rates(outputs: Sequence[Output] | None, **values: float) -> None:
    """Refuse arguments of a module that must be numbers from 0 on, and a list of losses that is empty.

    Raises:
        ConfigurationError: names the argument.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ConfigurationError(f"model.{name}: must be a number from 0 on, got {value}")
    if outputs is not None and not outputs:
        raise ConfigurationError("model.outputs: names no loss; give some, or null for the usual ones")


def check_charges(known: bool, data) -> tuple[int, ...]:
    """Total charges (e) of the training molecules, ascending.

    Args:
        known: whether the network reads the total charge.
        data: a ``MatrixDataModule``.

    Raises:
        UserError: ions for a network of neutral molecules, or to validate or test with and not among those in training.
    """
    store = data.store
    charges = {name: store.total_charges[rows] for name, rows in data.split.items()}
    there = tuple(sorted({int(q) for q in charges["train"]}))
    for name, rows in data.split.items():
        wrong = ~np.isin(charges[name], there if known else (0,))
        if not wrong.any():
            continue
        example = f"molecule {store.name_of(rows[wrong][0])!r} of split {name} has charge {charges[name][wrong][0]:+d}"
        if not known:
            raise UserError(
                f"{store.path}: {example}, and the network knows neutral molecules only; give one that knows ions "
                "(model.network.total_charge true, architecture matrix), or leave ions out of the file"
            )
        raise UserError(
            f"{store.path}: {example}, and no training molecule has; train on such ions too, or leave it out of {name}"
        )
    return there


class NetworkModule(L.LightningModule):
    """Base of the modules that train a network of this package.

    Attributes:
        model: the network.
        architecture: its name.
        arguments: of the network besides the basis, as checkpoints hold them.
        outputs: the losses.
        learning_rate, two_centre_rate, weight_decay, warmup_steps, final_rate: see ``MatrixModule``.
        start_from: whose weights the network began with, or None.
        card: what checkpoints will say; ``describe`` makes it.
        config_text: the configuration, YAML.
        headline: the validation metric that the progress bar shows.
    """

    model: Network
    architecture: str
    arguments: dict[str, Any]
    outputs: list[Output]
    learning_rate: float
    two_centre_rate: float = 1.0
    weight_decay: float
    warmup_steps: int
    final_rate: float
    start_from: str | None
    card: ModelCard | None = None
    config_text: str = ""
    headline: str = "loss"

    def describe(self, data, earlier: Iterable[str] | None = None) -> None:
        """Take the card's facts from the data.

        Args:
            data: a ``MatrixDataModule``.
            earlier: identities of molecules that the weights have seen before, if a training goes on; else those of the
                model that it starts from.
        """
        store = data.store
        seen = {str(store.groups[i]) for name in ("train", "val") for i in data.split[name]}
        seen.update(self.seen_before() if earlier is None else earlier)
        self.card = ModelCard(
            self.arguments,
            store.basis,
            store.level,
            store.target,
            tuple(sorted(seen)),
            network=self.architecture,
            charges=check_charges(self.model.knows_charge, data),
        )

    def seen_before(self) -> tuple[str, ...]:
        """Identities of the molecules that the model which this one starts from was trained on."""
        return load_network(find_model(self.start_from))[1].training_groups if self.start_from else ()

    def _molecules(self, batch: dict[str, Tensor]) -> str:
        store = self.trainer.datamodule.store
        names = [store.name_of(int(i)) for i in batch[keys.INDEX][:5]]
        more = len(batch[keys.INDEX]) - len(names)
        return f"{store.path}, molecules {', '.join(names)}{f' and {more} more' if more else ''}"

    def _remedy(self) -> str:
        return (
            f"validate the labels with `schnorb_t check {self.trainer.datamodule.store.path}`, and give a lower "
            f"model.learning_rate (now {self.learning_rate:g}) or a trainer.gradient_clip_val"
        )

    def _check_weights(self) -> None:
        """Refuse to go on, and to write checkpoints, with weights that are no numbers.

        Raises:
            UserError: names epoch and remedy.
        """
        if all(torch.isfinite(p).all() for p in self.model.parameters()):
            return
        raise UserError(
            f"the training diverged in epoch {self.current_epoch} before step {self.global_step}: weights are NaN or "
            f"infinite; give a lower model.learning_rate (now {self.learning_rate:g}) or a trainer.gradient_clip_val; "
            "checkpoints of earlier epochs are whole"
        )

    def _check_loss(self, batch: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
        if bad := [name for name, x in parts.items() if not torch.isfinite(x)]:
            self._check_weights()
            what = f"the loss of {', '.join(bad)} is NaN or infinite"
            raise UserError(f"{self._molecules(batch)}: {what}; {self._remedy()}")

    def on_train_epoch_end(self) -> None:
        """Lightning writes checkpoints after this.

        Raises:
            UserError: the weights are NaN or infinite.
        """
        self._check_weights()

    def on_validation_epoch_end(self) -> None:
        """Logs the errors of the validation molecules and begins anew."""
        for name, metric in self.validation.items():
            self.log(f"val/{name}", metric.compute(), prog_bar=name == self.headline, sync_dist=False)
            metric.reset()

    def configure_optimizers(self):
        """AdamW, warm-up, cosine; two-centre functions have a rate of their own, the prior stays as it is."""
        fast, slow = self.model.parameter_groups()
        groups = [
            {"params": fast, "lr": self.learning_rate, "weight_decay": self.weight_decay},
            {"params": slow, "lr": self.learning_rate * self.two_centre_rate, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            # hundreds of small parameters: a tenth of a step's time otherwise; mixed precision cannot clip then
            fused="mixed" not in str(self.trainer.precision),
        )
        if math.isinf(self.trainer.estimated_stepping_batches):
            raise ConfigurationError(
                "trainer: the learning rate falls over the whole training, which needs an end; "
                "give max_epochs or max_steps"
            )
        total = max(int(self.trainer.estimated_stepping_batches), self.warmup_steps + 1)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            done = min(1.0, (step - self.warmup_steps) / (total - self.warmup_steps))
            return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card and the configuration, which make a model of the checkpoint.

        Raises:
            RuntimeError: neither ``prepare`` nor ``describe`` has run.
        """
        if self.card is None:
            raise RuntimeError("prepare(data) or describe(data) must run before a checkpoint is written")
        checkpoint[KEY] = {**self.card.to_entry(), "config": self.config_text}
