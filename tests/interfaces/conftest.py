"""The tiny model of the training tests, fitted to two-centre functions."""

import pytest

import schnorb_t
from tests.training.examples import fitted_model, write_checkpoint, write_store


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interfaces")
    store = write_store(folder / "toy.h5")
    return write_checkpoint(folder / "toy.ckpt", fitted_model(store), store)


@pytest.fixture(scope="session")
def model(checkpoint):
    return schnorb_t.load(checkpoint, device="cpu")
