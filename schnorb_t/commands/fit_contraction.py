"""``schnorb_t fit-contraction full.h5 -o contraction.npz``: the way from a minimal basis back to the large one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch

from schnorb_t.commands.parser import check_choice
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.files import check_output
from schnorb_t.interfaces.contraction import ContractionModel
from schnorb_t.progress import tracked
from schnorb_t.reference.labels import projected_header
from schnorb_t.reference.minimal_basis import TARGETS, project_molecule
from schnorb_t.reference.pyscf import LabelError


def molecules(store: Store, split: str, target: str, limit: int | None) -> Iterator[tuple]:
    """(record, projection) of a split's molecules; those that cannot be projected are left out."""
    rows = store.indices(split)[:limit]
    for index in tracked(rows, split):
        r = store[index]
        try:
            projection, _ = project_molecule(
                target, store.basis, r.atomic_numbers, r.positions, r.hamiltonian, r.n_electrons, overlap=r.overlap
            )
        except LabelError:
            continue
        yield r, projection


def misplaced_electrons(occupied: np.ndarray, start: np.ndarray, overlap: np.ndarray) -> float:
    """2 (n - |C^T S C'|^2) of two sets of n orthonormal orbitals [m, n]."""
    return 2 * (occupied.shape[1] - float(np.square(occupied.T @ overlap @ start).sum()))


def judge(model: ContractionModel, store: Store, target: str, limit: int) -> list[float]:
    """Mean misplaced electrons of validation molecules: free-atom contraction, fitted one; exact minimal orbitals."""
    free = ContractionModel(model.large, model.minimal, model.cutoff, model.n_radial)
    rows = []
    for r, projection in molecules(store, "val", target, limit):
        n = r.n_electrons // 2
        c = scipy.linalg.eigh(projection.hamiltonian, projection.overlap)[1][:, :n]
        occupied = scipy.linalg.eigh(r.hamiltonian, r.overlap)[1][:, :n]
        starts = (m.orbitals(c, r.atomic_numbers, r.positions) for m in (free, model))
        rows.append([misplaced_electrons(occupied, start, r.overlap) for start in starts])
    return np.mean(rows, 0).tolist() if rows else []


def fit_contraction(
    full: Path,
    *,
    output: Path,
    target: str = "wqao",
    max_train: int | None = None,
    max_val: int = 60,
) -> dict[str, Any]:
    """Fit the way from a minimal basis back to the large one, for SCF calculations that start from a projected model.

        schnorb_t convert labels_b3lyp_def2svp.h5 -o data/qm9_full.h5 --target full
        schnorb_t fit-contraction data/qm9_full.h5 -o schnorb_t/models/wqao_def2-SVP.npz

    Uses the training molecules of a full-basis file and prints, for validation molecules, how many electrons stand in
    the wrong orbitals before and after: 2 sum_i (1 - |projection of start orbital i on the occupied space|^2).

    Args:
        full: file with full-basis matrices and a split
        output: npz file to write
        target: the minimal basis: wqao, wqvo, iao, ...
        max_train: use so many training molecules at most
        max_val: judge by so many validation molecules at most

    Returns:
        ``output``, ``contraction`` (description), ``molecules`` fitted to, ``bytes``, ``misplaced_electrons`` with
        free-atom functions and with the fit.

    Raises:
        UserError: the file has no such matrices, or no training molecules.
    """
    check_choice("--target", target, TARGETS)
    check_output(output, [full], force=True)
    torch.set_num_threads(1)
    with Store(full) as store:
        try:
            minimal = projected_header(store.header, target).basis
        except UserError as error:
            raise UserError(f"{full}: {error}") from None
        model = ContractionModel(store.basis, minimal)
        n = model.fit(
            (r.atomic_numbers, r.positions, p.contraction, r.overlap)
            for r, p in molecules(store, "train", target, max_train)
        )
        if not n:
            raise UserError(f"{full}: no training molecules; set splits with schnorb_t splits")
        model.save(output)
        return {
            "output": str(output),
            "contraction": str(model),
            "molecules": n,
            "bytes": output.stat().st_size,
            "misplaced_electrons": judge(model, store, target, max_val),
        }


def show(result: dict[str, Any]) -> None:
    """Print what ``fit_contraction`` returned."""
    size = f"{result['bytes'] / 1e3:.0f} kB"
    print(f"{result['output']}: {result['contraction']}, fitted to {result['molecules']} molecules, {size}")
    if scores := result["misplaced_electrons"]:
        print("misplaced electrons: {:.4f} with free-atom functions, {:.4f} with the fit".format(*scores))
