"""Each metric against numpy done molecule by molecule."""

import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from schnorb_t import keys
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.batch_sizes import MAX_PAIRS, batches_by_size
from schnorb_t.training.evaluation import (
    DEGENERATE,
    OrbitalLevels,
    baseline_metrics,
    evaluate_model,
    matrices_of,
    orbital_similarity,
)
from schnorb_t.units import HARTREE

from .examples import BASIS, fitted_model, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("evaluation") / "toy.h5")


@pytest.fixture(scope="module")
def model(store):
    return fitted_model(store)


class Echo(torch.nn.Module):
    """Answers with the labels, changed by a function of H and S."""

    def __init__(self, change=lambda h, s: (h, s)):
        super().__init__()
        self.basis, self.cutoff, self.change = BASIS, 8.0, change
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def blocks(self, batch):
        changed = self.change(batch[keys.HAMILTONIAN], batch[keys.OVERLAP])
        return [BlockMatrix.from_padded(x, BlockIndex.of(batch)) for x in changed]

    def matrices(self, blocks, batch):
        h, s = (b.padded() for b in blocks)
        return {keys.HAMILTONIAN: h, keys.OVERLAP: s}


def molecule_by_molecule(model, store, indices):
    """The metrics by numpy and scipy, one molecule at a time."""
    sums, counts = {}, {}

    def add(name, values):
        values = np.atleast_1d(values)
        sums[name] = sums.get(name, 0.0) + np.abs(values).sum()
        counts[name] = counts.get(name, 0) + values.size

    lowest = np.inf
    for i in indices:
        record = store[int(i)]
        h, s = matrices_of(model, record)
        atom = np.repeat(np.arange(len(record.atomic_numbers)), BASIS.n_orbitals(record.atomic_numbers))
        same = atom[:, None] == atom[None]
        for name, x, y in (("hamiltonian", h, record.hamiltonian), ("overlap", s, record.overlap)):
            add(name, x - y)
            add(f"{name}_onsite", (x - y)[same])
            add(f"{name}_offsite", (x - y)[~same])
        lowest = min(lowest, scipy.linalg.eigvalsh(s)[0])
        e, c = scipy.linalg.eigh(h, s)
        e0, c0 = scipy.linalg.eigh(record.hamiltonian, record.overlap)
        n = record.n_electrons // 2
        core = int((record.atomic_numbers > 2).sum())
        large = record.large_basis_energies
        add("occupied_energy", (e - e0)[:n])
        add("valence_occupied_energy", (e - e0)[core:n])
        add("occupied_energy_large", e[:n] - large[:n])
        for name, level in (("homo", n - 1), ("lumo", n)):
            add(name, e[level] - e0[level])
            add(f"{name}_large", e[level] - large[level])
        add("gap", e[n] - e[n - 1] - e0[n] + e0[n - 1])
        add("gap_large", e[n] - e[n - 1] - large[n] + large[n - 1])
        k = 0
        while k < n:
            end = k + 1
            while end < n and e0[end] - e0[end - 1] <= DEGENERATE:
                end += 1
            q = c[:, k:end]
            q = q @ scipy.linalg.inv(scipy.linalg.sqrtm(q.T @ record.overlap @ q))
            add("similarity", scipy.linalg.svdvals(c0[:, k:end].T @ record.overlap @ q))
            k = end
    return {name: sums[name] / counts[name] for name in sums} | {"lowest": lowest}


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_metrics_equal_those_done_molecule_by_molecule(store, model, batch_size):
    indices = np.concatenate((store.indices("test"), store.indices("train")[:3]))
    found = evaluate_model(model, store, indices, batch_size=batch_size)
    expected = molecule_by_molecule(model, store, indices)
    assert found["n_molecules"] == len(indices) and found["n_without_solution"] == 0
    tolerance = dict(rel=2e-4, abs=1e-7)  # the network works in float32, and sums in another order
    for name in ("hamiltonian", "hamiltonian_onsite", "hamiltonian_offsite"):
        assert found[f"{name}_mae_eh"] == pytest.approx(expected[name], **tolerance)
        assert found[f"{name}_mae_eh"] > 1e-5
    for name in ("overlap", "overlap_onsite", "overlap_offsite"):
        assert found[f"{name}_mae"] == pytest.approx(expected[name], **tolerance)
    for name in ("occupied_energy", "valence_occupied_energy", "homo", "lumo", "gap"):
        assert found[f"{name}_mae_eh"] == pytest.approx(expected[name], **tolerance)
        assert found[f"{name}_mae_ev"] == pytest.approx(HARTREE * found[f"{name}_mae_eh"], rel=1e-12)
    for name in ("occupied_energy", "homo", "lumo", "gap"):
        assert found[f"{name}_mae_eh_large_basis"] == pytest.approx(expected[f"{name}_large"], **tolerance)
    assert found["occupied_similarity"] == pytest.approx(expected["similarity"], abs=1e-4)
    assert 0.3 < found["occupied_similarity"] < 1.0
    assert found["min_overlap_eigenvalue"] == pytest.approx(expected["lowest"], rel=1e-4)
    assert set(found["seconds_per_molecule"]) == {"network", "assembly", "eigenproblem"}
    assert all(0 < x < 10 for x in found["seconds_per_molecule"].values())


