"""Every ``bash`` and ``python`` block of the README is run, in order, in an empty folder. CI runs ``make`` itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
WATER = "3\nname=water\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"
METHANE = "5\nname=methane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
AMMONIA = "4\nname=ammonia\nN 0 0 0.1\nH 0 0.94 -0.28\nH 0.81 -0.47 -0.28\nH -0.81 -0.47 -0.28\n"
ETHENE = "6\nname=ethene\nC 0 0 .67\nC 0 0 -.67\nH 0 .92 1.24\nH 0 -.92 1.24\nH 0 .92 -1.24\nH 0 -.92 -1.24\n"
#: what keeps a test short; nothing of it changes what a command does
SHORT = [
    "--model.network={irreps: 8x0e+4x1o+4x2e, pair_channels: [8, 4, 4, 4], hidden: 16, product_channels: 4}",
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def run(command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with what ``make fit`` leaves and a file of structures."""
    pytest.importorskip("pyscf")
    place = tmp_path_factory.mktemp("readme")
    for name in ("configs", "data_prep", "benchmarks", "schnorb_t"):
        (place / name).symlink_to(ROOT / name)
    (place / "molecules.xyz").write_text(WATER + METHANE + AMMONIA + ETHENE)
    small = ["--data.max_train=60", *SHORT]
    run([sys.executable, "-m", "schnorb_t", "fit", "--config=configs/sample.yaml", *small], place)
    return place


def test_the_two_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("fit", "test"):
        assert f"make {command} " in README and re.search(rf"^{command}:", makefile, re.M)


def test_every_command_runs(folder):
    commands = [line for block in blocks("bash") for line in block.strip().splitlines()]
    assert len(commands) >= 7
    for line in commands:
        words = [w.strip('"') for w in line.split("#")[0].split()]
        assert words[0] in ("python", "schnorb_t")
        # the console script's module: the package under test need not be the one that is installed
        call = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]
        if words[:2] == ["schnorb_t", "splits"]:
            # of four molecules, a draw that leaves no split empty; then all elements into training
            run([*call, "--seed=3"], folder)
            spread(folder / "labels.h5")
            continue
        extra = []
        if words[:2] == ["schnorb_t", "fit"]:
            extra = SHORT if "--data.path" in words else ["--data.max_train=60", *SHORT, "--trainer.max_epochs=2"]
        run([*call, *extra], folder)
    assert (folder / "out.h5").exists() and (folder / "errors.json").exists() and (folder / "labels.h5").exists()
    shutil.rmtree(folder / "runs" / "mine")


def spread(path):
    from schnorb_t.data.store import Store, set_splits

    names = [str(n) for n in Store(path).names]
    element_rich = sorted(names, key=lambda n: ("ammonia" not in n, "water" not in n, "ethene" not in n))
    set_splits(path, dict(zip(element_rich, ["train", "train", "train", "val"], strict=True)))


def test_python_blocks_run(folder):
    text = "\n".join(blocks("python"))
    assert "schnorb_t.load" in text
    run([sys.executable, "-c", text], folder)


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
