"""What a model's doubt is worth: how often levels lie within it, and whether it finds the molecules with large errors.

Reference levels are those of the stored H and S. A level's error divided by its standard deviation should be a standard
normal number: 68 % within one, 95 % within two standard deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from schnorb_t import keys
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.physics.eigen import frontier, solve
from schnorb_t.units import HARTREE

#: eV, errors of a gap that a user wants to be warned of.
LARGE_ERROR = 0.3


def coverage(error: np.ndarray, deviation: np.ndarray, times: float = 1.0) -> float:
    """Share of errors [n] within so many standard deviations [n]; NaN of none."""
    return float((np.abs(error) <= times * deviation).mean()) if len(error) else math.nan


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; NaN where it is not defined (fewer than three, or all equal)."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(spearmanr(a, b).statistic)


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive case [n] bool has a higher score [n] than another; ties count half.

    NaN without both kinds. Mann and Whitney, Ann. Math. Stat. 18, 50 (1947).
    """
    n_positive = int(positive.sum())
    n_other = len(positive) - n_positive
    if not n_positive or not n_other:
        return math.nan
    ranks = rankdata(score)[positive].sum()
    return float((ranks - 0.5 * n_positive * (n_positive + 1)) / (n_positive * n_other))


def attainable_spearman(error: np.ndarray) -> float:
    """Rank correlation with these errors [n] that a doubt would reach which knew each one's standard deviation.

    An error is a standard normal number times its standard deviation, so that even an exact doubt orders errors only as
    far as standard deviations differ: var(log|e|) = var(log sigma) + pi^2 / 8, the last from |z|. Drawn with log-normal
    sigma of that variance. NaN of fewer than three errors.
    """
    error = np.abs(error[error != 0])
    if len(error) < 3:
        return math.nan
    width = math.sqrt(max(float(np.log(error).var()) - math.pi**2 / 8, 0.0))
    random = np.random.default_rng(0)
    sigma = np.exp(width * random.standard_normal(20_000))
    return max(spearman(sigma, sigma * np.abs(random.standard_normal(20_000))), 0.0) if width else 0.0


@dataclass
class DoubtErrors:
    """Errors beside the standard deviations that a model gave them, gathered batch by batch.

    Molecules without orbitals are left out.
    """

    _parts: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {k: [] for k in ("error", "deviation", "is_frontier", "gap_error", "doubt")}
    )

    @torch.no_grad()
    def update(
        self,
        model: MatrixNetwork,
        batch: dict[str, Tensor],
        out: dict[str, Tensor],
        energies: Tensor,
        coefficients: Tensor,
    ) -> None:
        """Add a batch with labels.

        Args:
            model: knows doubt.
            batch: of ``records_to_batch``.
            out: what the model said of it.
            energies, coefficients: its orbitals, [B, M] Eh and [B, M, M].
        """
        mask, n = batch[keys.ORBITAL_MASK], batch[keys.N_OCCUPIED]
        deviation = model.standard_deviations(out, energies, coefficients, mask)
        if deviation is None and model.knows_doubt:  # of an ensemble, ``matrices`` says nothing of members
            deviation = model.standard_deviations(model(batch), energies, coefficients, mask)
        if deviation is None:
            raise ValueError("the model does not know doubt")
        wanted, _ = solve(batch[keys.HAMILTONIAN], batch[keys.OVERLAP], mask)
        k = torch.arange(mask.shape[1], device=mask.device)
        of_frontier = ((k == n[:, None] - 1) | (k == n[:, None])) & mask
        chosen = ((k < n[:, None]) | of_frontier) & mask & ~energies[:, :1].isnan()
        gap_error = (frontier(energies, n, mask)[2] - frontier(wanted, n, mask)[2]).abs()
        doubt = torch.where(of_frontier, deviation, 0.0).amax(1)
        there = gap_error.isfinite()
        self.add((energies - wanted)[chosen], deviation[chosen], of_frontier[chosen], gap_error[there], doubt[there])

    def add(
        self,
        error: Any,
        deviation: Any,
        is_frontier: Any,
        gap_error: Any,
        doubt: Any,
    ) -> None:
        """Add numbers.

        Args:
            error: [n] of levels, Eh: all occupied ones and the LUMO.
            deviation: [n], Eh, what the model said of each.
            is_frontier: [n] bool, HOMO or LUMO.
            gap_error: [k] of molecules, absolute, Eh.
            doubt: [k], the larger deviation of HOMO and LUMO, Eh.
        """
        for name, value in zip(self._parts, (error, deviation, is_frontier, gap_error, doubt), strict=True):
            self._parts[name].append(value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value))

    def values(self, name: str) -> np.ndarray:
        """All that was added of ``error``, ``deviation``, ``gap_error``, ``doubt`` (eV) or ``is_frontier``."""
        parts = self._parts[name]
        whole = np.concatenate(parts) if parts else np.zeros(0)
        return whole.astype(bool) if name == "is_frontier" else HARTREE * whole

    def metrics(self) -> dict[str, Any]:
        """Calibration of levels, and how well doubt orders the errors of gaps; NaN where it is not defined.

        Returns:
            ``coverage_1_sigma``, ``coverage_2_sigma`` of all occupied levels and the LUMO and, with
            ``frontier_`` in front, of HOMO and LUMO; ``spearman_gap_error`` and what ``attainable_spearman`` says of
            the same errors, ``auroc_gap_error`` (errors above ``LARGE_ERROR`` eV), ``large_gap_errors`` (count),
            ``median_doubt_ev``.
        """
        error, deviation, near = (self.values(k) for k in ("error", "deviation", "is_frontier"))
        gap_error, doubt = self.values("gap_error"), self.values("doubt")
        out: dict[str, Any] = {"n_levels": len(error), "n_molecules": len(doubt)}
        for prefix, which in (("", slice(None)), ("frontier_", near)):
            for times in (1, 2):
                out[f"{prefix}coverage_{times}_sigma"] = coverage(error[which], deviation[which], times)
        large = gap_error > LARGE_ERROR
        out["spearman_gap_error"] = spearman(doubt, gap_error)
        out["attainable_spearman"] = attainable_spearman(gap_error)
        out["auroc_gap_error"] = auroc(doubt, large)
        out["large_gap_errors"] = int(large.sum())
        out["median_doubt_ev"] = float(np.median(doubt)) if len(doubt) else math.nan
        return out
