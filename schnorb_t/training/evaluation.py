"""How good predicted matrices are: errors of H and S, of orbital energies, of orbitals.

Means of matrix errors run over all elements of all molecules (a molecule counts by its number of elements), those of
occupied levels and orbitals over all occupied orbitals, those of HOMO, LUMO and gap over molecules.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import records_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.data.store import MoleculeRecord, Store
from schnorb_t.nn.baselines import TwoCentreModel
from schnorb_t.physics.eigen import frontier, orbitals, pad, solve
from schnorb_t.physics.energies import core_orbitals
from schnorb_t.physics.orbitals import atom_and_slot
from schnorb_t.training.doubt_metrics import DoubtErrors
from schnorb_t.units import HARTREE

#: Eh, neighbouring reference levels closer than this belong to one degenerate set.
DEGENERATE = 1e-4

#: Energies (Eh) whose mean absolute errors are told in Eh and eV.
ENERGIES = (
    "hamiltonian",
    "hamiltonian_onsite",
    "hamiltonian_offsite",
    "occupied_energy",
    "valence_occupied_energy",
    "homo",
    "lumo",
    "gap",
)
LARGE_BASIS_ENERGIES = ("occupied_energy", "homo", "lumo", "gap")
OVERLAPS = ("overlap", "overlap_onsite", "overlap_offsite")
STAGES = ("network", "assembly", "eigenproblem")


class BlockModel(Protocol):
    """What is evaluated: ``MatrixModel`` or ``TwoCentreModel``."""

    basis: Basis
    cutoff: float

    def blocks(self, batch: dict[str, Tensor]) -> Any:
        """On-site and off-site blocks of H and S of a batch."""
        ...

    def matrices(self, blocks: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Padded H and S [B, M, M] from ``blocks``."""
        ...


def orbital_similarity(
    energies: Tensor, coefficients: Tensor, predicted: Tensor, overlap: Tensor, n_occupied: Tensor
) -> Tensor:
    """Cosine similarity of the occupied orbitals, summed over them, [B].

    |c_i^T S c'_i| / (c'_i^T S c'_i)^(1/2) with the reference's S, orbitals paired in the order of their energies.
    Members of a degenerate set of the reference (levels that follow one another within ``DEGENERATE``) are arbitrary,
    so a set counts as a subspace: the sum of the singular values of C^T S C' (C'^T S C')^(-1/2), the cosines of the
    angles between the two subspaces. A set that the HOMO cuts is cut there.

    Args:
        energies: [B, M] of the reference, ascending.
        coefficients: [B, M, M] of the reference, C^T S C = 1; 0 in padding.
        predicted: [B, M, M] of the prediction; 0 in padding.
        overlap: [B, M, M] of the reference.
        n_occupied: [B].
    """
    k = torch.arange(energies.shape[-1], device=energies.device)
    occupied = k < n_occupied[:, None]
    begins = torch.ones_like(occupied)
    begins[:, 1:] = energies.diff(dim=1) > DEGENERATE
    number = begins.cumsum(1)
    same = (number[:, :, None] == number[:, None]) & occupied[:, :, None] & occupied[:, None]
    cross = torch.where(same, coefficients.mT @ overlap @ predicted, 0.0)
    gram = torch.where(same, predicted.mT @ overlap @ predicted, 0.0) + torch.diag_embed((~occupied).to(cross.dtype))
    # gram = L L^T block by block; (cross L^-T)^T (cross L^-T) has the squared cosines as eigenvalues
    lower, _ = torch.linalg.cholesky_ex(gram)
    scaled = torch.linalg.solve_triangular(lower, cross.mT, upper=False)
    cosines = torch.linalg.eigvalsh(scaled @ scaled.mT).clamp(0.0, 1.0).sqrt()
    return cosines.sum(1)


