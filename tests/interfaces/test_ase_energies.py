"""ASE with a model of energies and forces: optimisers, NEB, vibrations, dynamics; a trajectory that doubt stops."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from schnorb_t.basis import Basis
from schnorb_t.commands.md import md
from schnorb_t.energy_predictor import EnergyPredictor, load_energies
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import SchNOrbT, Stopped
from schnorb_t.interfaces.dynamics import Settings, degrees_of_freedom, read_trajectory, run_dynamics, temperature
from schnorb_t.interfaces.dynamics_report import broken_bonds, overlap_of_distributions, summary, vibrational_density
from schnorb_t.nn.energy import EnergyModel
from schnorb_t.training.checkpoint import ModelCard, load_model, write_checkpoint

BASIS = Basis("valence", {1: (0,), 6: (0, 1), 8: (0, 1)}, core={6: 2, 8: 2})


class Springs(EnergyModel, known_as=None):
    """An energy network of known answer: springs between all atoms of water at its equilibrium, and a random part."""

    def energy(self, batch):
        i, j = batch["pair_index"]
        r = (batch["positions"][i] - batch["positions"][j]).double().norm(dim=1)
        h = (batch["atomic_numbers"][batch["pair_index"]] == 1).all(0)
        rest = torch.where(h, 1.52, 0.96)
        springs = torch.zeros(len(batch["n_atoms"]), dtype=torch.float64)
        springs = springs.index_add(0, batch["molecule"][i], 0.15 * (r - rest).square())
        return springs + 1e-3 * super().energy(batch)


def network(kind=EnergyModel):
    torch.manual_seed(0)
    return kind(BASIS, "8x0e+4x1o", interactions=2, hidden=8, product_channels=4).eval()


@pytest.fixture(scope="module")
def energies(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "energies.ckpt"
    arguments = {"irreps": "8x0e+4x1o", "interactions": 2, "hidden": 8, "product_channels": 4}
    card = ModelCard(arguments, BASIS, {"method": "none"}, "energies", network="energy")
    write_checkpoint(path, network(), card, "")
    return path


@pytest.fixture
def springs():
    card = ModelCard({}, BASIS, {}, "energies", network="energy")
    return SchNOrbT(EnergyPredictor(network(Springs), card, dtype=torch.float64))


def test_a_checkpoint_of_energies(energies):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    atoms.calc = SchNOrbT(str(energies), dtype=torch.float64)
    assert atoms.calc.implemented_properties == ["energy", "free_energy", "forces"]
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    moved = atoms.copy()
    moved.calc = atoms.calc
    moved.positions[3, 1] += 1e-4
    plus = moved.get_potential_energy()
    moved.positions[3, 1] -= 2e-4
    assert (plus - moved.get_potential_energy()) / 2e-4 == pytest.approx(-forces[3, 1], abs=1e-6)
    both = atoms.calc.calculate_trajectory([molecule("H2O"), atoms])
    assert both[1]["energy"] == pytest.approx(energy, abs=1e-9) and both[0]["forces"].shape == (3, 3)
    with pytest.raises(NotImplementedError, match="there are energy"):
        atoms.calc.get_property("homo", atoms)
    with pytest.raises(UserError, match="predicts no matrices"):
        load_model(energies)
    with pytest.raises(UserError, match="H, C, O"):
        SchNOrbT(str(energies)).get_property("energy", molecule("NH3"))


def test_orbitals_and_energies_in_one_calculator(model, energies):
    atoms = molecule("H2O")
    atoms.calc = SchNOrbT(model, energies=load_energies(energies))
    assert atoms.get_forces().shape == (3, 3) and "homo" not in atoms.calc.results
    assert atoms.calc.get_property("gap", atoms) > 0 and "forces" in atoms.calc.results
    with pytest.raises(UserError, match="a model of energies already"):
        SchNOrbT(str(energies), energies=str(energies))
    with pytest.raises(UserError, match="tells no doubt"):
        SchNOrbT(str(energies), stop_above=0.1)


def test_doubt_stops_a_trajectory_and_the_frame_is_saved(energies, tmp_path):
    frame = tmp_path / "far.extxyz"
    calculator = SchNOrbT("organic", energies=str(energies), stop_above=5.0, stopped_frame=frame)
    atoms = molecule("H2O")
    atoms.calc = calculator
    atoms.get_forces()  # within the domain
    calculator.stop_above = 1e-6
    atoms.positions[1, 2] += 0.01
    with pytest.raises(Stopped, match="beyond stop_above") as stopped:
        BFGS(atoms, logfile=None).run(steps=2)
    assert np.allclose(read(frame).positions, atoms.positions) and stopped.value.doubt > 1e-6
    assert read(frame).info["doubt"] == pytest.approx(stopped.value.doubt)


def test_optimiser_vibrations_and_neb(springs, tmp_path):
    water = molecule("H2O")
    water.rattle(0.05, seed=2)
    water.calc = springs
    assert BFGS(water, logfile=None).run(fmax=1e-4, steps=60)
    vibrations = Vibrations(water, name=str(tmp_path / "vib"))
    vibrations.run()
    real = np.sort(vibrations.get_frequencies().real)
    assert (np.abs(real[:6]) < 30).all() and (real[6:] > 1000).all()
    # from rest to a stretched bond, by way of a bent one
    images = [water.copy() for _ in range(3)]
    images[2].positions[1] += 0.3 * (images[2].positions[1] - images[2].positions[0])
    images[1].positions = 0.5 * (images[0].positions + images[2].positions) + [[0, 0, 0], [0.2, 0, 0.1], [0, 0, 0]]
    for image in images:
        image.calc = springs
    band = NEB(images, allow_shared_calculator=True)
    before = images[1].get_potential_energy()
    BFGS(band, logfile=None).run(steps=8)
    assert images[0].get_potential_energy() < images[1].get_potential_energy() < before


def test_constant_energy_is_constant_and_stopping_changes_nothing(springs, tmp_path):
    water = molecule("H2O")
    settings = Settings(temperature=300, every=5)
    whole = [a.copy() for _, a in run_dynamics(water, springs, tmp_path / "a.traj", 400, settings, {})]
    assert temperature(whole[0]) == pytest.approx(300) and degrees_of_freedom(water) == 3
    for steps in (100, 400):
        for _ in run_dynamics(water, springs, tmp_path / "b.traj", steps, settings, {}):
            pass
    frames = read_trajectory(tmp_path / "b.traj")
    assert len(frames) == 81 and np.array_equal(frames[-1].positions, whole[-1].positions)
    facts = summary(frames, 0.5)
    assert abs(facts["drift"]) < 20 and facts["fluctuation"] < 2 and not facts["broken_bonds"]
    wavenumber, density = vibrational_density(frames, 2.5)
    assert 1000 < wavenumber[np.argmax(density)] < 5000
    assert overlap_of_distributions(frames, frames) == pytest.approx(1.0)
    with pytest.raises(UserError, match="begun with seed 0, now 1"):
        next(run_dynamics(water, springs, tmp_path / "b.traj", 500, Settings(temperature=300, every=5, seed=1), {}))


def test_langevin_goes_on_as_if_it_had_not_stopped(springs, tmp_path):
    settings = Settings("langevin", 500, every=5, friction=0.05)
    *_, (_, once) = run_dynamics(molecule("H2O"), springs, tmp_path / "a.traj", 40, settings, {})
    for steps in (15, 40):
        *_, (step, twice) = run_dynamics(molecule("H2O"), springs, tmp_path / "b.traj", steps, settings, {})
    assert step == 40 and np.array_equal(once.positions, twice.positions)


def test_broken_bonds_are_named():
    one, two = molecule("H2O"), molecule("H2O")
    two.positions[1] *= 3
    (broken,) = broken_bonds([one, two])
    assert set(broken[:2]) == {0, 1} and broken[2] == 1


def test_the_command(energies, tmp_path):
    start, out = tmp_path / "water.xyz", tmp_path / "water.traj"
    molecule("H2O").write(start)
    result = md(energies, start, output=out, steps=12, every=4, temperature=10.0, reference=start)
    assert result["steps"] == 12 and result["frames"] == 4 and out.with_suffix(".png").stat().st_size > 10_000
    assert 0 <= result["distance_overlap"] <= 1
    with pytest.raises(UserError, match="is an input"):
        md(energies, start, output=start)
    with pytest.raises(UserError, match="no forces"):
        md("organic", start, output=tmp_path / "w.traj")
