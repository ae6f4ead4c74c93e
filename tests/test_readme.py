"""Every ``bash`` and ``python`` block of README and of "Getting started" is run, in order, in an empty folder.

CI runs ``make`` itself.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {"README": README, "getting started": (ROOT / "docs" / "getting_started.md").read_text()}
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


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.S)


def run(command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """An empty folder but for a file of structures."""
    pytest.importorskip("pyscf")
    (tmp_path / "molecules.xyz").write_text(WATER + METHANE + AMMONIA + ETHENE)
    return tmp_path


def test_the_two_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("fit", "test"):
        assert f"make {command} " in README and re.search(rf"^{command}:", makefile, re.M)


def run_commands(page, folder):
    commands = [line for block in blocks(page, "bash") for line in block.strip().splitlines()]
    for line in commands:
        words = [w.strip('"') for w in line.split("#")[0].split()]
        assert words[0] == "schnorb_t"
        # the console script's module: the package under test need not be the one that is installed
        call = [sys.executable, "-m", *words]
        if words[:2] == ["schnorb_t", "splits"]:
            # of four molecules, a draw that leaves no split empty; then all elements into training
            run([*call, "--seed=3"], folder)
            spread(folder / "labels.h5")
            continue
        extra = []
        if words[:2] == ["schnorb_t", "fit"]:
            # what goes on with a training has one more epoch to do
            epochs = ["--trainer.max_epochs=2"] if "--ckpt_path" in words else []
            extra = SHORT if "--data.path" in words else ["--data.max_train=60", *SHORT, *epochs]
        run([*call, *extra], folder)
    return len(commands)


def test_the_commands_of_the_readme_run(folder):
    assert run_commands("README", folder) >= 4
    for name in ("out.h5", "mine.h5", "labels.h5", "out_cubes"):
        assert (folder / name).exists()
    assert len(list((folder / "pages").glob("*.html"))) == 5  # four molecules and the index


def test_the_commands_of_getting_started_run(folder):
    assert run_commands("getting started", folder) >= 9
    for name in ("out.h5", "errors.json", "labels.h5", "skf", "dftb"):
        assert (folder / name).exists()


def spread(path):
    from schnorb_t.data.store import Store, set_splits

    names = [str(n) for n in Store(path).names]
    element_rich = sorted(names, key=lambda n: ("ammonia" not in n, "water" not in n, "ethene" not in n))
    set_splits(path, dict(zip(element_rich, ["train", "train", "train", "val"], strict=True)))


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, folder):
    text = "\n".join(blocks(page, "python"))
    assert "schnorb_t.load" in text
    assert run([sys.executable, "-c", text], folder)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_pictures_exist(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target
