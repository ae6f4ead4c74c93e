"""The LightningModule: model, named losses, optimiser, validation metrics, what a checkpoint says."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as L
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn
from torchmetrics import MeanMetric

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import to_device
from schnorb_t.errors import UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.overlap import to_orthogonal
from schnorb_t.physics.occupations import Smearing
from schnorb_t.training.checkpoint import KEY, ModelCard, find_model, load_single
from schnorb_t.training.losses import MATRICES, QUANTITIES, SMEARING, Output, Quantities
from schnorb_t.training.property_metrics import property_errors
from schnorb_t.training.transfer import start_from

DEFAULT_OUTPUTS = (
    Output(keys.HAMILTONIAN, weight=1000.0),
    Output(keys.OVERLAP, weight=10000.0),
    Output("hamiltonian_in_orbitals", weight=1000.0),
)


class MatrixModule(L.LightningModule):
    """Trains a ``MatrixModel``.

    Args:
        basis: of the labels; the command takes it from the data.
        network: arguments of ``MatrixModel`` besides basis and cutoff; ``prior`` may be a checkpoint's path or the name
            of a model of the package.
        cutoff: Å, pairs farther apart have no block.
        outputs: the losses.
        learning_rate: at its height.
        two_centre_rate: factor on it for the two-centre functions, which start at their least-squares optimum.
        weight_decay: of AdamW.
        warmup_steps: linear growth of the rate, then half a cosine down to ``final_rate`` times its height.
        final_rate: see above.
        smearing: how the losses on properties fill levels.
        start_from: checkpoint, or name of a model of the package, whose weights the network begins with: all of them if
            its basis is the same, else what it knows of chemistry (``training.transfer``).
    """

    def __init__(
        self,
        basis: Basis,
        network: dict[str, Any] | None = None,
        cutoff: float = 10.0,
        outputs: list[Output] | None = None,
        learning_rate: float = 3e-3,
        two_centre_rate: float = 0.01,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
        final_rate: float = 0.002,
        smearing: Smearing = SMEARING,
        start_from: str | None = None,
    ):
        super().__init__()
        self.arguments, prior = {**(network or {}), "cutoff": cutoff}, None
        if isinstance(self.arguments.get("prior"), str):
            prior, card = load_single(find_model(self.arguments["prior"]))
            self.arguments["prior"] = {"basis": card.basis.to_json(), "arguments": card.arguments}
        self.model = MatrixModel(basis, **self.arguments)
        if prior is not None:
            self.model.prior.model.load_state_dict(prior.state_dict())
        #: place of a molecule in the data -> what its prior says, which training never changes
        self._priors: dict[int, dict[str, Tensor]] = {}
        self.outputs = list(outputs or DEFAULT_OUTPUTS)
        self.learning_rate, self.two_centre_rate, self.weight_decay = learning_rate, two_centre_rate, weight_decay
        self.warmup_steps, self.final_rate = warmup_steps, final_rate
        self.smearing, self.start_from = smearing, start_from
        self.properties = [output for output in self.outputs if output.name not in MATRICES]
        names = [output.name for output in self.properties]
        #: whether a loss is made of orbitals in the basis itself (charges, dipoles, densities of states)
        self.density_losses = any(name not in QUANTITIES for name in names)
        if len(set(names)) < len(names):
            raise ValueError(f"each property can be trained on once, got {', '.join(names)}")
        self.validation = nn.ModuleDict({name: MeanMetric() for name in (*self.VALIDATION, *names)})
        self.card: ModelCard | None = None
        self.config_text = ""

    VALIDATION = ("loss", "hamiltonian_mae_eh", "overlap_mae", "occupied_energy_mae_eh", "homo_mae_eh", "lumo_mae_eh")

    def prepare(self, data) -> None:
        """Closed-form start on a ``MatrixDataModule``, and the card that checkpoints will carry."""
        seen: set[int] = set()

        def batches():
            for batch in data.training_batches():
                seen.update(batch[keys.ATOMIC_NUMBERS].unique().tolist())
                yield batch

        self.model.fit_reference(batches)
        if self.start_from:
            start_from(self.model, find_model(self.start_from))
        missing = [chemical_symbols[z] for z in self.model.basis.elements if z not in seen]
        if missing:
            raise UserError(
                f"{data.store.path}: no training molecule has {', '.join(missing)}, which the file's basis names; "
                "train on more molecules (data.max_train) or leave that element out of the file"
            )
        self.describe(data)

    def describe(self, data) -> None:
        """Take the card's facts from the data."""
        store = data.store
        seen = sorted({str(store.groups[i]) for name in ("train", "val") for i in data.split[name]})
        self.card = ModelCard(self.arguments, store.basis, store.level, store.target, tuple(seen))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model(batch)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Add what the prior says: computed once per molecule, kept on the CPU."""
        if self.model.prior is None:
            return batch
        places = batch[keys.INDEX].tolist()
        if any(place not in self._priors for place in places):
            with torch.no_grad():
                made = self.model.prior.matrices(to_device(batch, self.device))
            for b, place in enumerate(places):
                n = int(batch[keys.ORBITAL_MASK][b].sum())  # the prior's orbitals are fewer
                self._priors[place] = {name: x[b, :n, :n].float().cpu() for name, x in made.items()}
        m = batch[keys.ORBITAL_MASK].shape[1]
        for name in (keys.PRIOR_HAMILTONIAN, keys.PRIOR_OVERLAP, keys.PRIOR_DENSITY):
            batch[name] = torch.zeros(len(places), m, m)
            for b, place in enumerate(places):
                kept = self._priors[place][name]
                batch[name][b, : len(kept), : len(kept)] = kept
        return batch

    def _quantities(self, batch: dict[str, Tensor]) -> tuple[Quantities, Quantities]:
        if self.model.orthogonal and not self.density_losses:  # levels and elements do not need S: no root of it either
            out = self.model.learned_matrices(self.model.blocks(batch), batch)
        else:
            out = self.model(batch)
        hamiltonian = out[keys.HAMILTONIAN]
        more = {"basis": self.model.basis, "smearing": self.smearing, "orthogonal": self.model.orthogonal}
        labels = batch[keys.HAMILTONIAN]
        if self.model.orthogonal:
            labels = to_orthogonal(labels, batch[keys.OVERLAP], batch[keys.ORBITAL_MASK])
            if self.density_losses:
                hamiltonian = to_orthogonal(hamiltonian, out[keys.OVERLAP], batch[keys.ORBITAL_MASK])
        reference = Quantities(batch, labels, batch[keys.OVERLAP], **more)
        return Quantities(batch, hamiltonian, out[keys.OVERLAP], reference, **more), reference

    def _loss(self, prediction: Quantities, reference: Quantities, epoch: float) -> tuple[Tensor, dict[str, Tensor]]:
        parts, total = {}, 0.0
        for output in self.outputs:
            weight = output.weight_at(epoch)
            if weight:
                parts[output.name] = output(prediction, reference)
                total = total + weight * parts[output.name]
        return total, parts

    def on_train_start(self) -> None:
        """``val/<property>`` of the start, in the same files as all later ones."""
        if self.properties and self.global_step == 0 and self.trainer.is_global_zero:
            data = self.trainer.datamodule
            errors = property_errors(self.model, data.store, data.split["val"], self.properties, self.smearing)
            for logger in self.loggers:
                logger.log_metrics({f"val/{name}": error for name, error in errors.items()}, step=0)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss, parts = self._loss(*self._quantities(batch), self.current_epoch)
        n = len(batch[keys.N_ATOMS])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=n)
        self.log_dict({f"train/{name}": x.detach() for name, x in parts.items()}, batch_size=n)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        prediction, reference = self._quantities(batch)
        # full weights from the first epoch on: the best checkpoint is chosen among epochs of different schedules
        loss, _ = self._loss(prediction, reference, math.inf)
        n_molecules = len(batch[keys.N_ATOMS])
        error = (prediction.orbitals()[0] - reference.orbitals()[0]).abs()
        last = batch[keys.N_OCCUPIED][:, None]
        occupied = reference.levels(None, 0)
        elements = prediction.matrix_mask
        values = {
            "loss": (loss.detach(), n_molecules),
            "hamiltonian_mae_eh": ((prediction.learned - reference.learned).abs()[elements].mean(), elements.sum()),
            "overlap_mae": ((prediction.s - reference.s).abs()[elements].mean(), elements.sum()),
            "occupied_energy_mae_eh": (error[occupied].mean(), occupied.sum()),
            "homo_mae_eh": (error.gather(1, last - 1).mean(), n_molecules),
            "lumo_mae_eh": (error.gather(1, last).mean(), n_molecules),
        }
        for output in self.properties:
            values[output.name] = output.error(prediction, reference)
        for name, (value, weight) in values.items():
            self.validation[name].update(value, weight)

    def on_validation_epoch_end(self) -> None:
        for name, metric in self.validation.items():
            self.log(f"val/{name}", metric.compute(), prog_bar=name == "hamiltonian_mae_eh", sync_dist=False)
            metric.reset()

    def configure_optimizers(self):
        slow = [p for n, p in self.model.named_parameters() if "two_centre" in n]
        fast = [p for n, p in self.model.named_parameters() if "two_centre" not in n]
        optimizer = torch.optim.AdamW(
            [
                {"params": fast, "lr": self.learning_rate, "weight_decay": self.weight_decay},
                {"params": slow, "lr": self.learning_rate * self.two_centre_rate, "weight_decay": 0.0},
            ],
            fused=True,  # hundreds of small parameters: a tenth of a step's time otherwise
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
        if self.card is None:
            raise RuntimeError("prepare(data) or describe(data) must run before a checkpoint is written")
        checkpoint[KEY] = {**self.card.to_entry(), "config": self.config_text}
