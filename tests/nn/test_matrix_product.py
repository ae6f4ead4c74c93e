"""Products of learned matrices, against an explicit product of assembled blocks."""

import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.blocks import OffsiteBlocks
from schnorb_t.nn.embedding import polynomial_cutoff
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.matrix_product import MatrixProduct, block_irreps
from schnorb_t.nn.o2 import irrep_list, o2_scale
from tests.nn.molecules import minimal_basis, structures

pytest.importorskip("pyscf")
IRREPS, WIDTHS, C = "6x0e+4x1o+3x1e+4x2e+2x2o", [8, 4, 6, 4], 3


@pytest.mark.parametrize("layout", [(0, 1), (0, 0, 1), (0, 1, 2)])
def test_features_of_blocks_invert_the_coupling(layout):
    """Patterns are orthonormal: blocks -> features -> blocks loses nothing."""
    couplings = OffsiteBlocks(layout, [1] * (2 * max(layout) + 2), 1)
    k = couplings.k
    blocks = torch.randn(5, 2, k * k, dtype=torch.float64)
    back = 0
    for kind, (y, count) in enumerate(zip(couplings.features(blocks), couplings.counts, strict=True)):
        y = (y[:, None] if kind < 2 else y).unflatten(2, (2, count)).transpose(1, 2).flatten(2)
        back = back + y @ getattr(couplings, f"pattern_{kind}")
    torch.testing.assert_close(back, blocks)


def test_irreps_of_a_block_are_complete():
    patterns = torch.cat([p.flatten(0, 1) for p in block_irreps().values()])
    torch.testing.assert_close(patterns @ patterns.T, torch.eye(16, dtype=torch.float64))


def test_against_an_explicit_product():
    """Z_ij = sum over all atoms k of the molecule; X and Y put together block by block."""
    torch.manual_seed(0)
    basis = minimal_basis()
    layer = MatrixProduct(IRREPS, "6x0e+4x1o", WIDTHS, len(basis.elements), 10.0, 6, 8, C, 4).double()
    batch = structures_to_batch(*structures(), basis, 10.0)
    g = Geometry(basis, 10.0, 2)(batch)
    n, p = len(batch[keys.ATOMIC_NUMBERS]), batch[keys.PAIR_INDEX].shape[1]
    x = {name: torch.randn(n, 2 * l + 1, c, dtype=torch.float64) for name, l, _, c in irrep_list(IRREPS)}
    pairs = [torch.randn(p, w, dtype=torch.float64) for w in WIDTHS[:2]]
    pairs += [torch.randn(p, 2, w, dtype=torch.float64) for w in WIDTHS[2:]]
    taken = {}
    layer.to_pairs.register_forward_pre_hook(lambda _, args: taken.update(pairs=args[0]))
    layer.to_atoms.register_forward_pre_hook(lambda _, args: taken.update(atoms=args[0]))
    with torch.no_grad():
        atoms, _ = layer(x, pairs, g)
        onsite, offsite = layer.onsite(x, g.element), layer.offsite(pairs)
        filters = layer.filters(g.element_i, g.element_j, g.distance)
    assert not torch.equal(atoms["1o"], x["1o"]) and torch.equal(atoms["2e"], x["2e"])
    strength, back = filters.split((2 * C, sum(layer.to_pairs.widths_in)), 1)
    strength = strength * polynomial_cutoff(g.distance, 10.0, 6)[:, None]
    turn = torch.zeros(p, 4, 4, dtype=torch.float64)
    turn[:, 0, 0], turn[:, 1:, 1:] = 1.0, g.wigner[1]
    full = torch.zeros(2 * C, 4 * n, 4 * n, dtype=torch.float64)
    for a in range(n):
        full[:, 4 * a : 4 * a + 4, 4 * a : 4 * a + 4] = onsite[:, a]
    for q, (i, j) in enumerate(batch[keys.PAIR_INDEX].T.tolist()):
        block = turn[q].T @ (offsite[:, q] * strength[q][:, None, None]) @ turn[q]
        full[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = block
    z = full[:C] @ full[C:]
    blocks = torch.stack(
        [
            turn[q] @ z[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] @ turn[q].T
            for q, (i, j) in enumerate(batch[keys.PAIR_INDEX].T.tolist())
        ]
    )
    for got, wanted in zip(taken["pairs"], o2_scale(layer.offsite.features(blocks.flatten(2)), back), strict=True):
        torch.testing.assert_close(got, wanted.detach())
    own = torch.stack([z[:, 4 * a : 4 * a + 4, 4 * a : 4 * a + 4] for a in range(n)]).flatten(2)
    for name, pattern in block_irreps().items():
        wanted = torch.einsum("ncq,mkq->nmck", own, pattern).flatten(2)
        torch.testing.assert_close(taken["atoms"][name], wanted)
