"""The loss ``occupied_virtual_mixing`` is what an SCF has to repair: electrons in the wrong orbitals."""

import pytest
import torch

from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.training.losses import Quantities


def test_twice_its_sum_of_squares_is_the_number_of_misplaced_electrons():
    batch = next(iter(MatrixDataModule(batch_size=6).train_dataloader()))
    reference = Quantities(batch, batch["hamiltonian"], batch["overlap"])
    mask = batch["orbital_mask"]
    real = (mask[:, :, None] & mask[:, None]).double()
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * real
    changed = Quantities(batch, batch["hamiltonian"] + 1e-5 * (noise + noise.mT), batch["overlap"], reference)
    mixing, wanted = changed["occupied_virtual_mixing"]
    n = batch["n_occupied"].double()
    assert torch.equal(wanted.sum((1, 2)), (n * (mask.sum(1) - n)).long())
    expected = 2 * torch.where(wanted, mixing, 0.0).square().sum((1, 2))
    occupied = reference.levels(None, 0)[:, None]
    c0, c = (torch.where(occupied, q.orbitals()[1], 0.0) for q in (reference, changed))
    # 1 - |C0^T S C|^2 would drown in rounding: the part of C outside of C0 instead
    outside = c - c0 @ (c0.mT @ batch["overlap"] @ c)
    misplaced = 2 * torch.einsum("bmi,bmn,bni->b", outside, batch["overlap"].double(), outside)
    assert misplaced.min() > 0
    assert misplaced.tolist() == pytest.approx(expected.tolist(), rel=1e-2)
