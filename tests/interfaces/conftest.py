"""The tiny model of the training tests, fitted to two-centre functions."""

import pytest

import schnorb_t
from tests.training.examples import toy_files


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interfaces")
    return toy_files(folder)[0]


@pytest.fixture(scope="session")
def model(checkpoint):
    return schnorb_t.load(checkpoint, device="cpu")
