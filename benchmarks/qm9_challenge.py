"""The QM9 challenge: atomisation energies of 10,000 molecules of QM9 from the published energies of 50 to 1,000 others.

    pip install qm9pack tblite
    python benchmarks/qm9_challenge.py --skf 3ob-3-1
    python benchmarks/qm9_challenge.py --skf 3ob-3-1 --n 50 100 200 500 1000 --seeds 5 --select random fps cur

What is learned is the difference between the published energy (B3LYP/6-31G(2df,p), U0 less that of the atoms, so with
the zero-point energy) and that of cheap methods: DFTB3 of this package with the Slater-Koster set, and GFN2-xTB where
tblite is there. A Gaussian process learns it from what a model of this package (organic, which has seen no energy)
says of the molecule: charges and bond orders of its predicted matrices, energies of its levels, scalars of its atoms;
and from the distances of atoms. Its covariance is a sum of one over molecules (linear, the number of atoms and bonds of
each kind, energies of the cheap methods) and one over pairs of atoms (Gaussians of the atoms' descriptors, summed over
atoms, by random Fourier features); widths, weights and noise maximise the likelihood of the training energies, so that
no other energy is ever looked at.

Training molecules are drawn at random from a pool, or chosen from it (farthest points, CUR of the descriptors) without
their energies. Descriptors are computed once and kept in FOLDER; the same command goes on where it was stopped. Writes
docs/qm9_challenge.json ``{"100": ..., "1000": ...}``, kcal/mol, mean over the seeds for the first of --baselines and
the first of --select, docs/qm9_challenge_details.json with all of them, and docs/qm9_challenge.png.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from itertools import combinations_with_replacement  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy.linalg import eigh  # noqa: E402

from schnorb_t import keys  # noqa: E402
from schnorb_t.active.methods import choose  # noqa: E402
from schnorb_t.data.batch import structures_to_batch  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.files import atomic_write  # noqa: E402
from schnorb_t.interfaces.ase import DFTB  # noqa: E402
from schnorb_t.physics.properties import PROPERTIES  # noqa: E402
from schnorb_t.physics.state import electronic_state  # noqa: E402
from schnorb_t.predictor import load  # noqa: E402
from schnorb_t.progress import tracked  # noqa: E402
from schnorb_t.training.report import write_json  # noqa: E402
from schnorb_t.units import BOHR, KCAL_PER_MOL  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
ELEMENTS = (1, 6, 7, 8, 9)
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
PAIRS = tuple(combinations_with_replacement(range(len(ELEMENTS)), 2))
#: B3LYP/6-31G(2df,p) energies of the atoms, Eh, as published with QM9.
ATOMS = {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730}
#: Place of the first test molecule in the random order; those before it may be in the pool.
FIRST_TEST = 20_000
#: GFN2-xTB's energies of the atoms in their ground states (tblite, ``uhf`` 1, 2, 3, 2, 1), Eh.
GFN2_ATOMS = {1: -0.39348276, 6: -1.79329637, 7: -2.60582416, 8: -3.76760695, 9: -4.61933997}
#: Precision of that knowledge of an element's energy, relative to that of one molecule's.
PRIOR = 1e-4
#: Training molecules beyond which widths and weights are searched about those that were best for so many of them.
SEARCHED = 500
#: Molecules whose descriptors are computed and kept together.
CHUNK = 250
#: Distances, Å, and their width, at which atoms of each element are counted around an atom.
SHELLS, SHELL_WIDTH, REACH = (1.0, 1.25, 1.5, 1.9, 2.4, 3.0, 3.8), 0.22, 5.0
#: Bond orders at which bonds of a pair of elements are counted, and their width.
ORDERS, ORDER_WIDTH = (0.05, 0.95, 1.4, 1.9, 2.8), 0.3
#: Random Fourier features of each element, and widths of their Gaussians relative to the median distance.
FEATURES, WIDTHS = 400, (0.5, 1.0, 2.0, 4.0)
#: Weights of the atoms' covariance relative to the molecules'.
MIXES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
NOISES = tuple(10.0 ** np.arange(-7, 0.1, 0.5))


@dataclass(frozen=True)
class Molecule:
    """One of QM9: index, atoms, published atomisation energy (kcal/mol, negative)."""

    index: int
    numbers: np.ndarray
    positions: np.ndarray
    energy: float


def read_qm9(folder: Path, wanted: np.ndarray) -> list[Molecule]:
    """Molecules by their place in the tables of qm9pack, in the order asked for.

    Raises:
        UserError: no tables there.
    """
    files = [folder / f"qm9_part{k}.csv" for k in (1, 2, 3)]
    if not all(f.is_file() for f in files):
        raise UserError(f"{folder}: no qm9_part1.csv here; pip install qm9pack, or name the folder with --data")
    csv.field_size_limit(10**9)
    places, found, k = set(wanted.tolist()), {}, 0
    for path in files:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if k in places:
                    symbols = row["Elements"].strip("[]").replace("'", "").replace(" ", "").split(",")
                    z = np.array([NUMBERS[s] for s in symbols])
                    e = float(row["InternalEnergy_0K_au"]) - sum(ATOMS[q] for q in z.tolist())
                    x = np.array(json.loads(row["XYZ_Ang"]), dtype=float)
                    found[k] = Molecule(int(row["Index"]), z, x, e * KCAL_PER_MOL)
                k += 1
    return [found[i] for i in wanted.tolist() if i in found]


def default_folder() -> Path:
    """Where an installed qm9pack keeps its tables.

    Raises:
        UserError: it is not installed.
    """
    found = find_spec("qm9pack")
    if found is None or not found.submodule_search_locations:
        raise UserError("QM9 comes with qm9pack: pip install qm9pack; or name a folder of its tables with --data")
    return Path(found.submodule_search_locations[0]) / "data"


# ---- descriptors ------------------------------------------------------------------------------------------------


def dftb_energies(molecules: list[Molecule], skf: Path) -> np.ndarray:
    """DFTB3 energies, kcal/mol; NaN where charges do not converge."""
    calculator = DFTB(skf, order=3, tolerance=1e-6)
    model = calculator.model(np.array(ELEMENTS))
    out = np.full(len(molecules), np.nan)
    order = sorted(range(len(molecules)), key=lambda k: len(molecules[k].numbers))
    for start in range(0, len(order), 50):
        some = order[start : start + 50]
        for places in (some, *([k] for k in some)):
            batch = structures_to_batch(
                [molecules[k].numbers for k in places], [molecules[k].positions for k in places], model.basis, 1.0
            )
            try:
                with torch.no_grad():
                    out[places] = KCAL_PER_MOL * model(batch).energy.numpy()
            except UserError:  # one of them does not converge: each alone
                continue
            if len(places) > 1:
                break
    return out


def gfn2_energies(molecules: list[Molecule]) -> np.ndarray:
    """GFN2-xTB energies, kcal/mol; NaN where they do not converge, or without tblite."""
    out = np.full(len(molecules), np.nan)
    if find_spec("tblite") is None:
        return out
    from tblite.interface import Calculator

    for k, m in enumerate(molecules):
        calculator = Calculator("GFN2-xTB", m.numbers, m.positions / BOHR)
        calculator.set("verbosity", 0)
        try:
            out[k] = KCAL_PER_MOL * float(calculator.singlepoint().get("energy"))
        except RuntimeError:
            continue
    return out


def bump(x: np.ndarray, centres: Iterable[float], width: float) -> np.ndarray:
    """Gaussians of x about each centre, on a new last axis."""
    return np.exp(-np.square((x[..., None] - np.asarray([*centres])) / width) / 2)


def surroundings(z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[n, elements x shells], atoms of each element about each atom, by distance."""
    r = np.linalg.norm(x[:, None] - x, axis=-1)
    fade = np.where((r < REACH) & (r > 0), np.cos(0.5 * np.pi * np.minimum(r / REACH, 1)) ** 2, 0.0)
    shell = bump(r, SHELLS, SHELL_WIDTH) * fade[..., None]
    return np.stack([shell[:, z == q].sum(1) for q in ELEMENTS], 1).reshape(len(z), -1)


