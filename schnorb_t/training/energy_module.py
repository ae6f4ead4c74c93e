"""The LightningModule of models of energies and forces; its losses are named outputs as those of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn
from torchmetrics import MeanMetric

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.errors import ConfigurationError, UserError
from schnorb_t.nn.base import EnergyNetwork
from schnorb_t.training.checkpoint import find_model, load_network
from schnorb_t.training.learning import NetworkModule, check_network, check_rates
from schnorb_t.training.losses import ENERGIES, Masked, Output
from schnorb_t.training.networks import build_network
from schnorb_t.units import BOHR, KCAL_PER_MOL

#: What a network keeps of its own closed-form start when it begins with another's weights.
_CLOSED_FORM = ("mean_energy", "element_energy", "scale")


class EnergyQuantities:
    """Energies and forces of a batch, by the names of losses: each with the mask of what a molecule has a label of.

    Args:
        values: ``total_energy`` [B], Eh, and ``forces`` [N, 3], Eh/Bohr, predicted or labelled.
        batch: with labels.
    """

    def __init__(self, values: dict[str, Tensor], batch: dict[str, Tensor]):
        self.values, self.batch = values, batch

    def __getitem__(self, name: str) -> Masked:
        value = self.values[name].double()
        there = self.batch[keys.present(name)]
        if name == keys.FORCES:
            there = there[self.batch[keys.MOLECULE]][:, None]
        return value, there.expand(value.shape)


class EnergyModule(NetworkModule):
    """Trains a network of energies and forces.

    Args:
        basis: names the elements; the command takes it from the data.
        network: arguments of the architecture besides basis and cutoff.
        cutoff: Å, range of messages (``data.cutoff``).
        outputs: the losses, on ``total_energy`` (weight per Eh; of a whole molecule) and ``forces`` (per Eh/Bohr).
        learning_rate: at its height.
        weight_decay: of AdamW.
        warmup_steps: linear growth of the rate, then half a cosine down to ``final_rate`` times its height.
        final_rate: see above.
        start_from: checkpoint whose weights the network begins with, wherever name and shape are the same; reference
            energies are those of the labels in any case.
        architecture: name of the network (``schnorb_t.nn.base``).

    Raises:
        ConfigurationError: values that cannot be.
    """

    #: about kcal/mol/Å of forces, and a hundredth of that per kcal/mol of energy
    DEFAULT_OUTPUTS = (
        Output(keys.FORCES, loss="norm", weight=1000.0),
        Output(keys.TOTAL_ENERGY, loss="l1", weight=6.0),
    )
    VALIDATION = ("loss", "energy_mae_kcal", "forces_mae_kcal_per_angstrom")
    headline = "forces_mae_kcal_per_angstrom"
    model: EnergyNetwork

    def __init__(
        self,
        basis: Basis,
        network: dict[str, Any] | None = None,
        cutoff: float = 5.0,
        outputs: list[Output] | None = None,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
        final_rate: float = 0.002,
        start_from: str | None = None,
        architecture: str = "energy",
    ):
        super().__init__()
        self.arguments = {**(network or {}), "cutoff": cutoff}
        check_network(architecture, self.arguments)
        self.model = build_network(architecture, basis, self.arguments)
        self.architecture = architecture
        self.arguments["constants"] = self.model.constants.to_dict()
        check_rates(
            outputs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            final_rate=final_rate,
        )
        self.outputs = list(outputs or self.DEFAULT_OUTPUTS)
        if wrong := [output.name for output in self.outputs if output.name not in ENERGIES]:
            raise ConfigurationError(
                f"model.outputs: {wrong[0]} is not learned by the architecture {architecture}; "
                f"known: {', '.join(ENERGIES)}"
            )
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.final_rate = warmup_steps, final_rate
        self.start_from = start_from
        self.validation = nn.ModuleDict({name: MeanMetric() for name in self.VALIDATION})

    def prepare(self, data) -> str | None:
        """Energies per element in closed form, weights of another model where that is wanted, the checkpoint's card.

        Args:
            data: a ``MatrixDataModule``.

        Returns:
            what was taken from ``start_from``; None without.

        Raises:
            UserError: no label to train on; an element that no training molecule has; a model that does not fit.
        """
        seen: set[int] = set()
        labelled = dict.fromkeys((output.name for output in self.outputs), 0)

        def batches():
            for batch in data.training_batches():
                seen.update(batch[keys.ATOMIC_NUMBERS].unique().tolist())
                for name in labelled:
                    if keys.present(name) in batch:
                        labelled[name] += int(batch[keys.present(name)].sum())
                yield batch

        self.model.fit_reference(batches)
        for name, count in labelled.items():
            if not count:
                raise UserError(
                    f"{data.store.path}: no training molecule has {name}; label some (schnorb_t import-energies), or "
                    "leave it out of model.outputs"
                )
        if missing := [chemical_symbols[z] for z in self.model.basis.elements if z not in seen]:
            raise UserError(
                f"{data.store.path}: no training molecule has {', '.join(missing)}, which the file's basis names; "
                "train on more molecules (data.max_train) or leave that element out of the file"
            )
        self.describe(data)
        return self._start(self.start_from) if self.start_from else None

    def _start(self, path: str) -> str:
        other, card = load_network(find_model(path))
        if not isinstance(other, EnergyNetwork):
            raise UserError(f"{path}: a model of matrices; give one of energies and forces")
        if other.basis.elements != self.model.basis.elements:
            raise UserError(
                f"{path}: knows {other.basis.symbols()}, and the data hold {self.model.basis.symbols()}; "
                "begin from a model of the same elements"
            )
        mine = self.model.state_dict()
        fits = {
            name: x
            for name, x in other.state_dict().items()
            if name not in _CLOSED_FORM and name in mine and x.shape == mine[name].shape
        }
        self.model.load_state_dict(fits, strict=False)
        return f"{len(fits)} of {len(mine) - len(_CLOSED_FORM)} weights" if fits else "nothing"

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Energies and forces of a batch, as ``EnergyNetwork.forward``."""
        return self.model(batch)

    def _loss(self, batch: dict[str, Tensor], epoch: float):
        prediction = EnergyQuantities(self.model(batch), batch)
        labels = EnergyQuantities(batch, batch)
        parts: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for output in self.outputs:
            weight = output.weight_at(epoch)
            if weight and keys.present(output.name) in batch:
                parts[output.name] = output(prediction, labels)
                total = total + weight * parts[output.name]
        return total, parts, prediction, labels

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor | None:
        """The weighted losses of a batch, with what each contributes in the log."""
        loss, parts, *_ = self._loss(batch, self.current_epoch)
        if not parts:  # no molecule of the batch has a label
            return None
        self._check_loss(batch, parts)
        n = len(batch[keys.N_ATOMS])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=n)
        self.log_dict({f"train/{name}": x.detach() for name, x in parts.items()}, batch_size=n)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds a batch to the errors of the validation, with the full weights of all losses."""
        # full weights from the first epoch on: the best checkpoint is chosen among epochs of different schedules
        loss, parts, prediction, labels = self._loss(batch, math.inf)
        self._check_loss(batch, parts)
        if parts:
            self.validation["loss"].update(loss.detach(), len(batch[keys.N_ATOMS]))
        units = {
            keys.TOTAL_ENERGY: ("energy_mae_kcal", KCAL_PER_MOL),
            keys.FORCES: ("forces_mae_kcal_per_angstrom", KCAL_PER_MOL / BOHR),
        }
        for name, (metric, unit) in units.items():
            if keys.present(name) in batch:
                value, mask = prediction[name]
                error = torch.where(mask, value - labels[name][0], 0.0).abs().sum().detach()
                self.validation[metric].update(unit * error / mask.sum(), mask.sum())
