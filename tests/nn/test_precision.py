"""float32 is good enough for prediction: levels of every shipped model are those of float64 within 1 meV."""

import copy

import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.physics.eigen import orbitals
from schnorb_t.training.checkpoint import MODELS, find_model, load_model
from schnorb_t.units import HARTREE
from tests.nn.molecules import structures


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.ckpt")))
def test_float32_within_1_mev(name):
    model, _ = load_model(find_model(name))
    batch = structures_to_batch(*structures(("CH3CONH2", "HCN", "C6H6")), model.basis, model.cutoff)
    mask, levels = batch[keys.ORBITAL_MASK], []
    for net in (model.eval(), copy.deepcopy(model).double()):  # float32 as loaded: tables of S stay float64
        with torch.no_grad():
            levels.append(orbitals(net(batch), mask)[0])
    error = (levels[0] - levels[1]).abs()[torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True)]
    assert 0 < HARTREE * np.max(error.numpy()) < 1e-3
