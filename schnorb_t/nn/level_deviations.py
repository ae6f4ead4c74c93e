"""Standard deviation of each orbital energy, from whatever a model knows: draws of its last layer, or members."""

from __future__ import annotations

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.nn.doubt import LastLayerMembers, level_deviations
from schnorb_t.nn.ensemble import EnsembleModel, level_spread
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.overlap import overlap_power


def knows_doubt(model: object) -> bool:
    """Whether a model tells a standard deviation of each level."""
    return isinstance(model, EnsembleModel) or (isinstance(model, MatrixModel) and model.doubt is not None)


def standard_deviations(
    model: MatrixModel | EnsembleModel, out: dict[str, Tensor], energies: Tensor, coefficients: Tensor, mask: Tensor
) -> Tensor | None:
    """Of each level, [B, M], Eh; ``None`` of a model that cannot tell.

    Args:
        model: what predicted, in evaluation.
        out: its matrices (``model(batch)``).
        energies: [B, M], Eh.
        coefficients: [B, M, M], columns are orbitals, C^T S C = 1.
        mask: [B, M] bool, real orbitals.
    """
    if keys.MEMBER_HAMILTONIAN in out:
        return level_spread(out[keys.MEMBER_HAMILTONIAN], out[keys.MEMBER_OVERLAP], energies, coefficients, mask)
    if keys.HAMILTONIAN_DEVIATIONS not in out:
        return None
    assert isinstance(model, MatrixModel) and isinstance(model.doubt, LastLayerMembers)
    if model.orthogonal:
        coefficients = overlap_power(out[keys.OVERLAP], mask, 0.5) @ torch.where(mask[:, None], coefficients, 0.0)
    return model.doubt.standard_deviation(level_deviations(out[keys.HAMILTONIAN_DEVIATIONS], coefficients).std(0))
