"""A trained model of energies and forces at work: structures in, energies and forces out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import structures_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.errors import UserError
from schnorb_t.nn.base import EnergyNetwork
from schnorb_t.predictor import choose_device
from schnorb_t.structures import Structure, as_structure, check_structures
from schnorb_t.training.checkpoint import ModelCard, find_model, load_network


@dataclass(frozen=True)
class EnergyPrediction:
    """Energy and forces of one molecule.

    Attributes:
        energy: Eh.
        forces: [n, 3], Eh/Bohr.
    """

    energy: float
    forces: np.ndarray


class EnergyPredictor:
    """Predicts molecules with a trained model of energies and forces.

    Args:
        model: is moved to ``device`` and switched to evaluation; its weights are frozen.
        card: what the checkpoint says of it.
        device: by default CUDA where there is one.
        dtype: of the network, ``torch.float32`` or ``torch.float64``; energies are summed in float64.
    """

    def __init__(
        self,
        model: EnergyNetwork,
        card: ModelCard,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.device, self.card = choose_device(device), card
        self.model = model.to(dtype).to(self.device).eval().requires_grad_(False)

    @property
    def basis(self) -> Basis:
        """Names the elements that the model knows."""
        return self.model.basis

    def predict(
        self, structures: Sequence[Atoms | Structure], batch_size: int | None = None, checked: bool = False
    ) -> list[EnergyPrediction]:
        """Energies and forces of molecules of any size and composition.

        Args:
            structures: positions in Å.
            batch_size: molecules at once; by default by their size.
            checked: they have been checked already.

        Raises:
            UserError: a structure that the model cannot treat, before any work.
        """
        found = [as_structure(x) for x in structures]
        if not checked:
            check_structures(found, self.basis.elements)
        out: list[EnergyPrediction | None] = [None] * len(found)
        for places in batches_by_size([len(s) for s in found], batch_size, self.device.type) if found else []:
            batch = structures_to_batch(
                [found[p].numbers for p in places],
                [found[p].positions for p in places],
                self.basis,
                self.model.cutoff,
            )
            with torch.no_grad():
                result = self.model(to_device(batch, self.device))
            energies = result[keys.TOTAL_ENERGY].cpu().numpy()
            forces = result[keys.FORCES].double().cpu().numpy()
            ends = np.cumsum(batch[keys.N_ATOMS].numpy())[:-1]
            for place, energy, force in zip(places, energies, np.split(forces, ends), strict=True):
                out[place] = EnergyPrediction(float(energy), force)
        return [x for x in out if x is not None]


def load_energies(
    model: str | Path, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> EnergyPredictor:
    """A trained model of energies and forces, ready to predict.

    Args:
        model: path of a checkpoint.
        device, dtype: see ``EnergyPredictor``.

    Raises:
        UserError: no such model, or one that predicts matrices.
    """
    path = find_model(model)
    network, card = load_network(path)
    if not isinstance(network, EnergyNetwork):
        raise UserError(
            f"{path}: predicts matrices, no energies and forces; train a model of these with "
            "schnorb_t fit --config forces"
        )
    return EnergyPredictor(network, card, device, dtype)
