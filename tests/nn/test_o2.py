"""Between the molecule's frame and the bonds': features of atoms to O(2) features of pairs and back."""

import pytest
import torch
from e3nn import o3

from schnorb_t.harmonics import bond_frames, wigner_d
from schnorb_t.nn.interaction import Interaction
from schnorb_t.nn.o2 import ToBondFrame, irrep_list, o2_widths

#: the second one's irreps stand neither sorted nor grouped by l
IRREPS = "4x0e+3x1o+2x1e+3x2e+2x2o", "2x2o+3x1e+4x2e+1x1o+5x0e+2x0o"


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randint(0, 6, (2, 30), generator=generator)
    bonds = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    return atoms, wigner_d(bond_frames(bonds), 2)


def features(irreps: str, n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(n, 2 * l + 1, c, generator=generator, dtype=torch.float64)
        for name, l, _, c in irrep_list(irreps)
    }


@pytest.mark.parametrize("irreps", IRREPS)
def test_there_and_back(pairs, irreps):
    (i, _), wigner = pairs
    frame, x = ToBondFrame(irreps), features(irreps, 6)
    o2 = frame(x, wigner, i)
    assert [t.shape[-1] for t in o2] == o2_widths(irreps)
    for name, t in frame.back(o2, wigner).items():
        torch.testing.assert_close(t, x[name][i], rtol=0, atol=1e-13)


@pytest.mark.parametrize("irreps", IRREPS)
def test_each_irrep_by_itself(pairs, irreps):
    """Channels stand in the order of the irreps, m = 0 of natural parity in even, of pseudo tensors in odd."""
    (i, _), wigner = pairs
    x = features(irreps, 6)
    items = irrep_list(irreps)
    o2 = ToBondFrame(irreps)(x, wigner, i)
    alone = {name: wigner[l] @ x[name][i] for name, l, _, _ in items}
    even = [alone[name][:, l] for name, l, natural, _ in items if natural]
    odd = [alone[name][:, l] for name, l, natural, _ in items if not natural]
    for part, wanted in ((o2[0], even), (o2[1], odd)):
        torch.testing.assert_close(part, torch.cat(wanted, -1), rtol=0, atol=1e-13)
    for m in (1, 2):
        cos_sin = [
            (alone[name][:, l + m], alone[name][:, l - m])
            if natural
            else (-alone[name][:, l - m], alone[name][:, l + m])
            for name, l, natural, _ in items
            if l >= m
        ]
        wanted = torch.cat([torch.stack(both, 1) for both in cos_sin], -1)
        torch.testing.assert_close(o2[m + 1], wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("irreps", IRREPS)
def test_both_atoms_at_once(pairs, irreps):
    (i, j), wigner = pairs
    frame, x = ToBondFrame(irreps), features(irreps, 6)
    gathered = [frame({name: t[k] for name, t in x.items()}, wigner) for k in (i, j)]
    for got, first, second in zip(frame(x, wigner, i, j), *gathered, strict=True):
        torch.testing.assert_close(got, torch.cat((first, second), -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("irreps", IRREPS)
def test_even_features_alone(pairs, irreps):
    """The short way of a message that only scalars make gives what the long way does with zeros elsewhere."""
    _, wigner = pairs
    frame, widths = ToBondFrame(irreps), o2_widths(irreps)
    even = torch.randn(30, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    zeros = [even.new_zeros(30, widths[1]), *(even.new_zeros(30, 2, w) for w in widths[2:])]
    short, full = frame.back([even], wigner), frame.back([even, *zeros], wigner)
    assert set(short) == {name for name, _, natural, _ in frame.items if natural}
    for name, t in full.items():
        torch.testing.assert_close(t, short.get(name, torch.zeros_like(t)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("irreps", ["5x0e", "5x0e+2x0o", "5x0e+2x1o"])
def test_messages_of_scalars_are_even(irreps):
    interaction = Interaction(irreps, "6x0e+4x1o+2x1e+3x2e", 3, 5.0, 6, 8, 4)
    assert interaction.of_scalars == (o3.Irreps(irreps).dim == 5)