@dataclass
class OrbitalLevels:
    """Predicted and reference levels of all evaluated molecules, Eh, for pictures: [occupied valence], [n], [n]."""

    parts: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, predicted: Tensor, reference: Tensor) -> None:
        """Predicted and reference values [n] of a quantity."""
        self.parts[name].append(torch.stack((predicted, reference)).cpu().numpy())

    def pairs(self, name: str) -> np.ndarray:
        """[2, n]: predicted and reference of ``"occupied"`` (valence, HOMO included), ``"homo"`` or ``"lumo"``."""
        return np.concatenate(self.parts[name], axis=1) if self.parts[name] else np.zeros((2, 0))


class MatrixErrors:
    """Errors gathered batch by batch.

    A molecule whose predicted S is not positive definite has no orbitals: it counts in the errors of H and S and in
    ``n_without_solution``, not in the others.

    Args:
        basis: of the labels; it says which levels are core levels.
        levels: filled on the way, if given.
    """

    def __init__(self, basis: Basis, levels: OrbitalLevels | None = None):
        self.basis, self.levels = basis, levels
        self.n_molecules = self.n_without_solution = 0
        self.min_overlap_eigenvalue = math.inf
        self._sum: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)

    def _add(self, name: str, errors: Tensor, where: Tensor) -> None:
        self._sum[name] += float(errors[where].sum())
        self._count[name] += int(where.sum())

    def mean(self, name: str) -> float:
        """NaN where nothing was gathered."""
        return self._sum[name] / self._count[name] if self._count[name] else math.nan

    @torch.no_grad()
    def update(
        self, batch: dict[str, Tensor], hamiltonian: Tensor, overlap: Tensor, energies: Tensor, coefficients: Tensor
    ) -> None:
        """Add a batch with labels (``records_to_batch``): its predicted H, S and their orbitals, padded, float64."""
        mask, n_occupied = batch[keys.ORBITAL_MASK], batch[keys.N_OCCUPIED]
        real = mask[:, :, None] & mask[:, None]
        atom, _ = atom_and_slot(batch[keys.ORBITAL_INDEX], batch[keys.MOLECULE], mask)
        onsite = real & (atom[:, :, None] == atom[:, None])
        for name, key, matrix in (
            ("hamiltonian", keys.HAMILTONIAN, hamiltonian),
            ("overlap", keys.OVERLAP, overlap),
        ):
            error = (matrix - batch[key]).abs()
            for suffix, where in (("", real), ("_onsite", onsite), ("_offsite", real & ~onsite)):
                self._add(name + suffix, error, where)
        self.n_molecules += len(mask)
        # no eigenvalue of an overlap of normalised functions can be the smallest and above 1
        lowest = torch.linalg.eigvalsh(pad(overlap, mask, 10.0))[:, 0].min()
        self.min_overlap_eigenvalue = min(self.min_overlap_eigenvalue, float(lowest))
        self._update_energies(batch, mask, n_occupied, energies, coefficients)

    def _update_energies(self, batch, mask, n_occupied, energies, coefficients) -> None:
        true_energies, true_coefficients = solve(batch[keys.HAMILTONIAN], batch[keys.OVERLAP], mask)
        solved = ~energies[:, 0].isnan()
        self.n_without_solution += int((~solved).sum())
        k = torch.arange(mask.shape[1], device=mask.device)
        occupied = (k < n_occupied[:, None]) & solved[:, None]
        n_core = core_orbitals(self.basis, batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE], len(mask))
        valence = occupied & (k >= n_core[:, None])
        error = (energies - true_energies).abs()
        self._add("occupied_energy", error, occupied)
        self._add("valence_occupied_energy", error, valence)
        predicted = dict(zip(("homo", "lumo", "gap"), frontier(energies, n_occupied, mask), strict=True))
        reference = dict(zip(("homo", "lumo", "gap"), frontier(true_energies, n_occupied, mask), strict=True))
        for name in predicted:
            error = (predicted[name] - reference[name]).abs()
            self._add(name, error, error.isfinite())
        if self.levels is not None:
            self.levels.add("occupied", energies[valence], true_energies[valence])
            for name in ("homo", "lumo"):
                there = (predicted[name] - reference[name]).isfinite()
                self.levels.add(name, predicted[name][there], reference[name][there])

        large = batch[keys.LARGE_BASIS_ENERGIES]
        there = occupied[:, : large.shape[1]]
        n = there.shape[1]
        error = (energies[:, :n] - large[:, :n]).abs()
        self._add("occupied_energy_large_basis", error, there & error.isfinite())
        levels = ~large.isnan()
        for name, value in zip(("homo", "lumo", "gap"), frontier(large, n_occupied, levels), strict=True):
            error = (predicted[name] - value).abs()
            self._add(f"{name}_large_basis", error, error.isfinite())

        similarity = orbital_similarity(
            true_energies[solved],
            true_coefficients[solved],
            coefficients[solved],
            batch[keys.OVERLAP][solved],
            n_occupied[solved],
        )
        self._sum["similarity"] += float(similarity.sum())
        self._count["similarity"] += int(n_occupied[solved].sum())

    def metrics(self) -> dict[str, Any]:
        """Everything, with units in the names; NaN where there was nothing to compare."""
        out: dict[str, Any] = {"n_molecules": self.n_molecules, "n_without_solution": self.n_without_solution}
        for name in ENERGIES:
            out[f"{name}_mae_eh"] = self.mean(name)
            out[f"{name}_mae_ev"] = self.mean(name) * HARTREE
        for name in LARGE_BASIS_ENERGIES:
            out[f"{name}_mae_eh_large_basis"] = self.mean(f"{name}_large_basis")
            out[f"{name}_mae_ev_large_basis"] = self.mean(f"{name}_large_basis") * HARTREE
        for name in OVERLAPS:
            out[f"{name}_mae"] = self.mean(name)
        out["occupied_similarity"] = self.mean("similarity")
        out["min_overlap_eigenvalue"] = self.min_overlap_eigenvalue if self.n_molecules else math.nan
        return out