def look(molecules: list[Molecule], name: str) -> dict[str, np.ndarray]:
    """What the model says: scalars, charges and valences of the atoms, bond orders and levels of the molecules.

    Returns:
        ``scalars`` [N, C], ``atoms`` [N, ...] (charge, valence, surroundings), ``counts`` [n, ...] (atoms, charges and
        bonds by kind), ``levels`` [n, 3] (band energy, HOMO, LUMO, Eh).
    """
    predictor = load(name, "cpu")
    model, basis = predictor.model, predictor.basis
    model.doubt = None  # draws of its last layer would take most of the time
    row = np.zeros(119, dtype=int)
    row[list(ELEMENTS)] = range(len(ELEMENTS))
    order = sorted(range(len(molecules)), key=lambda k: len(molecules[k].numbers))
    parts: dict[int, dict[str, np.ndarray]] = {}
    for start in range(0, len(order), 25):
        places = order[start : start + 25]
        some = [molecules[k] for k in places]
        batch = structures_to_batch([m.numbers for m in some], [m.positions for m in some], basis, model.cutoff)
        electrons = torch.tensor([basis.n_electrons(m.numbers) for m in some])
        batch[keys.N_ELECTRONS] = electrons
        with torch.no_grad():
            known = model.features(batch)
            out = model.matrices(model.blocks_from(known, batch), batch)
            h, s = out[keys.HAMILTONIAN].double(), out[keys.OVERLAP].double()
            state = electronic_state(h, s, batch[keys.ORBITAL_MASK], electrons)
            charges = PROPERTIES["lowdin_charges"](batch, state, basis)[0].numpy()
            bond_orders = PROPERTIES["bond_orders"](batch, state, basis)[0].numpy()
            band = PROPERTIES["band_energy"](batch, state, basis)[0].numpy()
        levels = state.energies.numpy()
        scalars = known[1]["0e"].flatten(1).numpy()
        at = 0
        for k, place in enumerate(places):
            m = molecules[place]
            n, z = len(m.numbers), row[m.numbers]
            q, b = charges[at : at + n], bond_orders[k, :n, :n]
            counts = [np.bincount(z, minlength=5), np.bincount(z, q, 5), np.bincount(z, q * q, 5)]
            i, j = np.triu_indices(n, 1)
            low, high = np.minimum(z[i], z[j]), np.maximum(z[i], z[j])
            strength = bump(b[i, j], ORDERS, ORDER_WIDTH) * np.minimum(1, np.abs(b[i, j, None]) / 0.05)
            counts += [strength[(low == x) & (high == y)].sum(0) for x, y in PAIRS]
            homo = int(electrons[k]) // 2 - 1
            atoms = np.column_stack(
                [q, b.sum(1) - b.diagonal(), np.square(b).sum(1), surroundings(m.numbers, m.positions)]
            )
            parts[place] = {
                "scalars": scalars[at : at + n],
                "atoms": atoms,
                "counts": np.concatenate(counts),
                "levels": np.array([band[k], levels[k, homo], levels[k, homo + 1]]),
            }
            at += n
    ordered = [parts[k] for k in range(len(molecules))]
    return {
        "scalars": np.concatenate([p["scalars"] for p in ordered]).astype(np.float32),
        "atoms": np.concatenate([p["atoms"] for p in ordered]).astype(np.float32),
        "counts": np.array([p["counts"] for p in ordered]),
        "levels": np.array([p["levels"] for p in ordered]),
    }


