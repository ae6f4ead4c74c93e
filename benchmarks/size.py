"""What large molecules cost: time and peak memory against size, by stage, for water clusters, alkanes and polypeptides.

    python benchmarks/size.py --output size
    python benchmarks/size.py --model organic --systems water --atoms 96 192 384 768 1536 --threads 2

Each molecule has a process of its own, whose largest memory is told. Times are those of processors (seconds of one core
where one thread works), so that other work on the machine counts little; exponents are slopes between the sizes of at
least ``--fit-from`` atoms. At the size next to 300 atoms the sparse path is compared with the dense one. Prints a
table, writes JSON and a PNG.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from schnorb_t.commands.parser import positive
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.training.report import write_json

STAGES = ("pairs", "network", "assembly", "frontier", "charges")
SYSTEMS = ("water", "alkane", "polypeptide")


# ---- molecules ------------------------------------------------------------------------------------------------------


def water(atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of water at the density of the liquid, turned at random, no two atoms nearer than 1.6 Å."""
    random = np.random.default_rng(0)
    n = max(1, round(atoms / 3))
    k = int(np.ceil((6 * n / np.pi) ** (1 / 3))) + 2
    centres = np.stack(np.meshgrid(*[np.arange(k) - (k - 1) / 2] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = 3.105 * centres[np.argsort((centres**2).sum(1), kind="stable")[:n]]
    one = np.array([[0.0, 0.0, 0.0], [0.0, 0.7572, -0.5865], [0.0, -0.7572, -0.5865]])
    placed = np.zeros((0, 3))
    for centre in centres:
        around = placed[((placed - centre) ** 2).sum(1) < 25.0]
        for _ in range(1000):
            turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
            new = one @ turn + centre
            if not len(around) or np.linalg.norm(around[:, None] - new, axis=-1).min() > 1.6:
                break
        placed = np.concatenate((placed, new))
    return np.tile([8, 1, 1], n), placed


def _place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, dihedral: float) -> np.ndarray:
    """The point at a distance from c, at an angle (degrees) to c-b and a dihedral to a-b-c."""
    angle, dihedral = np.radians((angle, dihedral))
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    third = np.cross(normal, along)
    direction = np.array([-np.cos(angle), np.sin(angle) * np.cos(dihedral), np.sin(angle) * np.sin(dihedral)])
    return c + length * (direction[0] * along + direction[1] * third + direction[2] * normal)


def alkane(atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """C_nH_(2n+2), all trans."""
    n = max(2, round((atoms - 2) / 3))
    half = np.radians(112.0 / 2)
    step = 1.53 * np.array([np.sin(half), np.cos(half), 0.0])
    carbon = np.array([[k * step[0], (k % 2) * step[1], 0.0] for k in range(-1, n + 1)])
    z, r = [6] * n, list(carbon[1:-1])
    for k in range(1, n + 1):
        up = carbon[k] - (carbon[k - 1] + carbon[k + 1]) / 2
        up /= np.linalg.norm(up)
        spread = np.radians(106.5 / 2)
        for side in (1.0, -1.0):
            z.append(1)
            r.append(carbon[k] + 1.095 * (np.cos(spread) * up + np.sin(spread) * side * np.array([0.0, 0.0, 1.0])))
    for end, inner in ((carbon[0], carbon[1]), (carbon[-1], carbon[-2])):
        z.append(1)
        r.append(inner + 1.095 * (end - inner) / np.linalg.norm(end - inner))
    return np.array(z), np.array(r)


def polypeptide(atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """H-(Gly)_n-OH as an alpha helix of ideal bond lengths and angles (phi -57, psi -47 degrees)."""
    n = max(1, round((atoms - 3) / 7))
    phi, psi, omega = -57.0, -47.0, 180.0
    nitrogen, alpha = np.zeros(3), np.array([1.458, 0.0, 0.0])
    carbon = _place(np.array([0.0, 1.0, 0.3]), nitrogen, alpha, 1.525, 111.0, -60.0)
    before = _place(carbon, alpha, nitrogen, 1.0, 117.0, phi)  # where the last residue's carbon would be
    z, r = [1], [nitrogen + 1.01 * (before - nitrogen) / np.linalg.norm(before - nitrogen)]
    for k in range(n):
        following = _place(nitrogen, alpha, carbon, 1.329, 116.6, psi)
        oxygen = _place(nitrogen, alpha, carbon, 1.231, 120.5, psi + 180.0)
        hydrogens = [_place(carbon, nitrogen, alpha, 1.09, 109.5, turn) for turn in (120.0, -120.0)]
        amide = _place(carbon, alpha, nitrogen, 1.01, 117.0, phi + 180.0)
        z += [7, 1, 6, 1, 1, 6, 8]
        r += [nitrogen, amide, alpha, *hydrogens, carbon, oxygen]
        if k == n - 1:
            hydroxyl = _place(nitrogen, alpha, carbon, 1.34, 113.0, psi)
            z += [8, 1]
            r += [hydroxyl, _place(alpha, carbon, hydroxyl, 0.97, 107.0, 180.0)]
            break
        next_alpha = _place(alpha, carbon, following, 1.458, 121.7, omega)
        next_carbon = _place(carbon, following, next_alpha, 1.525, 111.0, phi)
        nitrogen, alpha, carbon = following, next_alpha, next_carbon
    return np.array(z), np.array(r)


# ---- one molecule ---------------------------------------------------------------------------------------------------


def measure(model: str, system: str, atoms: int, threads: int, compare: bool) -> dict:
    """Seconds of processors by stage and largest memory, GiB, of this process."""
    import torch

    import schnorb_t
    from schnorb_t import keys
    from schnorb_t.data.batch import structures_to_batch
    from schnorb_t.structures import Structure
    from schnorb_t.units import HARTREE

    torch.set_num_threads(threads)
    predictor = schnorb_t.load(model, device="cpu", sparse_above=0)
    network = predictor.model
    if not network.gives_sparse:
        raise UserError(f"{model}: an architecture without sparse matrices")
    z, r = globals()[system](atoms)
    result: dict = {"system": system, "atoms": len(z), "seconds": {}}
    start = [time.process_time(), time.perf_counter()]

    def stage(name: str) -> None:
        result["seconds"][name] = time.process_time() - start[0]
        start[0] = time.process_time()

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        batch = structures_to_batch([z], [r], network.basis, network.cutoff)
        stage("pairs")
        blocks = network.blocks(batch)
        stage("network")
        made = network.sparse_matrices(blocks)
        stage("assembly")
    del blocks
    from schnorb_t.sparse_prediction import SparsePrediction

    found = SparsePrediction(
        z, r, network.basis, made[keys.OVERLAP], made[keys.HAMILTONIAN], network.orthogonal, origin=predictor.origin
    )
    levels = found.homo, found.lumo
    stage("frontier")
    charges = found.mulliken_charges
    stage("charges")
    h = found.orthogonal_hamiltonian
    result |= {
        "pairs": int(batch[keys.PAIR_INDEX].shape[1]),
        "orbitals": int(h.shape[0]),
        "filled": h.nnz / h.shape[0] ** 2,
        "dense_solution": found._is_dense,
        "wall_seconds": time.perf_counter() - start[1],
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "memory_before_gib": base / 2**20,
        "homo_ev": levels[0] * HARTREE,
        "lumo_ev": levels[1] * HARTREE,
        "largest_charge": float(np.abs(charges).max()),
    }
    if compare:
        from dataclasses import replace

        predictor.sparse_above = 10**9
        dense = predictor.predict(Structure(z, r))
        sparse = replace(found, dense=0)
        result["agreement"] = {
            "overlap": float(np.abs(sparse.overlap.toarray() - dense.overlap).max()),
            "hamiltonian_eh": float(np.abs(sparse.hamiltonian.toarray() - dense.hamiltonian).max()),
            "homo_eh": abs(sparse.homo - dense.homo),
            "lumo_eh": abs(sparse.lumo - dense.lumo),
            "charges": float(np.abs(sparse.mulliken_charges - dense.mulliken_charges).max()),
            "levels_of_the_dense_solution_eh": float(
                np.abs(replace(found, dense=10**9)._levels[0] - dense.orbital_energies).max()
            ),
        }
    return result


# ---- all ------------------------------------------------------------------------------------------------------------


def exponents(rows: list[dict], fit_from: int) -> dict[str, float]:
    """Slopes of log time and memory against log atoms, of sizes from ``fit_from`` on (all, if fewer than two)."""
    rows = [x for x in rows if x["atoms"] >= fit_from] if sum(x["atoms"] >= fit_from for x in rows) > 1 else rows
    if len(rows) < 2:
        return {}
    n = np.log([x["atoms"] for x in rows])
    series = {name: [x["seconds"][name] for x in rows] for name in STAGES}
    series["network and assembly"] = [sum(x["seconds"][k] for k in ("pairs", "network", "assembly")) for x in rows]
    series["all"] = [sum(x["seconds"].values()) for x in rows]
    series["memory"] = [max(1e-3, x["memory_gib"] - x["memory_before_gib"]) for x in rows]
    return {name: float(np.polyfit(n, np.log(np.maximum(y, 1e-6)), 1)[0]) for name, y in series.items()}


def draw(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * (len(result["systems"]) + 1), 4.0), layout="constrained")
    *axes, last = np.atleast_1d(figure.subplots(1, len(result["systems"]) + 1))
    for axis, (system, rows) in zip(axes, result["systems"].items(), strict=True):
        n = [x["atoms"] for x in rows]
        for name in STAGES:
            axis.loglog(n, [max(1e-3, x["seconds"][name]) for x in rows], marker="o", ms=3, label=name)
        axis.loglog(n, [sum(x["seconds"].values()) for x in rows], "k", lw=2, label="all")
        axis.set(title=system, xlabel="atoms", ylabel="core seconds")
        axis.legend(frameon=False, fontsize=8)
        last.loglog(n, [x["memory_gib"] for x in rows], marker="o", ms=3, label=system)
    last.set(title="largest memory", xlabel="atoms", ylabel="GiB")
    last.legend(frameon=False, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def show(result: dict, console: Console) -> None:
    for system, rows in result["systems"].items():
        table = Table(title=f"{system}, {result['model']}", title_justify="left")
        columns = ("atoms", "pairs", "orbitals", *(f"{s}\ns" for s in STAGES), "all\ns", "GiB", "HOMO\neV", "LUMO\neV")
        for heading in columns:
            table.add_column(heading, justify="right")
        for x in rows:
            seconds = [f"{x['seconds'][s]:.2f}" for s in STAGES] + [f"{sum(x['seconds'].values()):.1f}"]
            counts = [f"{x[k]:,}" for k in ("atoms", "pairs", "orbitals")]
            table.add_row(*counts, *seconds, f"{x['memory_gib']:.2f}", f"{x['homo_ev']:.3f}", f"{x['lumo_ev']:.3f}")
        console.print(table)
        slopes = ", ".join(f"{name} {x:.2f}" for name, x in result["exponents"][system].items())
        console.print(f"exponents: {slopes}", highlight=False, soft_wrap=True)
        for x in rows:
            if x.get("agreement"):
                parts = ", ".join(f"{k} {v:.1e}" for k, v in x["agreement"].items())
                text = f"sparse against dense at {x['atoms']} atoms: {parts}"
                console.print(text, highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organic", help="checkpoint or name")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--atoms", type=positive, nargs="+", default=[100, 300, 500, 1000, 2000, 5000])
    parser.add_argument("--threads", type=positive, default=1, help="of the network and of dense solutions")
    parser.add_argument("--fit-from", type=positive, default=500, help="atoms from which on exponents are fitted")
    parser.add_argument("--output", type=Path, default=Path("size"), help="writes OUTPUT.json and OUTPUT.png")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS, metavar=("SYSTEM", "ATOMS", "COMPARE"))
    arguments = parser.parse_args()
    if arguments.one:
        system, atoms, compare = arguments.one
        print(json.dumps(measure(arguments.model, system, int(atoms), arguments.threads, compare == "1")))
        return
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    console = Console()
    result: dict = {"model": arguments.model, "threads": arguments.threads, "systems": {}, "exponents": {}}
    compared = min(arguments.atoms, key=lambda n: abs(n - 300))
    for system in arguments.systems:
        rows = result["systems"].setdefault(system, [])
        for atoms in sorted(arguments.atoms):
            one = [system, str(atoms), str(int(atoms == compared))]
            command = [sys.executable, __file__, "--model", arguments.model, "--threads", str(arguments.threads)]
            done = subprocess.run([*command, "--one", *one], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{system} of {atoms} atoms: {done.stderr.strip().splitlines()[-1]}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            result["exponents"][system] = exponents(rows, arguments.fit_from)
            # after each molecule: the long ones may be stopped
            write_json(arguments.output.with_name(f"{arguments.output.name}.json"), result)
            draw(result, arguments.output.with_name(f"{arguments.output.name}.png"))
    show(result, console)
    paths = [arguments.output.with_name(f"{arguments.output.name}{suffix}") for suffix in (".json", ".png")]
    console.print(f"written: {paths[0]}, {paths[1]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
