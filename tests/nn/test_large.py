"""A model on a large molecule: piece by piece the same as at once."""

import numpy as np
import pytest
import torch

import schnorb_t
from schnorb_t import keys
from schnorb_t.data import batch as batches
from schnorb_t.data.batch import pair_list, structures_to_batch
from schnorb_t.nn import large
from schnorb_t.nn.neighbourhoods import Rows, neighbourhoods, spatial_groups


def waters(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Molecules of water at the density of the liquid, turned at random."""
    random = np.random.default_rng(seed)
    k = int(np.ceil(n ** (1 / 3)))
    corners = np.stack(np.meshgrid(*[np.arange(k)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * 3.1
    water = np.array([[0.0, 0.0, 0.0], [0.0, 0.76, -0.59], [0.0, -0.76, -0.59]])
    turns = np.linalg.qr(random.normal(size=(n, 3, 3)))[0]
    r = water @ turns + corners[:, None] + random.normal(0, 0.05, (n, 1, 3))
    return np.tile([8, 1, 1], n), r.reshape(-1, 3)


def small_pieces(monkeypatch) -> None:
    for name, value in dict(PIECE=100, TRIANGLE_GROUP=5, CHAIN_GROUP=4, POTENTIAL_BLOCK=100, FROM_ATOMS=1).items():
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(large.LargeMolecule.pieces, "__defaults__", (100,))
    monkeypatch.setattr(large.LargeMolecule.near, "__defaults__", (70,))


@pytest.mark.parametrize("name", ["organic", "qm9", "def2svp"])
def test_pieces_give_what_the_whole_gives(name, monkeypatch):
    """In float64, so that only a mistake could make a difference; every part that a shipped model has."""
    small_pieces(monkeypatch)
    predictor = schnorb_t.load(name, device="cpu", dtype=torch.float64)
    model = predictor.model
    z, r = waters(7)
    r = np.concatenate((r, [[40.0, 0.0, 0.0]]))  # neon's place: an atom without neighbours
    z = np.concatenate((z, [1]))
    batch = structures_to_batch([z], [r], model.basis, model.cutoff)
    with torch.no_grad():
        whole = model.blocks_from(model.features(batch), batch)
        pieces = model.blocks(batch)
    assert whole.keys() == pieces.keys()
    for key, a in whole.items():
        b = pieces[key]
        assert b.onsite.dtype == a.onsite.dtype
        # tables of some deviations are float32
        tolerance = 1e-7 if key == "hamiltonian_deviations" else 1e-12
        assert (a.onsite - b.onsite).abs().max() < tolerance and (a.offsite - b.offsite).abs().max() < tolerance, key
        if key != "hamiltonian_deviations":
            assert torch.equal(b.offsite[batch[keys.PAIR_REVERSE]], b.offsite.mT)  # symmetric to the last bit


def test_gradients_and_batches_go_the_usual_way(monkeypatch):
    small_pieces(monkeypatch)
    model = schnorb_t.load("organic", device="cpu").model
    monkeypatch.setattr(large.LargeMolecule, "blocks", lambda self: pytest.fail("taken"))
    z, r = waters(2)
    two = structures_to_batch([z, z], [r, r], model.basis, model.cutoff)
    with torch.no_grad():
        model.blocks(two)
    model.blocks(structures_to_batch([z], [r], model.basis, model.cutoff))["hamiltonian"].onsite.sum().backward()
    with pytest.raises(ValueError, match="alone"):
        large.LargeMolecule(model, two)


def test_neighbours_of_large_molecules_are_those_of_small_ones(monkeypatch):
    """A k-d tree and all pairs give the same list in the same order, in batches of both kinds too."""
    sizes = np.array([30, 9, 150, 30])
    r = np.concatenate([waters(n // 3, seed)[1] for seed, n in enumerate(sizes)])
    usual = pair_list(sizes, r, 6.0)
    for limit in (1, 20, 100):
        monkeypatch.setattr(batches, "LARGE", limit)
        for a, b in zip(usual, pair_list(sizes, r, 6.0), strict=True):
            assert np.array_equal(a, b)
    i, j = usual[0]
    assert np.array_equal(usual[0][:, usual[1]], np.stack((j, i)))


def test_products_over_common_neighbours():
    """Against dense matrices, with different pairs for both factors and for the result."""
    torch.manual_seed(0)
    n = 40
    r = torch.rand(n, 3, dtype=torch.float64) * 10
    distance = torch.cdist(r, r)
    x, y = torch.randn(2, n, n, dtype=torch.float64)
    masks = distance < 4.0, distance < 5.0, distance < 6.0
    left, right, target = (Rows.of(*mask.nonzero().T, n) for mask in masks)
    wanted = ((x * masks[0]) @ (y * masks[1]))[masks[2]]
    found = torch.full_like(wanted, torch.nan)
    groups = spatial_groups(r, 6)
    assert torch.equal(torch.cat(groups).sort().values, torch.arange(n)) and max(map(len, groups)) <= 6
    for s in neighbourhoods(groups, left, right, target):
        a = x.new_zeros(len(s.atoms) * len(s.k)).index_copy(0, s.left_at, x[masks[0]][s.left])
        b = y.new_zeros(len(s.k) * len(s.j)).index_copy(0, s.right_at, y[masks[1]][s.right])
        z = a.reshape(len(s.atoms), -1) @ b.reshape(len(s.k), -1)
        found[s.target] = z.reshape(-1)[s.target_at]
    assert (found - wanted).abs().max() < 1e-12