class StageClock:
    """Seconds per stage; waits for the device, so that a stage pays for its own work."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, dict.fromkeys(STAGES, 0.0)
        self._last = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        """Begin to measure."""
        self._last = self._now()

    def stop(self, stage: str) -> None:
        """Add the time since ``start`` or the last ``stop`` to a stage."""
        now = self._now()
        self.seconds[stage] += now - self._last
        self._last = now


def predict_batch(model: BlockModel, batch: dict[str, Tensor], clock: StageClock) -> tuple[Tensor, ...]:
    """H, S, orbital energies and coefficients of a batch, padded float64, each stage timed."""
    return predict_all(model, batch, clock)[1]


def predict_all(
    model: BlockModel, batch: dict[str, Tensor], clock: StageClock
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """All that a model says of a batch (``model.matrices``), and what ``predict_batch`` returns."""
    clock.start()
    blocks = model.blocks(batch)
    clock.stop("network")
    out = model.matrices(blocks, batch)
    clock.stop("assembly")
    hamiltonian, overlap = out[keys.HAMILTONIAN].double(), out[keys.OVERLAP].double()
    energies, coefficients = orbitals(out, batch[keys.ORBITAL_MASK])
    clock.stop("eigenproblem")
    return out, (hamiltonian, overlap, energies, coefficients)


@torch.no_grad()
def matrices_of(model: BlockModel, record: MoleculeRecord) -> tuple[np.ndarray, np.ndarray]:
    """Predicted H (Eh) and S of one molecule, each [m, m]."""
    device = next(iter(model.parameters())).device
    batch = to_device(records_to_batch([record], model.basis, model.cutoff), device)
    out = model.matrices(model.blocks(batch), batch)
    return out[keys.HAMILTONIAN][0].cpu().numpy(), out[keys.OVERLAP][0].cpu().numpy()


def evaluate_model(
    model: BlockModel,
    store: Store,
    indices: Sequence[int],
    *,
    batch_size: int | None = None,
    levels: OrbitalLevels | None = None,
    doubts: DoubtErrors | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Errors of a model on labelled molecules, batch by batch, on the device where the model is.

    Args:
        model: ``MatrixModel`` or a baseline; its averages and dropout, if any, are switched to evaluation meanwhile.
        store: the labels; its basis must be the model's.
        indices: molecules of the store.
        batch_size: molecules per batch; ``None``: by size.
        levels: filled with the orbital energies, if given.
        doubts: filled with errors and standard deviations of a model that knows doubt, if given.
        progress: called with the number of molecules done after each batch.

    Returns:
        ``n_molecules``; ``NAME_mae_eh`` and ``NAME_mae_ev`` of ``ENERGIES`` against the stored matrices, with the
        suffix ``_large_basis`` those of ``LARGE_BASIS_ENERGIES`` against the large-basis calculation; ``overlap_mae``,
        ``overlap_onsite_mae``, ``overlap_offsite_mae``; ``occupied_similarity`` (``orbital_similarity``, mean over
        occupied orbitals); ``min_overlap_eigenvalue`` of the predicted S; ``n_without_solution``;
        ``seconds_per_molecule`` {``network``, ``assembly``, ``eigenproblem``}, after one batch of warming up, without
        reading and neighbour search; with ``doubts`` also ``doubt``, what ``DoubtErrors.metrics`` returns.

        Mean absolute errors of H and S run over all matrix elements of all molecules; ``_offsite`` includes pairs of
        atoms beyond the cutoff, where the prediction is 0.
    """
    indices = [int(i) for i in indices]
    device = next(iter(model.parameters())).device
    errors, clock = MatrixErrors(store.basis, levels), StageClock(device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for number, places in enumerate(batches_by_size(store.n_atoms[indices], batch_size, device.type)):
                chosen = [indices[p] for p in places]
                batch = to_device(
                    records_to_batch([store[i] for i in chosen], model.basis, model.cutoff, chosen), device
                )
                if number == 0:
                    predict_batch(model, batch, StageClock(device))
                out, prediction = predict_all(model, batch, clock)
                errors.update(batch, *prediction)
                if doubts is not None:
                    doubts.update(model, batch, out, *prediction[2:])
                if progress is not None:
                    progress(errors.n_molecules)
    finally:
        model.train(training)
    metrics = errors.metrics()
    metrics["seconds_per_molecule"] = {k: v / max(errors.n_molecules, 1) for k, v in clock.seconds.items()}
    if doubts is not None:
        metrics["doubt"] = doubts.metrics()
    return metrics


def baseline_metrics(
    store: Store,
    train_indices: Sequence[int],
    test_indices: Sequence[int],
    cutoff: float,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, Any]]:
    """What a model must beat, fitted on the training molecules: ``evaluate_model``'s dict for two baselines.

    Args:
        store: the labels.
        train_indices: to fit to.
        test_indices: to judge on.
        cutoff: Å, pairs farther apart have no block.

    Returns:
        ``mean_block``: per element the mean on-site block, per element pair the mean sigma, pi, ... components,
        whatever the distance; ``two_centre``: least-squares two-centre functions of distance.
    """
    train_indices = [int(i) for i in train_indices]

    def batches():
        for places in batches_by_size(store.n_atoms[train_indices], batch_size, torch.device(device).type):
            records = [store[train_indices[p]] for p in places]
            yield to_device(records_to_batch(records, store.basis, cutoff), device)

    out = {}
    for name, n_radial in (("mean_block", 1), ("two_centre", 24)):
        model = TwoCentreModel(store.basis, cutoff, n_radial).to(device)
        model.fit(batches)
        out[name] = evaluate_model(model, store, test_indices, batch_size=batch_size)
    return out


def test_against_baselines(
    model: BlockModel, data: Any, device: str | torch.device = "cpu", levels: OrbitalLevels | None = None
) -> dict[str, dict[str, Any]]:
    """``evaluate_model``'s dict of the model and of both baselines on the test molecules.

    Args:
        model: on ``device``.
        data: a ``MatrixDataModule``: its ``store``, ``split`` and ``cutoff``.
        levels: filled with the model's orbital energies, if given.
    """
    train, test = data.split["train"], data.split["test"]
    result = {"model": evaluate_model(model, data.store, test, levels=levels)}
    return result | baseline_metrics(data.store, train, test, data.cutoff, device=device)


test_against_baselines.__test__ = False  # not a test of pytest's
