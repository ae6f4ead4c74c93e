"""The LightningModule: model, named losses, optimiser, validation metrics, what a checkpoint says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn
from torchmetrics import MeanMetric

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import to_device
from schnorb_t.errors import ConfigurationError, UserError, brief
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.nn.matrix_product import LAYOUT as PRIOR_LAYOUT
from schnorb_t.nn.overlap import to_orthogonal
from schnorb_t.physics.occupations import Smearing
from schnorb_t.training.checkpoint import find_model, load_single
from schnorb_t.training.learning import NetworkModule, check_charges, check_network, check_rates
from schnorb_t.training.losses import ENERGIES, MATRICES, QUANTITIES, SMEARING, Output, Quantities
from schnorb_t.training.networks import DEFAULT, build_network
from schnorb_t.training.prior_cache import PriorCache
from schnorb_t.training.property_metrics import property_errors
from schnorb_t.training.transfer import Taken, start_from

DEFAULT_OUTPUTS = (
    Output(keys.HAMILTONIAN, weight=1000.0),
    Output(keys.OVERLAP, weight=10000.0),
    Output("hamiltonian_in_orbitals", weight=1000.0),
)


def check_prior(name: str, prior: MatrixNetwork, basis: Basis, cutoff: float) -> None:
    """Refuse a prior that says nothing of the elements to be learned, or that sees other pairs.

    Raises:
        ConfigurationError: names what differs.
    """
    if missing := [chemical_symbols[z] for z in basis.elements if z not in prior.basis.elements]:
        raise ConfigurationError(
            f"model.network.prior: {name} does not know {', '.join(missing)}; give another or null"
        )
    if prior.cutoff != cutoff:
        raise ConfigurationError(
            f"model.network.prior: the cutoff of {name} is {prior.cutoff:g} Å, data.cutoff {cutoff:g} Å; "
            "make them equal"
        )
    if tuple(prior.basis.layout) != PRIOR_LAYOUT:
        raise ConfigurationError(
            f"model.network.prior: {name} has the basis {prior.basis}; a prior has one s and one p shell"
        )


class MatrixModule(NetworkModule):
    """Trains a network.

    Args:
        basis: of the labels; the command takes it from the data.
        network: arguments of the architecture besides basis and cutoff; ``prior`` may be a checkpoint's path or the
            name of a model of the package.
        cutoff: Å, pairs farther apart have no block.
        outputs: the losses.
        learning_rate: at its height.
        two_centre_rate: factor on it for the two-centre functions, which start at their least-squares optimum.
        weight_decay: of AdamW.
        warmup_steps: linear growth of the rate, then half a cosine down to ``final_rate`` times its height.
        final_rate: see above.
        smearing: how the losses on properties fill levels.
        start_from: checkpoint, or name of a model of the package, whose weights the network begins with: all of them if
            basis and level of theory are the same; all but what the labels give in closed form if the basis is; else
            what it knows of chemistry (``training.transfer``).
        prior_memory: GiB of memory for what a prior says of the molecules, which is then computed once for each instead
            of in every epoch.
        architecture: name of the network (``schnorb_t.nn.base``).

    Raises:
        ConfigurationError: values that cannot be; a prior that does not fit.
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
        prior_memory: float = 1.0,
        architecture: str = DEFAULT,
    ):
        super().__init__()
        self.arguments, prior = {**(network or {}), "cutoff": cutoff}, None
        self.arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in self.arguments.items()}
        check_network(architecture, self.arguments)
        if isinstance(self.arguments.get("prior"), str):
            prior, card = load_single(find_model(self.arguments["prior"]))
            check_prior(self.arguments["prior"], prior, basis, cutoff)
            if card.network != architecture:
                raise ConfigurationError(
                    f"model.network.prior: {self.arguments['prior']} is of the architecture {card.network}, "
                    f"not {architecture}"
                )
            self.arguments["prior"] = {"basis": card.basis.to_json(), "arguments": card.arguments}
        self.model = build_network(architecture, basis, self.arguments)
        self.architecture = architecture
        self.arguments["constants"] = self.model.constants.to_dict()
        if prior is not None:
            self.model.prior.model.load_state_dict(prior.state_dict())
        self._prior_cache = None if self.model.prior is None else PriorCache(self.model.prior.count, prior_memory)
        check_rates(
            outputs,
            learning_rate=learning_rate,
            two_centre_rate=two_centre_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            final_rate=final_rate,
            prior_memory=prior_memory,
        )
        self.outputs = list(outputs or DEFAULT_OUTPUTS)
        self.learning_rate, self.two_centre_rate, self.weight_decay = learning_rate, two_centre_rate, weight_decay
        self.warmup_steps, self.final_rate = warmup_steps, final_rate
        self.smearing, self.start_from = smearing, start_from
        self.properties = [output for output in self.outputs if output.name not in MATRICES]
        names = [output.name for output in self.properties]
        #: whether a loss is made of orbitals in the basis itself (charges, dipoles, densities of states)
        self.density_losses = any(name not in QUANTITIES for name in names)
        if len(set(names)) < len(names):
            raise ConfigurationError(f"each property can be trained on once, got {', '.join(names)}")
        self.validation = nn.ModuleDict({name: MeanMetric() for name in (*self.VALIDATION, *names)})
        if learned := [name for name in names if name in ENERGIES]:
            raise ConfigurationError(
                f"model.outputs: {learned[0]} is learned by the architecture energy, not by {architecture}"
            )

    DEFAULT_OUTPUTS = DEFAULT_OUTPUTS
    headline = "hamiltonian_mae_eh"
    VALIDATION = ("loss", "hamiltonian_mae_eh", "overlap_mae", "occupied_energy_mae_eh", "homo_mae_eh", "lumo_mae_eh")

    def prepare(self, data) -> Taken | None:
        """The start of a training, and the card that checkpoints will carry.

        Whatever has a closed form is fitted to the training molecules first. What is then taken from another model
        (``start_from``) replaces of it what that model has learned of the same labels.

        Args:
            data: a ``MatrixDataModule``.

        Returns:
            what was taken from ``start_from``; None without.

        Raises:
            UserError: an element of the basis that no training molecule has; a model that does not fit.
        """
        seen: set[int] = set()
        check_charges(self.model.knows_charge, data)

        def batches():
            for batch in data.training_batches():
                seen.update(batch[keys.ATOMIC_NUMBERS].unique().tolist())
                yield batch

        for rows in data.split.values():
            data.store.require_matrices(rows)
        self.model.fit_reference(batches)
        taken = None
        if self.start_from:
            taken = start_from(self.model, find_model(self.start_from), data.store.header)
        missing = [chemical_symbols[z] for z in self.model.basis.elements if z not in seen]
        if missing:
            raise UserError(
                f"{data.store.path}: no training molecule has {', '.join(missing)}, which the file's basis names; "
                "train on more molecules (data.max_train) or leave that element out of the file"
            )
        self.describe(data)
        return taken

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks and matrices of a batch, as ``MatrixNetwork.forward``."""
        return self.model(batch)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Add what the prior says, from memory where it has been computed before."""
        if self.model.prior is None or keys.PRIOR_DENSITY in batch:
            return batch
        kept = self._prior_cache.get(batch)
        if kept is None:
            with torch.no_grad():
                kept = self.model.prior.matrices(to_device(batch, self.device))
            self._prior_cache.put(batch, kept)
            kept = {name: x.float() for name, x in kept.items()}
        return batch | kept

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

    @contextmanager
    def _sound(self, batch: dict[str, Tensor]) -> Iterator[None]:
        """Where a batch cannot be diagonalised, tell why if it is the weights or the labels."""
        try:
            yield
        except torch.linalg.LinAlgError as error:
            self._check_weights()
            raise UserError(
                f"{self._molecules(batch)}: cannot be diagonalised ({brief(error)}); {self._remedy()}"
            ) from None

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The weighted losses of a batch, with what each contributes in the log.

        Raises:
            UserError: the loss is NaN or infinite; names the molecules and the remedy.
        """
        with self._sound(batch):
            loss, parts = self._loss(*self._quantities(batch), self.current_epoch)
        self._check_loss(batch, parts)
        n = len(batch[keys.N_ATOMS])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=n)
        self.log_dict({f"train/{name}": x.detach() for name, x in parts.items()}, batch_size=n)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds a batch to the errors of the validation, with the full weights of all losses."""
        with self._sound(batch):
            prediction, reference = self._quantities(batch)
            prediction.orbitals(), reference.orbitals()  # kept
        # full weights from the first epoch on: the best checkpoint is chosen among epochs of different schedules
        loss, parts = self._loss(prediction, reference, math.inf)
        self._check_loss(batch, parts)
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
