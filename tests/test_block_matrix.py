"""Block matrices: padded, sparse and back."""

import numpy as np
import pytest
import scipy.sparse
import torch

from schnorb_t import keys
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.data.batch import structures_to_batch
from tests.training.examples import BASIS

CUTOFF = 3.0


@pytest.fixture(scope="module")
def batch():
    """Molecules of different size, of which the second has no pair and the third pairs within the cutoff only."""
    rng = np.random.default_rng(0)
    numbers = [np.array([8, 1, 1]), np.array([6]), np.array([6, 1, 7, 8, 1, 6])]
    positions = [rng.normal(0, 0.8, (3, 3)), np.zeros((1, 3)), rng.normal(0, 0.1, (6, 3)) + np.arange(6)[:, None]]
    return structures_to_batch(numbers, positions, BASIS, CUTOFF)


def random_blocks(batch, *front):
    n, p, k = len(batch[keys.ATOMIC_NUMBERS]), batch[keys.PAIR_INDEX].shape[1], BASIS.n_slots
    generator = torch.Generator().manual_seed(1)
    onsite, offsite = (torch.randn(*front, m, k, k, dtype=torch.float64, generator=generator) for m in (n, p))
    return BlockMatrix(onsite, offsite, BlockIndex.of(batch))


def by_hand(blocks, batch):
    """Element by element."""
    b, m = batch[keys.ORBITAL_MASK].shape
    out = np.zeros((b, m, m))
    places, molecule = batch[keys.ORBITAL_INDEX], batch[keys.MOLECULE]
    pairs = [(a, a, block) for a, block in enumerate(blocks.onsite)]
    pairs += [(int(i), int(j), block) for (i, j), block in zip(batch[keys.PAIR_INDEX].T, blocks.offsite, strict=True)]
    for i, j, block in pairs:
        for x, row in enumerate(places[i].tolist()):
            for y, column in enumerate(places[j].tolist()):
                if row < m and column < m:
                    out[molecule[i], row, column] = block[x, y]
    return out


def test_padded_is_every_element_in_its_place(batch):
    blocks = random_blocks(batch)
    assert np.array_equal(blocks.padded().numpy(), by_hand(blocks, batch))
    assert 0 < len(batch[keys.PAIR_INDEX].T) < 6 * 5 + 3 * 2  # some pairs are beyond the cutoff


def test_sparse_equals_padded(batch):
    blocks = random_blocks(batch)
    padded, sizes = blocks.padded().numpy(), batch[keys.ORBITAL_MASK].sum(1).tolist()
    sparse = blocks.sparse()
    assert len(sparse) == 3
    for matrix, dense, m in zip(sparse, padded, sizes, strict=True):
        assert scipy.sparse.issparse(matrix) and matrix.format == "csr" and matrix.shape == (m, m)
        assert np.array_equal(matrix.toarray(), dense[:m, :m]) and matrix.has_canonical_format
    assert sparse[2].nnz < sizes[2] ** 2
    pairs = batch[keys.PAIR_INDEX]
    counts = torch.from_numpy(BASIS.n_orbitals(batch[keys.ATOMIC_NUMBERS].numpy()))
    assert sum(s.nnz for s in sparse) == int((counts**2).sum() + (counts[pairs[0]] * counts[pairs[1]]).sum())


def test_several_matrices_at_once(batch):
    blocks = random_blocks(batch, 2)
    each = [BlockMatrix(a, b, blocks.index) for a, b in zip(blocks.onsite, blocks.offsite, strict=True)]
    assert torch.equal(blocks.padded(), torch.stack([m.padded() for m in each]))
    with pytest.raises(ValueError, match="several matrices"):
        blocks.sparse()
    assert torch.equal(BlockMatrix.mean(each).padded(), (each[0].padded() + each[1].padded()) / 2)
    assert torch.equal((each[0] + 2.0 * each[1]).padded(), each[0].padded() + 2.0 * each[1].padded())


def test_blocks_of_padded_matrices(batch):
    blocks = random_blocks(batch)
    again = BlockMatrix.from_padded(blocks.padded(), blocks.index)
    assert torch.equal(again.padded(), blocks.padded())
    m = batch[keys.ORBITAL_MASK].shape[1]
    filled = batch[keys.ORBITAL_INDEX] < m
    assert (again.onsite[~(filled[:, :, None] & filled[:, None])] == 0).all()


def test_gradients_reach_real_elements_alone(batch):
    blocks = random_blocks(batch)
    for part in (blocks.onsite, blocks.offsite):
        part.requires_grad_()
    blocks.padded().sum().backward()
    filled = (batch[keys.ORBITAL_INDEX] < batch[keys.ORBITAL_MASK].shape[1]).double()
    assert torch.equal(blocks.onsite.grad, filled[:, :, None] * filled[:, None])
    i, j = batch[keys.PAIR_INDEX]
    assert torch.equal(blocks.offsite.grad, filled[i][:, :, None] * filled[j][:, None])
