"""What a model's doubt is worth in eV: its last-layer members drawn from the training molecules, then calibrated.

Gaussian likelihood of the errors of HOMO, LUMO and the other occupied levels of molecules that were not trained on
decides the ridge of the draws, one factor and one floor for all levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from scipy.optimize import minimize
from torch import Tensor

from schnorb_t import keys
from schnorb_t.nn.doubt import Grams, level_deviations
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.overlap import to_orthogonal
from schnorb_t.physics.eigen import solve

Batches = Callable[[], Iterable[dict[str, Tensor]]]
#: Ridges that are tried, relative to the mean diagonal of F^T F.
RIDGES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
#: Virtual levels that count, beside all occupied ones.
VIRTUAL = 1


@dataclass(frozen=True)
class LevelErrors:
    """Of many levels [n]: signed error and spread of the members, Eh, and whether it is a frontier level."""

    error: Tensor
    spread: Tensor
    frontier: Tensor


@torch.no_grad()
def draw_members(model: MatrixModel, batches: Iterable[dict[str, Tensor]], ridge: float, grams: Grams | None = None):
    """Draw a model's members; returns the Gram matrices of its training features for further draws.

    Args:
        model: with ``doubt``.
        batches: of the training molecules; not read where ``grams`` are given.
        ridge: see ``LastLayerMembers.draw``.
        grams: of an earlier call.
    """
    if grams is None:
        grams = Grams(model.doubt)
        for batch in batches:
            g, x, pairs, _ = model.features(batch)
            grams.add(x, pairs, g.element)
    model.doubt.draw(grams, ridge)
    return grams


@torch.no_grad()
def level_errors(model: MatrixModel, batches: Iterable[dict[str, Tensor]]) -> LevelErrors:
    """Errors and spreads of all occupied levels and the LUMO of labelled molecules, against the labels' own levels."""
    errors, spreads, frontiers = [], [], []
    for batch in batches:
        mask, n = batch[keys.ORBITAL_MASK], batch[keys.N_OCCUPIED][:, None]
        blocks = model.blocks(batch)
        out = model.matrices(blocks, batch)
        labels, overlap = batch[keys.HAMILTONIAN].double(), batch[keys.OVERLAP]
        hamiltonian = model.learned_matrices(blocks, batch)[keys.HAMILTONIAN]
        one = torch.diag_embed(mask.double())
        if model.orthogonal:
            labels = to_orthogonal(labels, overlap, mask)
            energies, coefficients = solve(hamiltonian, one, mask)
            wanted, _ = solve(labels, one, mask)
        else:
            energies, coefficients = solve(out[keys.HAMILTONIAN], out[keys.OVERLAP], mask)
            wanted, _ = solve(labels, overlap, mask)
        coefficients = torch.where(mask[:, None], coefficients, 0.0)
        spread = level_deviations(out[keys.HAMILTONIAN_DEVIATIONS], coefficients).std(0)
        k = torch.arange(mask.shape[1], device=mask.device)
        chosen = (k < n + VIRTUAL) & mask
        errors.append((energies - wanted)[chosen])
        spreads.append(spread[chosen])
        frontiers.append(((k >= n - 1) & (k < n + 1)).expand_as(chosen)[chosen])
    return LevelErrors(torch.cat(errors), torch.cat(spreads), torch.cat(frontiers))


def fit_factor(levels: LevelErrors) -> tuple[float, float, float]:
    """Factor and floor (Eh) of the greatest Gaussian likelihood; frontier levels count as much as all others together.

    Returns:
        factor, floor, and the mean negative log-likelihood that they reach.
    """
    error, spread = levels.error.double(), levels.spread.double()
    share = levels.frontier.double() / levels.frontier.sum() + (~levels.frontier).double() / (~levels.frontier).sum()
    share = share / share.sum()

    def loss(parameters):
        factor, floor = (math.exp(p) for p in parameters)
        variance = (factor * spread).square() + floor**2
        return float((share * 0.5 * (error.square() / variance + variance.log())).sum())

    start = [math.log(float(error.square().mean() / spread.square().mean()) ** 0.5), math.log(1e-3)]
    best = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7, "maxiter": 2000})
    return math.exp(best.x[0]), math.exp(best.x[1]), float(best.fun)


def calibrate(model: MatrixModel, training: Batches, validation: Batches) -> dict[str, float]:
    """Give a model with ``doubt`` its members, factor and floor, in place.

    Args:
        model: trained; switched to evaluation.
        training: batches of the molecules it learned from, anew at each call.
        validation: labelled batches of molecules that it did not learn from, as varied as those it shall be used for.

    Returns:
        ridge, factor, floor (Eh) and the mean negative log-likelihood.
    """
    model.eval()
    grams, tried = None, []
    for ridge in RIDGES:
        grams = draw_members(model, training(), ridge, grams)
        factor, floor, likelihood = fit_factor(level_errors(model, validation()))
        tried.append((likelihood, ridge, factor, floor))
    likelihood, ridge, factor, floor = min(tried)
    draw_members(model, (), ridge, grams)
    model.doubt.factor.fill_(factor)
    model.doubt.floor.fill_(floor)
    return {"ridge": ridge, "factor": factor, "floor_eh": floor, "negative_log_likelihood": likelihood}
