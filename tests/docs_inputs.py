"""The files that the pages of the documentation speak of, small; and what keeps their commands short."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import Store, StoreWriter, set_splits
from schnorb_t.training.checkpoint import find_model
from tests.reference.orca_examples import WATER as ORCA_WATER
from tests.reference.orca_examples import orca_json, run, write_json

WATER = "3\nname=water\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
METHANE = "5\nname=methane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
AMMONIA = "4\nname=ammonia\nN 0 0 0.1\nH 0 0.94 -0.28\nH 0.81 -0.47 -0.28\nH -0.81 -0.47 -0.28\n"
ETHENE = "6\nname=ethene\nC 0 0 .67\nC 0 0 -.67\nH 0 .92 1.24\nH 0 -.92 1.24\nH 0 .92 -1.24\nH 0 -.92 -1.24\n"
#: of a training; none of it changes what the command does
SMALL = (
    "--model.network={irreps: 8x0e+4x1o+4x2e, pair_channels: [8, 4, 4, 4], hidden: 16, product_channels: 4}",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
)
#: (command, words that it has, word to replace if any, what is put there or added); every row that fits is applied
SHORTER = (
    ("fit", {"sample"}, "", ("--data.max_train=60", "--trainer.max_epochs=1", *SMALL)),
    ("fit", {"--ckpt_path"}, "", ("--trainer.max_epochs=2",)),
    ("fit", {"--trainer.max_epochs", "2"}, "", ("--trainer.max_epochs=1", *SMALL)),
    ("splits", {"labels.h5"}, "", ("--seed=3",)),  # of four molecules, a draw that leaves no split empty
    ("splits", {"8"}, "8", ("5",)),
    ("calibrate", set(), "", ("--members=3",)),
)


def lay_out(page: str, folder: Path) -> None:
    """Write the files that a page's commands read into a folder."""
    (folder / "molecules.xyz").write_text(WATER + METHANE + AMMONIA + ETHENE)
    for make in PAGES.get(page, ()):
        make(folder)


def spread(path: Path) -> None:
    """All elements of the four molecules into training."""
    names = [str(n) for n in Store(path).names]
    element_rich = sorted(names, key=lambda n: ("ammonia" not in n, "water" not in n, "ethene" not in n))
    set_splits(path, dict(zip(element_rich, ["train", "train", "train", "val"], strict=True)))


def part_of_sample(path: Path, n_train: int = 6) -> Path:
    """Some molecules of H, C, N, O of the packaged sample, of each split, in a store whose groups are SMILES."""
    path.parent.mkdir(exist_ok=True)
    elements = (1, 6, 7, 8)
    with Store(SAMPLE) as store:
        old = store.basis
        functions = old.functions and {z: old.functions[z] for z in elements}
        basis = replace(old, shells={z: old.shells[z] for z in elements}, functions=functions)
        with StoreWriter(path, replace(store.header, basis=basis)) as writer:
            for split, n in (("train", n_train), ("val", 2), ("test", 2)):
                for i in store.indices(split)[::4]:  # one geometry of each molecule
                    record = store[int(i)]
                    if n and record.group.startswith("smiles/") and set(record.atomic_numbers) <= set(elements):
                        record.values["group"] = record.group.removeprefix("smiles/")
                        writer.add(record)
                        n -= 1
    return path


def best_checkpoint(folder: Path) -> None:
    """``best.ckpt``: a model of a projected basis."""
    shutil.copy(find_model("hcnof"), folder / "best.ckpt")


def orca_runs(folder: Path) -> None:
    """``runs/``: a finished calculation by ORCA."""
    (folder / "runs").mkdir()
    write_json(folder / "runs" / "water.json", orca_json(run(basis="6-31g", atoms=ORCA_WATER)))


def labelled_pool(folder: Path) -> None:
    """``pool.extxyz``."""
    shutil.copy(folder / "molecules.xyz", folder / "pool.extxyz")


def smiles(folder: Path) -> None:
    """``molecules.csv``."""
    (folder / "molecules.csv").write_text("smiles,name\nC,methane\nO,water\n")


def sdf(folder: Path) -> None:
    """``molecules.sdf``: water."""
    atoms = [line.split() for line in WATER.splitlines()[2:]]
    rows = [f"{float(x):10.4f}{float(y):10.4f}{float(z):10.4f} {s:<3} 0" + "  0" * 11 for s, x, y, z in atoms]
    lines = ["water", "", "", "  3  2  0  0  0  0  0  0  0  0999 V2000", *rows, "  1  2  1  0", "  1  3  1  0"]
    (folder / "molecules.sdf").write_text("\n".join([*lines, "M  END", "$$$$", ""]))


#: page -> what lays its files out
PAGES = {
    "docs/commands.md": [lambda folder: part_of_sample(folder / "data" / "qm9.h5")],
    "docs/getting_started.md": [orca_runs],
    "docs/interfaces.md": [best_checkpoint],
    "docs/labels.md": [smiles],
    "docs/molecules.md": [sdf],
    "docs/predict.md": [best_checkpoint, lambda folder: part_of_sample(folder / "data.h5")],
    "docs/scf_guess.md": [lambda folder: (folder / "molecule.xyz").write_text(WATER)],
    "docs/store.md": [lambda folder: part_of_sample(folder / "FILE.h5", 30)],
    "docs/uncertainty.md": [best_checkpoint, lambda folder: part_of_sample(folder / "labels.h5", 20)],
}
