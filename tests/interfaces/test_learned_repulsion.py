"""A network in place of DFTB's repulsion: energies and forces of the sum; networks that learned something else."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from schnorb_t.basis import Basis
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import DFTB
from schnorb_t.nn.energy import EnergyModel
from schnorb_t.training.checkpoint import ModelCard, write_checkpoint
from schnorb_t.training.configuration import parse_configuration
from schnorb_t.units import HARTREE
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def ob():
    return shared_data("skf/3ob-3-1")


def checkpoint(path, subtracted="DFTB3/3ob-3-1, electronic"):
    torch.manual_seed(0)
    basis = Basis("valence", {1: (0,), 8: (0, 1)}, core={8: 2})
    arguments = {"irreps": "4x0e+4x1o", "interactions": 1, "hidden": 4, "product_channels": 2, "cutoff": 3.5}
    level = {"functional": "PBE0", **({"subtracted": subtracted} if subtracted else {})}
    network = EnergyModel(basis, **arguments).double()
    write_checkpoint(path, network, ModelCard(arguments, basis, level, "energies", network="energy"), "")
    return path


def test_energy_and_forces(ob, tmp_path):
    path = checkpoint(tmp_path / "nnrep.ckpt")
    atoms, plain = (molecule("H2O2") for _ in range(2))
    atoms.positions += 0.05 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    plain.positions = atoms.positions
    atoms.calc, plain.calc = DFTB(ob, repulsion=path), DFTB(ob)
    network = atoms.calc.repulsion.network
    alone = network.energy(structures_to_batch([atoms.numbers], [atoms.positions], network.basis, 3.5)).item()
    own = plain.calc.model(plain.numbers).repulsion
    batch = structures_to_batch([atoms.numbers], [atoms.positions], plain.calc.model(plain.numbers).basis, 1.0)
    expected = plain.get_potential_energy() + (alone - own(batch).item()) * HARTREE
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-5)
    forces, x, energies = atoms.get_forces(), atoms.positions.copy(), []
    direction = np.random.default_rng(1).normal(size=x.shape)
    for sign in (1, -1):
        atoms.positions = x + sign * 1e-3 * direction
        energies.append(atoms.get_potential_energy())
    assert (forces * direction).sum() == pytest.approx(-(energies[0] - energies[1]) / 2e-3, abs=2e-3)


def test_what_is_no_repulsion_of_this_dftb(ob, tmp_path):
    with pytest.raises(UserError, match="less DFTB3/mio-1-1, electronic, and this DFTB wants those less DFTB3/3ob-3-1"):
        DFTB(ob, repulsion=checkpoint(tmp_path / "a.ckpt", "DFTB3/mio-1-1, electronic"))
    with pytest.raises(UserError, match="as they are.*subtract-dftb"):
        DFTB(ob, repulsion=str(checkpoint(tmp_path / "b.ckpt", "")))
    with pytest.raises(UserError, match="wants those less DFTB2"):
        DFTB(ob, order=2, repulsion=checkpoint(tmp_path / "c.ckpt"))
    with pytest.raises(UserError, match="predicts matrices"):
        DFTB(ob, repulsion="qm9")
    with pytest.raises(UserError, match="nowhere.ckpt"):
        DFTB(ob, repulsion=tmp_path / "nowhere.ckpt")
    atoms = molecule("CH4")
    atoms.calc = DFTB(ob, repulsion=tmp_path / "c.ckpt")
    with pytest.raises(UserError, match="c.ckpt: knows no C"):
        atoms.get_potential_energy()


def test_the_configuration_that_ships():
    config = parse_configuration("nnrep")
    assert config.model.architecture == "energy" and config.data.cutoff == 4.0
    assert config.model.network.charge_channels == 0
