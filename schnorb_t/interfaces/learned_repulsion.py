"""A trained network in place of DFTB's pairwise repulsion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.nn.energy import EnergyModel
from schnorb_t.training.checkpoint import find_model, load_network


class LearnedRepulsion(torch.nn.Module):
    """Batch -> [B], Eh, differentiable in positions; a ``physics.energies.RepulsiveEnergy``.

    Args:
        model: checkpoint of ``schnorb_t fit --config nnrep``.
        set_name, order: of the DFTB that it completes; the network must have learned what exactly that one lacks.

    Raises:
        UserError: no such checkpoint, one of matrices, or one that has learned something else.
    """

    def __init__(self, model: str | Path, set_name: str, order: int):
        super().__init__()
        network, card = load_network(find_model(str(model)))
        if not isinstance(network, EnergyModel):
            raise UserError(f"{model}: predicts matrices, not energies; give a model of schnorb_t fit --config nnrep")
        wanted, learned = f"DFTB{order}/{set_name}, electronic", card.level.get("subtracted")
        if learned != wanted:
            raise UserError(
                f"{model}: has learned energies {'less ' + learned if learned else 'as they are'}, and this DFTB wants "
                f"those less {wanted}; make its labels by schnorb_t subtract-dftb"
            )
        self.network, self.name = network.eval().requires_grad_(False), str(model)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Energy of each molecule of a batch, whatever basis it was made for.

        Raises:
            UserError: an element that the network does not know.
        """
        z, positions, molecule = (batch[k] for k in (keys.ATOMIC_NUMBERS, keys.POSITIONS, keys.MOLECULE))
        counts = torch.bincount(molecule, minlength=len(batch[keys.ORBITAL_MASK])).tolist()
        unknown = sorted(set(z.tolist()) - set(self.network.basis.elements))
        if unknown:
            raise UserError(f"{self.name}: knows no {', '.join(chemical_symbols[q] for q in unknown)}")
        ends = np.cumsum(counts)[:-1]
        numbers, places = (np.split(x.detach().cpu().numpy(), ends) for x in (z, positions))
        own = structures_to_batch(numbers, places, self.network.basis, self.network.cutoff)
        return self.network.energy({**own, keys.POSITIONS: positions.to(torch.float64)})