def describe(molecules: list[Molecule], args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Descriptors of all molecules, chunk by chunk, each kept in a file of its own."""
    args.folder.mkdir(parents=True, exist_ok=True)
    found = []
    chunks = [molecules[k : k + CHUNK] for k in range(0, len(molecules), CHUNK)]
    for part in tracked(chunks, "descriptors", len(chunks)):
        indices = np.array([m.index for m in part])
        path = args.folder / f"{args.model}_{indices[0]}_{indices[-1]}_{len(indices)}.npz"
        if path.is_file():
            content = dict(np.load(path))
            if np.array_equal(content["index"], indices):
                found.append(content)
                continue
        content = {
            "index": indices,
            "number": np.concatenate([m.numbers for m in part]),
            "n_atoms": np.array([len(m.numbers) for m in part]),
            "energy": np.array([m.energy for m in part]),
            "dftb3": dftb_energies(part, args.skf) if args.skf else np.full(len(part), np.nan),
            "gfn2": gfn2_energies(part),
            **look(part, args.model),
        }
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **content)
        found.append(content)
    return {name: np.concatenate([c[name] for c in found]) for name in found[0]}


# ---- Gaussian process -------------------------------------------------------------------------------------------


@dataclass
class Covariances:
    """Features whose inner products are covariances: of molecules [n, F], and of atoms by width [n, F]."""

    molecules: np.ndarray
    atoms: list[np.ndarray]
    map: np.ndarray


def covariances(d: dict[str, np.ndarray], pool: int, seed: int = 0) -> Covariances:
    """Standardised by the pool, without energies. Sums over atoms, so that energies of parts add."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(d["n_atoms"])), d["n_atoms"])
    cheap = [d[name] for name in ("dftb3", "gfn2") if np.isfinite(d[name]).all()]
    whole = np.column_stack([d["counts"], d["levels"][:, :1]])
    composition = d["counts"][:pool, :5]
    design = np.column_stack([composition, np.ones(pool)])
    more = []
    if len(cheap) == 2:  # what one method says beyond composition, and the other does not
        difference = cheap[1] - cheap[0]
        fit, *_ = np.linalg.lstsq(design, difference[:pool], rcond=None)
        more.append(difference - np.column_stack([d["counts"][:, :5], np.ones(len(difference))]) @ fit)
    whole = np.column_stack([whole, *more])
    spread = whole[:pool].std(0)
    used = spread > 1e-8
    molecules = (whole[:, used] - whole[:pool, used].mean(0)) / spread[used]
    molecules = np.column_stack([molecules, np.ones(len(molecules))]) / np.sqrt(molecules.shape[1])
    x = np.column_stack([d["scalars"], d["atoms"]]).astype(float)
    atoms = [np.zeros((len(d["n_atoms"]), FEATURES * len(ELEMENTS))) for _ in WIDTHS]
    summed = []
    for e, q in enumerate(ELEMENTS):
        rows = np.flatnonzero(d["number"] == q)
        inside = rows[owner[rows] < pool]
        y = x[rows]
        if len(inside) < 2:
            continue
        mean, std = x[inside].mean(0), x[inside].std(0)
        y = (y - mean) / np.maximum(std, 1e-3 * max(std.max(), 1e-9))
        train = y[owner[rows] < pool]
        _, singular, axes = np.linalg.svd(train, full_matrices=False)
        keep = np.cumsum(singular**2) / np.sum(singular**2)
        n = min(int((keep < 0.98).sum()) + 1, 24)
        y = y @ axes[:n].T
        some = y[owner[rows] < pool]
        pairs = rng.integers(0, len(some), (2, 2000))
        typical = np.median(np.linalg.norm(some[pairs[0]] - some[pairs[1]], axis=1))
        w = rng.standard_normal((n, FEATURES)) / max(typical, 1e-6)
        phase = rng.uniform(0, 2 * np.pi, FEATURES)
        for width, target in zip(WIDTHS, atoms, strict=True):
            wave = np.sqrt(2 / FEATURES) * np.cos(y @ w / width + phase)
            block = slice(e * FEATURES, (e + 1) * FEATURES)
            np.add.at(target[:, block], owner[rows], wave)
        sums = np.zeros((len(d["n_atoms"]), n))
        np.add.at(sums, owner[rows], y)
        summed.append(sums)
    for k, target in enumerate(atoms):
        target -= target[:pool].mean(0)
        atoms[k] = target / np.sqrt(np.square(target[:pool]).sum(1).mean())
    chart = np.column_stack(summed)
    return Covariances(molecules, atoms, chart / np.maximum(chart[:pool].std(0).mean(), 1e-9))


def fit_predict(c: Covariances, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, dict]:
    """Gaussian process of greatest likelihood: energies [n_test], and its parameters."""
    mean = y[train].mean()
    k, mix, noise, scale, weights = _likeliest(c, y[train] - mean, train)
    a, b = c.molecules, c.atoms[k]
    out = a[test] @ (a[train].T @ weights) + mix * (b[test] @ (b[train].T @ weights))
    return out + mean, {"width": WIDTHS[k], "atoms": mix, "noise": float(np.sqrt(noise * scale))}


def _likeliest(c: Covariances, target: np.ndarray, train: np.ndarray) -> tuple[int, float, float, float, np.ndarray]:
    """Place of the width, weight of the atoms, noise, scale and dual weights."""
    n = len(train)
    grid = [(k, m) for k in range(len(c.atoms)) for m in range(len(MIXES))]
    if n > SEARCHED:
        k0, mix0, *_ = _likeliest(c, target[:SEARCHED], train[:SEARCHED])
        grid = [(k, m) for k, m in grid if max(abs(k - k0), abs(m - MIXES.index(mix0))) <= 1]
    a = c.molecules[train]
    linear, best = a @ a.T, (-np.inf, (0, 1.0, 1.0, 1.0, np.zeros(n)))
    for k in sorted({k for k, _ in grid}):
        local = c.atoms[k][train] @ c.atoms[k][train].T
        for mix in (MIXES[m] for j, m in grid if j == k):
            values, vectors = eigh(linear + mix * local)
            values = np.maximum(values, 0.0)
            along = vectors.T @ target
            for noise in NOISES:
                total = values + noise
                scale = float((along**2 / total).mean())
                likelihood = -0.5 * (n * np.log(scale) + np.log(total).sum())
                if likelihood > best[0]:
                    best = likelihood, (k, mix, noise, scale, vectors @ (along / total))
    return best[1]


def element_energies(d: dict[str, np.ndarray], baseline: str, pool: int) -> np.ndarray | None:
    """What an atom of each element is expected to add to the difference that is learned, kcal/mol, [5].

    Of GFN2-xTB that is minus its energy of the atom; of DFTB3 what its energies of the pool's molecules differ by from
    those of GFN2-xTB, element by element. None where that is not known. No published energy is used.
    """
    if baseline == "none" or not np.isfinite(d["gfn2"]).all():
        return None
    atoms = -KCAL_PER_MOL * np.array([GFN2_ATOMS[z] for z in ELEMENTS])
    shift, *_ = np.linalg.lstsq(d["counts"][:pool, :5], (d["gfn2"] - d[baseline])[:pool], rcond=None)
    return atoms + shift


def run(d: dict[str, np.ndarray], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean absolute errors of every baseline, selection, size and seed."""
    pool = args.pool
    test = np.arange(pool, len(d["energy"]))
    c = covariances(d, pool)
    composition = np.column_stack([d["counts"][:, :5], np.ones(len(d["energy"]))])
    rows = []
    jobs = [(b, s, seed) for b in args.baselines for s in args.select for seed in range(args.seeds)]
    for baseline, select, seed in tracked(jobs, "learning", len(jobs)):
        base = np.zeros(len(d["energy"])) if baseline == "none" else d[baseline]
        if not np.isfinite(base).all():
            continue
        chosen = choose(select, max(args.n), pool, features=c.map[:pool], seed=seed)
        expected = element_energies(d, baseline, pool)
        start = np.zeros(6) if expected is None else np.append(expected, 0.0)
        precision = np.diag([1e-6 if expected is None else PRIOR] * 5 + [1e-6])
        for n in args.n:
            train = chosen[:n]
            y = d["energy"] - base
            # energies of the elements by the training molecules, those of elements that none of them has by the prior
            a = composition[train]
            elements = start + np.linalg.solve(a.T @ a + precision, a.T @ (y[train] - a @ start))
            left = y - composition @ elements
            predicted, parameters = fit_predict(c, left, train, test)
            error = np.abs(predicted - left[test])
            rows.append(
                {"baseline": baseline, "select": select, "seed": seed, "n": n, "mae": float(error.mean()), **parameters}
            )
    return rows


def summarised(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], tuple[float, float]]:
    """Mean and standard deviation over seeds by baseline, selection and size."""
    out: dict[tuple[str, str, int], list[float]] = {}
    for r in rows:
        out.setdefault((r["baseline"], r["select"], r["n"]), []).append(r["mae"])
    return {k: (float(np.mean(v)), float(np.std(v))) for k, v in out.items()}


def draw(path: Path, found: dict[tuple[str, str, int], tuple[float, float]]) -> None:
    """Learning curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for baseline, select in dict.fromkeys((b, s) for b, s, _ in found):
        points = sorted((n, *v) for (b, s, n), v in found.items() if (b, s) == (baseline, select))
        n, mean, spread = np.array(points).T
        axis.errorbar(n, mean, spread, marker="o", capsize=3, label=f"on {baseline}, {select}")
    axis.axhline(1.0, color="k", linewidth=0.7, linestyle="--")
    axis.set(xscale="log", yscale="log", xlabel="training molecules", ylabel="mean absolute error, kcal/mol")
    axis.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=140, format="png")


def main() -> None:
    """Parse, describe, learn, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--select", nargs="+", default=["random", "fps", "cur"], choices=["random", "fps", "cur"])
    parser.add_argument("--baselines", nargs="+", default=["gfn2", "dftb3"], choices=["none", "dftb3", "gfn2"])
    parser.add_argument("--pool", type=int, default=2000, help="molecules that training molecules are taken from")
    parser.add_argument("--test", type=int, default=10_000, help="molecules that the errors are of")
    parser.add_argument("--model", default="organic")
    parser.add_argument("--skf", type=Path, help="folder of the Slater-Koster set 3ob-3-1; without it no DFTB3")
    parser.add_argument("--data", type=Path, help="folder with qm9_part1.csv ... (default: that of qm9pack)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "qm9_challenge", help="descriptors")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.pool < max(args.n):
        raise UserError(f"--pool {args.pool}: must be at least the largest --n, {max(args.n)}")
    # qm9pack holds 130,831 molecules
    wanted = np.random.default_rng(2026).permutation(130_831)
    if args.pool > FIRST_TEST or FIRST_TEST + args.test > len(wanted):
        raise UserError(f"at most {FIRST_TEST} --pool and {len(wanted) - FIRST_TEST} --test molecules are there")
    wanted = np.concatenate((wanted[: args.pool], wanted[FIRST_TEST : FIRST_TEST + args.test]))
    molecules = read_qm9(args.data or default_folder(), wanted)
    d = describe(molecules, args)
    rows = run(d, args)
    if not rows:
        raise UserError("no baseline is there; give --skf, install tblite, or take --baselines none")
    found = summarised(rows)
    reported = next(iter(found))[:2]  # the first of --baselines and --select that is there, not the best
    write_json(args.output / "qm9_challenge.json", {str(n): round(found[(*reported, n)][0], 3) for n in args.n})
    details = {"test": len(molecules) - args.pool, "pool": args.pool, "reported": reported, "rows": rows}
    write_json(args.output / "qm9_challenge_details.json", details)
    draw(args.output / "qm9_challenge.png", found)
    table = Table(title=f"atomisation energies, {details['test']:,} molecules, mean absolute error, kcal/mol")
    for name in ("baseline", "selection", *map(str, args.n)):
        table.add_column(name)
    for baseline, select in dict.fromkeys((b, s) for b, s, _ in found):
        cells = [found[baseline, select, n] for n in args.n]
        table.add_row(baseline, select, *(f"{m:.2f} ± {s:.2f}" for m, s in cells))
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
