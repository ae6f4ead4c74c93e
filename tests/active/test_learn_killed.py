"""``schnorb_t learn`` as a user runs it: PySCF labels, real trainings, SIGKILL in the middle of each."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io import write

from schnorb_t.data.store import Store
from schnorb_t.predictor import load

pytest.importorskip("pyscf")
pytestmark = pytest.mark.slow

SMALL = ("H2O", "CH4", "NH3", "HCN", "H2CO", "CH3OH", "C2H2", "C2H4")
#: A network of a thousand parameters; nothing else of a real configuration is different.
NETWORK = {
    "irreps": "8x0e+4x1o+4x2e",
    "interactions": 1,
    "pair_channels": [8, 4, 4, 2],
    "n_radial": 4,
    "hidden": 8,
    "product_channels": 4,
    "triangle_channels": 0,
    "charge_channels": 0,
    "chain_channels": 0,
    "orthogonal": True,
    "doubt_members": 4,
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Three geometries of eight molecules with splits by molecule."""
    rng = np.random.default_rng(0)
    frames = []
    for name in SMALL:
        for k in range(3):
            atoms = molecule(name)
            atoms.positions += 0.03 * k * rng.normal(size=atoms.positions.shape)
            split = {"HCN": "val", "CH3OH": "test"}.get(name, "train")
            atoms.info.update(name=f"{name}:{k}", group=name, split=split)
            frames.append(atoms)
    path = tmp_path_factory.mktemp("pool") / "pool.extxyz"
    write(path, frames)
    return path


def configuration(pool, folder):
    outputs = [{"name": n, "loss": "l1", "weight": 1000.0} for n in ("hamiltonian", "overlap")]
    options = {"model.network": NETWORK, "model.outputs": outputs}
    options |= {"trainer.max_epochs": 6, "trainer.check_val_every_n_epoch": 3, "trainer.accelerator": "cpu"}
    content = {
        "folder": str(folder / "loop"),
        "pool": [str(pool)],
        "model": None,
        "labelled": None,
        "method": "fps",
        "start": 8,
        "number": 4,
        "val": 3,
        "test": 3,
        "budget": 12,
        "label": {"target": "wqvo", "functional": "LDA", "basis": "6-31G", "workers": 1},
        "fit": "sample",
        "fit_options": options,
    }
    path = folder / "learn.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(config):
    """``schnorb_t learn`` in a process group of its own, so that SIGKILL takes its workers too."""
    command = [sys.executable, "-m", "schnorb_t", "learn", "--config", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (config.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def until(process, happened, seconds=240):
    """Wait for something; the process must not have come to its end before."""
    for _ in range(20 * seconds):
        if happened():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    kill(process)
    raise AssertionError("it never came so far")


@pytest.fixture(scope="module")
def whole(pool, tmp_path_factory):
    """A loop that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(configuration(pool, folder))
    assert process.wait(500) == 0, (folder / "log").read_text()
    return folder / "loop"


def test_it_goes_on_after_sigkill_in_labelling_and_in_training(pool, whole, tmp_path):
    config, loop = configuration(pool, tmp_path), tmp_path / "loop"
    journal, round_1 = loop / "labels.h5.journal", loop / "round_01"

    process = start(config)
    until(process, lambda: journal.exists() and journal.stat().st_size > 20_000)
    kill(process)
    assert not list(loop.glob("round_*/model.ckpt"))

    process = start(config)
    until(process, lambda: any(round_1.rglob("last.ckpt")))
    kill(process)
    assert not (round_1 / "model.ckpt").exists()

    process = start(config)
    until(process, lambda: (round_1 / "model.ckpt").exists())
    kill(process)

    process = start(config)
    assert process.wait(500) == 0, (tmp_path / "log").read_text()

    states = [json.loads((x / "state.json").read_text()) for x in (loop, whole)]
    chosen = [[r["chosen"] for r in state["rounds"]] for state in states]
    assert chosen[0] == chosen[1] and [len(c) for c in chosen[0]] == [8, 4]
    with Store(loop / "labels.h5") as mine, Store(whole / "labels.h5") as theirs:
        assert mine.names.tolist() == theirs.names.tolist() and len(set(mine.names)) == len(mine) == 18
        for k in range(len(mine)):
            np.testing.assert_allclose(mine[k].hamiltonian, theirs[k].hamiltonian, atol=1e-7)
    # trainings go on bit for bit; what they learn from differs by the last bits of PySCF's labels
    gaps = [load(str(x / "round_02" / "model.ckpt")).predict(molecule("CH3OH")).gap for x in (loop, whole)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-4)
