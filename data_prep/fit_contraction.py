"""Fit the way from a minimal basis back to the large one, for SCF calculations that start from a projected model.

    python data_prep/convert_labels.py labels_b3lyp_def2svp.h5 -o data/qm9_full.h5 --target full
    python data_prep/fit_contraction.py data/qm9_full.h5 -o schnorb_t/models/wqao_def2-SVP.npz

Uses the training molecules of a full-basis file and prints, for validation molecules, how many electrons stand in the
wrong orbitals before and after: 2 sum_i (1 - |projection of start orbital i on the occupied space|^2).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from rich.console import Console
from rich.progress import track

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.interfaces.contraction import ContractionModel
from schnorb_t.reference.labels import projected_header
from schnorb_t.reference.minimal_basis import TARGETS, project_molecule
from schnorb_t.reference.pyscf import LabelError


def molecules(store: Store, split: str, target: str, limit: int | None) -> Iterator[tuple]:
    """(record, projection) of a split's molecules; those that cannot be projected are left out."""
    rows = store.indices(split)[:limit]
    for index in track(rows, description=split, console=Console(stderr=True)):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="file with full-basis matrices and a split")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--target", choices=TARGETS, default="wqao")
    parser.add_argument("--max-train", type=int, default=None)
    parser.add_argument("--max-val", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with Store(args.full) as store:
        try:
            minimal = projected_header(store.header, args.target).basis
        except UserError as error:
            raise UserError(f"{args.full}: {error}") from None
        model = ContractionModel(store.basis, minimal)
        n = model.fit(
            (r.atomic_numbers, r.positions, p.contraction, r.overlap)
            for r, p in molecules(store, "train", args.target, args.max_train)
        )
        if not n:
            raise UserError(f"{args.full}: no training molecules; set splits with python -m schnorb_t.data.splits")
        model.save(args.output)
        print(f"{args.output}: {model}, fitted to {n} molecules, {args.output.stat().st_size / 1e3:.0f} kB")
        if scores := judge(model, store, args.target, args.max_val):
            print("misplaced electrons: {:.4f} with free-atom functions, {:.4f} with the fit".format(*scores))


if __name__ == "__main__":
    run_command(main)
