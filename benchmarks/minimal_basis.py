"""What a projection to a minimal basis costs, variant by variant, on the molecules of a full-basis file.

    python benchmarks/minimal_basis.py qm9_full.h5 --n 60 --json minimal_basis.json --png minimal_basis.png

Columns: error of the LUMO against the large basis; singular values, first dropped over last kept (near 1 the kept
space is ill-defined); smallest eigenvalue of S; covariance, the largest deviation of H and S after a rotation; mean
change of the LUMO under Gaussian noise of 0.1 mEh on H. ``--smooth N`` follows the N molecules with the smallest
singular-value gap along a random displacement: with half the step, the largest change of any element must halve.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.spatial.transform import Rotation

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write, write_text
from schnorb_t.reference.minimal_basis import Projection, project, project_molecule
from schnorb_t.reference.pyscf import (
    FREE_ATOM_BASIS,
    LabelError,
    Level,
    basis_from_pyscf,
    cross_overlap,
    label,
    overlap_integrals,
)
from schnorb_t.reference.rotation import orbital_rotation
from schnorb_t.units import HARTREE

#: name -> (target, power of the weight)
VARIANTS = {
    "iao": ("iao", None),
    "quambo": ("quambo", None),
    "power 1": ("wqao", 1.0),
    "wqao": ("wqao", 2.0),
    "power 3": ("wqao", 3.0),
    "vqao": ("vqao", None),
    "vqao, power 3": ("vqao", 3.0),
}
NOISE = 1e-4  # Eh


@dataclass(frozen=True)
class Measured:
    """One molecule in one variant; energies in eV."""

    lumo_error: float
    occupied_error: float
    ratio: float
    smallest_overlap: float
    covariance: float
    noise: float


def levels(h: np.ndarray, s: np.ndarray) -> np.ndarray:
    return scipy.linalg.eigh(h, s, eigvals_only=True)


def noise_cost(p: Projection, lumo: int, rng: np.random.Generator, draws: int = 20) -> float:
    """Mean |change of the LUMO|, eV, when every element of H gets Gaussian noise of ``NOISE``."""
    here, changes = levels(p.hamiltonian, p.overlap)[lumo], []
    for _ in range(draws):
        noise = np.triu(rng.normal(scale=NOISE, size=p.hamiltonian.shape))
        noisy = levels(p.hamiltonian + noise + np.triu(noise, 1).T, p.overlap)
        changes.append(abs(noisy[lumo] - here))
    return float(np.mean(changes) * HARTREE)


def measure(record, basis, rotation: np.ndarray, rng: np.random.Generator) -> dict[str, Measured]:
    """All variants on one molecule of a full-basis file; a variant that gives no sound basis is left out."""
    z, x = record.atomic_numbers, record.positions
    free_basis = basis_from_pyscf(FREE_ATOM_BASIS, z)
    n = record.n_electrons // 2
    large, small = orbital_rotation(basis, z, rotation), orbital_rotation(free_basis, z, rotation)
    places = []  # here, and turned
    for d, at in ((np.eye(len(large)), x), (large, x @ rotation.T)):
        h, s = d @ record.hamiltonian @ d.T, overlap_integrals(basis, z, at)
        e, c = scipy.linalg.eigh(h, s)
        places.append((h, s, e, c, n, cross_overlap(basis, free_basis, z, at), overlap_integrals(free_basis, z, at)))
    e = places[0][2]
    out = {}
    for name, (target, power) in VARIANTS.items():
        try:
            p, turned = (project(target, *place, power=power) for place in places)
        except LabelError:
            continue
        e_small = levels(p.hamiltonian, p.overlap)
        covariance = max(
            np.abs(turned.hamiltonian - small @ p.hamiltonian @ small.T).max(),
            np.abs(turned.overlap - small @ p.overlap @ small.T).max(),
        )
        out[name] = Measured(
            float((e_small[n] - e[n]) * HARTREE),
            float(np.abs(e_small[:n] - e[:n]).max() * HARTREE),
            p.singular_value_ratio,
            float(scipy.linalg.eigvalsh(p.overlap)[0]),
            float(covariance),
            noise_cost(p, n, rng),
        )
    return out


def smoothness(
    record, level: Level, rng: np.random.Generator, points: int = 9, length: float = 0.1
) -> dict[str, float]:
    """Largest change of any element of the ``wqao`` matrices for a step over that for the double step, and the ratio of
    singular values along the way. The path is a random displacement of all atoms, ``length`` Å from end to end."""
    basis = basis_from_pyscf(level.basis, record.atomic_numbers)
    direction = rng.normal(size=record.positions.shape)
    direction /= np.linalg.norm(direction, axis=1).max()
    matrices, ratios = [], []
    for t in np.linspace(-0.5, 0.5, points):
        r = label(record.atomic_numbers, record.positions + t * length * direction, level)
        p, _ = project_molecule(
            "wqao", basis, r.atomic_numbers, r.positions, r.hamiltonian, r.n_electrons, overlap=r.overlap
        )
        matrices.append(np.stack([p.hamiltonian, p.overlap]))
        ratios.append(p.singular_value_ratio)
    m = np.stack(matrices)
    half, whole = np.abs(m[1:] - m[:-1]).max(), np.abs(m[2:] - m[:-2])[::2].max()
    return {"half_over_whole_step": float(half / whole), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def picture(path: Path, results: dict[str, dict[str, Measured]]) -> None:
    """LUMO error against singular-value ratio, one point per molecule and variant."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for variant in VARIANTS:
        points = [r[variant] for r in results.values() if variant in r]
        if any(p.ratio for p in points):  # iao and vqao choose nothing
            x, y = [p.ratio for p in points], [max(p.lumo_error, 1e-6) for p in points]
            axes.semilogy(x, y, "o", markersize=3, alpha=0.7, label=variant)
    axes.set_xlabel("singular values, first dropped / last kept")
    axes.set_ylabel("LUMO error against the large basis (eV)")
    axes.legend()
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="full-basis file")
    parser.add_argument("--n", type=int, default=60, help="molecules, from the beginning of the file (default 60)")
    parser.add_argument("--smooth", type=int, default=0, help="molecules to follow along a displacement (default 0)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file shall hold the table unwrapped
    rng = np.random.default_rng(0)
    rotation = Rotation.random(rng=rng).as_matrix()
    with Store(args.full) as store:
        if store.basis.projected:
            raise UserError(f"{args.full}: holds {store.target} matrices; a full-basis file is needed")
        records = [store[i] for i in range(min(args.n, len(store)))]
        results = {r.name: measure(r, store.basis, rotation, rng) for r in track(records, console=Console(stderr=True))}
        table = Table(title=f"{len(records)} molecules of {args.full.name}, {store.basis.name}")
        for column in (
            "target", "LUMO error mean / max (eV)", "occupied max (eV)", "singular ratio worst", "lowest eig S",
            "covariance", "LUMO per 0.1 mEh noise (meV)", "refused",
        ):  # fmt: skip
            table.add_column(column, justify="right")
        summary = {}
        for variant in VARIANTS:
            m = [r[variant] for r in results.values() if variant in r]
            summary[variant] = {
                "refused": len(results) - len(m),
                "lumo_error_mean_ev": float(np.mean([x.lumo_error for x in m])),
                "lumo_error_max_ev": max(x.lumo_error for x in m),
                "occupied_error_max_ev": max(x.occupied_error for x in m),
                "singular_ratio_worst": max(x.ratio for x in m),
                "smallest_overlap_eigenvalue": min(x.smallest_overlap for x in m),
                "covariance_worst": max(x.covariance for x in m),
                "lumo_noise_mev": float(np.mean([x.noise for x in m]) * 1e3),
            }
            v = summary[variant]
            table.add_row(
                variant,
                f"{v['lumo_error_mean_ev']:.3f} / {v['lumo_error_max_ev']:.3f}",
                f"{v['occupied_error_max_ev']:.0e}",
                f"{v['singular_ratio_worst']:.2f}" if v["singular_ratio_worst"] else "-",
                f"{v['smallest_overlap_eigenvalue']:.3f}",
                f"{v['covariance_worst']:.0e}",
                f"{v['lumo_noise_mev']:.1f}",
                str(v["refused"]),
            )
        console.print(table)
        worst = sorted(records, key=lambda r: -results[r.name]["wqao"].ratio if "wqao" in results[r.name] else 0.0)
        console.print("smallest singular-value gap in wqao:")
        for r in [r for r in worst if "wqao" in results[r.name]][:5]:
            console.print(f"  {r.name}: {results[r.name]['wqao'].ratio:.3f}", highlight=False)
        paths = {}
        level = Level(**{k: store.level[k] for k in Level.__dataclass_fields__ if k in store.level})
        for r in worst[: args.smooth]:
            paths[r.name] = smoothness(r, level, rng)
            console.print(f"  along a displacement, {r.name}: {paths[r.name]}", highlight=False)
    if args.json:
        write_text(args.json, json.dumps({"n_molecules": len(records), "variants": summary, "paths": paths}, indent=1))
    if args.png:
        picture(args.png, results)


if __name__ == "__main__":
    run_command(main)