def test_the_labels_themselves_are_without_error(store):
    levels = OrbitalLevels()
    found = evaluate_model(Echo(), store, store.indices("all"), levels=levels)
    assert found["hamiltonian_mae_eh"] == found["overlap_mae"] == 0.0
    assert max(v for k, v in found.items() if "mae" in k) < 1e-12
    assert found["occupied_similarity"] == pytest.approx(1.0, abs=1e-12)  # methane and benzene are degenerate
    predicted, reference = levels.pairs("homo")
    assert len(predicted) == len(store) and np.array_equal(predicted, reference)
    core = sum(int((store[i].atomic_numbers > 2).sum()) for i in range(len(store)))
    assert levels.pairs("occupied").shape[1] == store.n_electrons.sum() // 2 - core


def test_a_shift_of_all_levels_is_found_where_it_is(store):
    shifted = evaluate_model(Echo(lambda h, s: (h + 0.01 * s, s)), store, store.indices("test"))
    for name in ("occupied_energy", "valence_occupied_energy", "homo", "lumo"):
        assert shifted[f"{name}_mae_eh"] == pytest.approx(0.01, abs=1e-12)
    assert shifted["gap_mae_eh"] < 1e-12
    assert shifted["occupied_similarity"] == pytest.approx(1.0, abs=1e-12)


def test_an_overlap_that_is_not_positive_definite_is_counted_and_left_out(store):
    def spoil(h, s):
        s = s.clone()
        s[0] = s[0] - 0.9 * torch.eye(s.shape[1])  # the first of each batch
        return h, s

    indices = store.indices("test")
    found = evaluate_model(Echo(spoil), store, indices, batch_size=len(indices))
    assert found["n_without_solution"] == 1 and found["n_molecules"] == len(indices)
    assert found["min_overlap_eigenvalue"] < 0 and found["overlap_mae"] > 0
    assert found["homo_mae_eh"] < 1e-12 and found["occupied_similarity"] == pytest.approx(1.0)
    alone = evaluate_model(Echo(spoil), store, indices, batch_size=1)
    assert alone["n_without_solution"] == len(indices)
    assert math.isnan(alone["homo_mae_eh"]) and math.isnan(alone["occupied_similarity"])


def test_nothing_to_evaluate_gives_nan_not_a_crash(store, model):
    found = evaluate_model(model, store, [])
    assert found["n_molecules"] == 0 and math.isnan(found["hamiltonian_mae_eh"])


def test_similarity_sees_a_degenerate_set_as_a_subspace(store):
    benzene = next(store[i] for i in range(len(store)) if store.names[i] == "C6H6")
    batch = records_to_batch([benzene], BASIS, 8.0)
    e, c = (torch.from_numpy(x)[None] for x in scipy.linalg.eigh(benzene.hamiltonian, benzene.overlap))
    n = int(batch[keys.N_OCCUPIED][0])
    pairs = [k for k in range(n - 1) if e[0, k + 1] - e[0, k] < 1e-8]
    assert pairs, "benzene must have degenerate occupied levels"
    k = pairs[-1]
    mixed = c.clone()
    angle = 0.7
    mixed[0, :, k] = math.cos(angle) * c[0, :, k] + math.sin(angle) * c[0, :, k + 1]
    mixed[0, :, k + 1] = math.cos(angle) * c[0, :, k + 1] - math.sin(angle) * c[0, :, k]
    s = batch[keys.OVERLAP]
    assert orbital_similarity(e, c, mixed, s, batch[keys.N_OCCUPIED]).item() == pytest.approx(n, abs=1e-9)
    # mixing an occupied with an empty orbital is no freedom: one cosine falls to cos(angle)
    mixed = c.clone()
    mixed[0, :, 0] = math.cos(angle) * c[0, :, 0] + math.sin(angle) * c[0, :, n]
    expected = n - 1 + math.cos(angle)
    assert orbital_similarity(e, c, mixed, s, batch[keys.N_OCCUPIED]).item() == pytest.approx(expected, abs=1e-9)


def test_two_centre_fit_beats_mean_blocks_on_two_centre_labels(store):
    found = baseline_metrics(store, store.indices("train"), store.indices("test"), 8.0)
    assert set(found) == {"mean_block", "two_centre"}
    assert found["two_centre"]["hamiltonian_mae_eh"] < 0.2 * found["mean_block"]["hamiltonian_mae_eh"]
    assert found["two_centre"]["overlap_mae"] < 0.2 * found["mean_block"]["overlap_mae"]
    assert found["two_centre"].keys() == evaluate_model(Echo(), store, []).keys()


def test_evaluation_leaves_the_model_as_it_was(store, model):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate_model(model, store, store.indices("test"))
    assert model.training
    model.eval()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert json.dumps(evaluate_model(model, store, store.indices("test")))


def test_batches_hold_each_molecule_once_and_keep_to_their_limit():
    sizes = np.random.default_rng(0).integers(1, 40, 300)
    for batch_size, limit in ((None, 300), (7, 7), (1000, 300)):
        batches = batches_by_size(sizes, batch_size)
        assert sorted(p for b in batches for p in b) == list(range(300))
        assert max(map(len, batches)) <= limit
        flat = sizes[[p for b in batches for p in b]]
        assert (np.diff(flat) <= 0).all()
    assert all(len(b) == 1 for b in batches_by_size([500, 400, 300]))
    assert max((sizes[b] ** 2).sum() for b in batches_by_size(sizes)) <= MAX_PAIRS["cpu"]
    with pytest.raises(ValueError, match="batch size"):
        batches_by_size([1], 0)
