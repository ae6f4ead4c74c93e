"""benchmarks/md17.py and benchmarks/qm9_challenge.py: what they compute, on data of known answer."""

import argparse
import json

import numpy as np
import pytest

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.units import BOHR, KCAL_PER_MOL
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def md17():
    with benchmark_script("md17") as module:
        yield module


@pytest.fixture(scope="module")
def challenge():
    with benchmark_script("qm9_challenge") as module:
        yield module


def frames(folder, n=60):
    """Water on springs, in the form of the files of MD17."""
    rng = np.random.default_rng(0)
    rest = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    arrays = {"nuclear_charges": np.array([8, 1, 1])}
    for split in ("train", "test"):
        x = rest + rng.normal(0, 0.05, (n, 3, 3))
        d = x[:, :, None] - x[:, None]
        r = np.linalg.norm(d, axis=-1) + np.eye(3)
        stretch = np.where(np.eye(3), 0.0, r - np.linalg.norm(rest[:, None] - rest, axis=-1))
        arrays[f"{split}_coords"] = x
        arrays[f"{split}_old_energies"] = 200 * np.square(stretch).sum((1, 2)) - 47_000.0
        arrays[f"{split}_old_forces"] = -(800 * (stretch / r)[..., None] * d).sum(2)
    np.savez(folder / "water.npz", **arrays)


def test_md17_trains_writes_and_goes_on(md17, tmp_path):
    frames(tmp_path)
    store = tmp_path / "water.h5"
    md17.make_store("water", tmp_path, "md17", store)
    with Store(store) as found:
        assert [len(found.indices(s)) for s in ("train", "val", "test")] == [10, 50, 60]
        record, source = found[int(found.indices("test")[3])], np.load(tmp_path / "water.npz")
    assert record.total_energy * KCAL_PER_MOL == pytest.approx(source["test_old_energies"][3], abs=1e-6)
    assert np.allclose(record.forces * KCAL_PER_MOL / BOHR, source["test_old_forces"][3], atol=1e-6)
    with pytest.raises(UserError, match="names the folder"):
        md17.make_store("ozone", tmp_path, "md17", tmp_path / "ozone.h5")
    out = tmp_path / "out"
    out.mkdir()
    args = argparse.Namespace(folder=out, labels="md17", minutes=0.01, second_rate=0.001, data=tmp_path, output=out)
    state = md17.run_one("water", "direct", args, store)
    assert state["stages"][0]["epochs"] >= 3 and state["inference_ms"] > 0
    assert md17.run_one("water", "direct", args, store) == state  # finished
    found = md17.write_results(args)
    short = json.loads((out / "md17.json").read_text())
    assert short["water"]["direct"] == pytest.approx(found["water"]["direct"]["forces"], abs=1e-4)
    assert found["water"]["direct"]["cpu_minutes"] > 0


def test_the_process_of_greatest_likelihood_learns_sums_over_atoms(challenge):
    rng = np.random.default_rng(0)
    n, pool = 260, 200
    n_atoms = rng.integers(3, 8, n)
    total = int(n_atoms.sum())
    number, x = rng.choice([1, 6, 8], total), rng.normal(size=(total, 2))
    owner = np.repeat(np.arange(n), n_atoms)
    energy = np.bincount(owner, np.sin(x[:, 0]) * np.where(number == 6, 2.0, -1.0) + 0.3 * x[:, 1] ** 2, n)
    counts = np.stack([np.bincount(owner[number == q], minlength=n) for q in challenge.ELEMENTS], 1).astype(float)
    nothing = np.full(n, np.nan)
    d = {"n_atoms": n_atoms, "number": number, "scalars": x, "atoms": x[:, :1], "counts": counts, "energy": energy}
    d |= {"levels": rng.normal(size=(n, 3)), "dftb3": nothing, "gfn2": nothing}
    c = challenge.covariances(d, pool)
    errors = []
    for size in (20, 150):
        predicted, parameters = challenge.fit_predict(c, energy, np.arange(size), np.arange(pool, n))
        errors.append(np.abs(predicted - energy[pool:]).mean())
    spread = np.abs(energy[pool:] - energy[pool:].mean()).mean()
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.3 * spread and parameters["noise"] < spread


def test_errors_are_averaged_over_seeds(challenge):
    rows = [{"baseline": "gfn2", "select": "fps", "n": 50, "mae": m} for m in (1.0, 3.0)]
    assert challenge.summarised(rows) == {("gfn2", "fps", 50): (2.0, 1.0)}


def test_surroundings_do_not_see_beyond_their_reach(challenge):
    z, x = np.array([6, 1, 8]), np.array([[0.0, 0, 0], [1.1, 0, 0], [challenge.REACH + 0.1, 0, 0]])
    found = challenge.surroundings(z, x).reshape(3, 5, -1)
    assert found[0, 0].max() > 0.5 and not found[0, 3].any() and found[0, 1].max() == 0
