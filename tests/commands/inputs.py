"""For each command a call that works, on the smallest input: ``arguments(name, folder, output)``."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from schnorb_t.basis import Basis
from schnorb_t.commands import COMMANDS
from schnorb_t.data.store import StoreWriter, set_splits
from schnorb_t.nn.energy import EnergyModel
from schnorb_t.training import checkpoint
from schnorb_t.training.checkpoint import ModelCard
from tests.data.store_examples import HEADER, example
from tests.reference.orca_examples import WATER, orca_json, run, write_json
from tests.reference.test_qm9 import ACETYLENE, METHANE, archive
from tests.training.examples import fitted_model, write_checkpoint, write_store

#: what a command needs beyond the core
NEEDS = {
    "label": "pyscf",
    "label-xtb": "tblite",
    "import-orca": "pyscf",
    "project": "pyscf",
    "convert": "pyscf",
    "fit-contraction": "pyscf",
    "sample": "rdkit",
    "geometries": "rdkit",
    "completion": "shtab",
    "select": "skmatter",
}
#: read something and write nothing by default, or have options of another kind
NO_OUTPUT = ("check", "splits", "evaluate", "info", "selftest", "completion", "fit", "fit-dftb", "learn")
#: go on with an output that exists instead of refusing it, or replace it as they always did
CONTINUE = (
    "geometries",
    "label",
    "label-xtb",
    "label-model",
    "project",
    "convert",
    "qm9",
    "sample",
    "write-orca",
    "fit-contraction",
    "subtract-dftb",
)
WITH_OUTPUT = [name for name in COMMANDS if name not in NO_OUTPUT]
#: read nothing, or what a configuration names
NO_INPUT = ("info", "selftest", "completion", "sample", "learn", "fit-dftb")
WITH_INPUT = [name for name in COMMANDS if name not in NO_INPUT]


def make_inputs(folder: Path) -> None:
    """Everything that the calls read."""
    store = write_store(folder / "toy.h5")
    for seed in (0, 1):
        write_checkpoint(folder / f"{'ab'[seed]}.ckpt", fitted_model(store, seed), store)
    store.close()
    write(folder / "water.xyz", molecule("H2O"), format="extxyz")
    write_energies(folder)
    write(folder / "pool.xyz", [molecule(name) for name in ("H2O", "CH3CHO", "C6H6")], format="extxyz")
    (folder / "list.smi").write_text("CCCO propanol\n")
    archive(folder / "qm9.tar.bz2", {"dsgdb9nsd_000001.xyz": METHANE, "dsgdb9nsd_000004.xyz": ACETYLENE})
    write_toy_set(folder / "skf")
    for k, name in enumerate(("one.h5", "two.h5")):
        with StoreWriter(folder / name, HEADER) as writer:
            writer.add(example(k, split="train"))


def write_energies(folder: Path) -> None:
    """A structure with energy and forces, and a model of them with random weights."""
    water, basis = molecule("H2O"), Basis("valence", {1: (0,), 8: (0, 1)}, core={8: 2})
    water.calc = SinglePointCalculator(water, energy=-2000.0, forces=0.1 * water.positions)
    write(folder / "energies.xyz", water, format="extxyz")
    network = EnergyModel(basis, "4x0e+4x1o", interactions=1, hidden=4, product_channels=2)
    arguments = {"irreps": "4x0e+4x1o", "interactions": 1, "hidden": 4, "product_channels": 2}
    card = ModelCard(arguments, basis, {"method": "none"}, "energies", network="energy")
    checkpoint.write_checkpoint(folder / "energies.ckpt", network, card, "")


def write_toy_set(folder: Path) -> Path:
    """Slater-Koster files of H, C and O, made up, with derivatives of U."""
    folder.mkdir()
    onsite = {
        "H": "0 0 -0.24 0 0 0 0.42 0 0 1",
        "C": "0 -0.2 -0.5 0 0 0.36 0.36 0 2 2",
        "O": "0 -0.3 -0.9 0 0 0.5 0.5 0 4 2",
    }
    shape = {"ss": 0.5, "sp": 0.3, "p0": -0.25, "p1": 0.3}
    for a in onsite:
        for b in onsite:
            lines = ["0.1 61", *([onsite[a]] if a == b else []), "1.0 0.01 7*0.0 3.0 10*0.0"]
            for k in range(1, 61):
                decay = math.exp(-0.3 * (0.1 * k) ** 2)
                s = {name: x * decay * (1 if name in ("ss", "p1") else 0.1 * k) for name, x in shape.items()}
                if "H" in (a, b):
                    s |= {"p0": 0.0, "p1": 0.0, "sp": 0.0 if b == "H" else s["sp"]}
                row = [s["p0"], s["p1"], 0.0, s["sp"], s["ss"]]
                lines.append(
                    "5*0.0 " + " ".join(f"{-0.7 * x:.8f}" for x in row) + " 5*0.0 " + " ".join(f"{x:.8f}" for x in row)
                )
            (folder / f"{a}-{b}.skf").write_text("\n".join(lines) + "\n")
    (folder / "README").write_text("List of all atomic Hubbard derivatives\n\nH = -0.19\nC = -0.15\nO = -0.16\n")
    return folder


def make_full(folder: Path) -> None:
    """A full-basis store, from an ORCA calculation."""
    from schnorb_t.commands.import_orca import import_orca

    write_json(folder / "water.json", orca_json(run(basis="6-31g", atoms=WATER)))
    import_orca([folder / "water.json"], output=folder / "full.h5")
    set_splits(folder / "full.h5", {"water": "train"})


def first_input(name: str, folder: Path) -> list[str | Path]:
    """The positional arguments of a command."""
    return {
        "predict": [folder / "a.ckpt", folder / "water.xyz"],
        "evaluate": [folder / "a.ckpt", folder / "toy.h5"],
        "geometries": [folder / "list.smi"],
        "select": [folder / "pool.xyz", folder / "a.ckpt"],
        "label": [folder / "water.xyz"],
        "label-xtb": [folder / "water.xyz"],
        "label-model": [folder / "a.ckpt", folder / "water.xyz"],
        "import-orca": [folder / "water.json"],
        "write-orca": [folder / "water.xyz"],
        "import-energies": [folder / "energies.xyz"],
        "md": [folder / "energies.ckpt", folder / "water.xyz"],
        "qm9": [folder / "qm9.tar.bz2"],
        "project": [folder / "full.h5"],
        "convert": [folder / "labels.h5"],
        "check": [folder / "one.h5"],
        "splits": [folder / "toy.h5"],
        "merge": [folder / "one.h5", folder / "two.h5"],
        "export": [folder / "a.ckpt"],
        "export-skf": [folder / "a.ckpt"],
        "calibrate": [folder / "a.ckpt", folder / "toy.h5"],
        "ensemble": [folder / "a.ckpt", folder / "b.ckpt"],
        "fit-contraction": [folder / "full.h5"],
        "sample": [],
        "info": [],
        "completion": ["bash"],
        "selftest": [],
        "fit": [],
        "learn": ["--config", folder / "learn.yaml"],
        "fit-dftb": ["--config", folder / "dftb.yaml"],
        "subtract-dftb": [folder / "one.h5", folder / "skf"],
    }[name]


def arguments(name: str, folder: Path, output: Path) -> list[str]:
    """A whole command line; ``splits`` works on a copy."""
    inputs = first_input(name, folder)
    if name == "splits":
        inputs = [Path(shutil.copy(folder / "toy.h5", output))]
    options: list[object] = [] if name in NO_OUTPUT else ["-o", output]
    if name == "label":
        options += ["--target", "STO-3G", "--workers", 1]
    if name == "geometries":
        options += ["--workers", 1, "--duration", 2]
    if name == "select":
        options += ["--method", "fps"]
    if name == "calibrate":
        options += ["--members", 3]
    if name == "check":
        options += ["--png", output]
    if name == "sample":
        options += ["--displaced", 0]
    if name == "md":
        options += ["--steps", 2]
    return [name, *map(str, [*inputs, *options])]
