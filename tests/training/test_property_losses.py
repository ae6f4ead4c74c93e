"""Losses on what is measured: at the reference, in padding, at degeneracies, combined with matrices, by the command."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from schnorb_t import keys
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.nn.baselines import TwoCentreModel
from schnorb_t.physics.band_pass import BandPassLoss
from schnorb_t.physics.occupations import Smearing
from schnorb_t.physics.properties import PROPERTIES
from schnorb_t.physics.state import electronic_state
from schnorb_t.training.losses import MATRICES, PROJECTED_DOS, Output, Quantities
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.property_metrics import compare_with_start, property_errors, two_centre_start
from tests.training.examples import ARGUMENTS, BASIS, write_store

ROOT = Path(__file__).resolve().parents[2]
#: wide enough that occupations and entropy of gapped molecules have gradients to compare
SMEARING = Smearing("fermi-dirac", 0.03)
WINDOW = {"n_below": 3, "n_above": 2, "by": "element", "width": 0.02}


def output(name, loss="l1", n_grid=96, **more) -> Output:
    if name == PROJECTED_DOS:
        return Output(name, "wasserstein", options={**WINDOW, "n_grid": n_grid}, **more)
    return Output(name, loss, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "toy.h5")


@pytest.fixture(scope="module")
def records(store):
    """Different sizes; methane and benzene have degenerate levels."""
    wanted = ("H2O", "CH4", "HCN", "C6H6", "CO2")
    found = [store[i] for i in range(len(store)) if store[i].name in wanted]
    assert len(found) == len(wanted)
    return found


@pytest.fixture(scope="module")
def batch(records):
    return records_to_batch(records, BASIS, 8.0)


def quantities(batch, h, s, reference=None, smearing=SMEARING) -> Quantities:
    return Quantities(batch, h, s, reference, BASIS, smearing)


def reference_of(batch) -> Quantities:
    return quantities(batch, batch[keys.HAMILTONIAN], batch[keys.OVERLAP])


def changed(batch, size=1e-2):
    """H and S of the batch with symmetric noise; their real elements [B, M, M]."""
    mask = batch[keys.ORBITAL_MASK]
    real = mask[:, :, None] & mask[:, None]
    g = torch.Generator().manual_seed(0)
    noise = [torch.randn(real.shape, generator=g, dtype=torch.float64) for _ in range(2)]
    h, s = (size * f * torch.where(real, x + x.mT, 0.0) for f, x in zip((1.0, 0.05), noise, strict=True))
    return batch[keys.HAMILTONIAN] + h, batch[keys.OVERLAP] + s, real


NAMES = [*sorted(PROPERTIES), "frontier_energies", "gap", PROJECTED_DOS]


@pytest.mark.parametrize("name", NAMES)
def test_vanishes_at_the_reference_with_finite_gradients(batch, name):
    """Zero where prediction and reference are the same, degenerate molecules included."""
    h = batch[keys.HAMILTONIAN].clone().requires_grad_()
    s = batch[keys.OVERLAP].clone().requires_grad_()
    for loss in ("l1", "l2", "huber"):
        value = output(name, loss)(quantities(batch, h, s), reference_of(batch))
        assert value.abs() < 1e-10
        gradients = torch.autograd.grad(value, (h, s), allow_unused=name == "occupations")
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_ignores_padding(batch, name):
    """Whatever stands in padding changes neither value nor gradient, and receives none."""
    h, s, real = changed(batch)
    results = []
    for fill in (0.0, 7.0):
        a = torch.where(real, h, fill).requires_grad_()
        b = torch.where(real, s, fill).requires_grad_()
        value = output(name)(quantities(batch, a, b), reference_of(batch))
        value.backward()
        assert value.isfinite() and value > 0
        for g in (a.grad, b.grad):
            assert g.isfinite().all() and (g[~real] == 0).all() and g.abs().sum() > 0
        results.append((value.detach(), a.grad, b.grad))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("name", [keys.CHARGES, keys.DIPOLE, keys.ORBITAL_ENERGIES, "bond_orders", PROJECTED_DOS])
def test_batch_is_the_mean_of_its_molecules(records, batch, name):
    """A padded batch gives what the molecules give alone, weighted with how many values each has."""
    h, s, _ = changed(batch)
    whole, count = output(name).error(quantities(batch, h, s), reference_of(batch))
    total, n_values = 0.0, 0
    for k, record in enumerate(records):
        one = records_to_batch([record], BASIS, 8.0)
        m = one[keys.HAMILTONIAN].shape[-1]
        value, n = output(name).error(quantities(one, h[k : k + 1, :m, :m], s[k : k + 1, :m, :m]), reference_of(one))
        total, n_values = total + value * n, n_values + n
    assert n_values == count and abs(total / n_values - whole) < 1e-10 * whole


def test_values_are_those_of_physics(batch):
    """Charges and the distance of projected densities of states, computed by hand from the states."""
    h, s, _ = changed(batch)
    states = [
        electronic_state(x, y, batch[keys.ORBITAL_MASK], batch[keys.N_ELECTRONS], SMEARING)
        for x, y in ((h, s), (batch[keys.HAMILTONIAN], batch[keys.OVERLAP]))
    ]
    charges = [PROPERTIES[keys.CHARGES](batch, state, BASIS)[0] for state in states]
    prediction, reference = quantities(batch, h, s), reference_of(batch)
    assert torch.isclose(
        output(keys.CHARGES, "l2")(prediction, reference), (charges[0] - charges[1]).square().mean(), rtol=1e-12
    )
    distance = BandPassLoss(**WINDOW, n_grid=96)(batch, *states, BASIS).mean()
    assert torch.isclose(output(PROJECTED_DOS)(prediction, reference), distance, rtol=1e-12)


@pytest.mark.parametrize("name", [keys.CHARGES, keys.DIPOLE, "free_energy", "band_energy", PROJECTED_DOS])
def test_gradient_is_that_of_finite_differences(batch, name):
    h, s, real = changed(batch)
    g = torch.Generator().manual_seed(1)
    d = torch.where(real, torch.randn(h.shape, generator=g, dtype=torch.float64), 0.0)
    d = d + d.mT
    reference = reference_of(batch)

    def value(t):
        return output(name, "l2", n_grid=96)(quantities(batch, h + t * d, s + 0.05 * t * d), reference)

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(t), t)
    step = 1e-7
    with torch.no_grad():
        numeric = (value(step) - value(-step)) / (2 * step)
    assert abs(slope - numeric) < 1e-6 * abs(slope)


# ---- in a module ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(store):
    return MatrixDataModule(str(store.path), cutoff=8.0, batch_size=4)


def module_of(*outputs) -> MatrixModule:
    torch.manual_seed(0)
    network = {k: v for k, v in ARGUMENTS.items() if k != "cutoff"}
    return MatrixModule(BASIS, network, 8.0, list(outputs), smearing=SMEARING)


@pytest.fixture(scope="module")
def started(data):
    module = module_of(output(keys.CHARGES), output(PROJECTED_DOS))
    module.prepare(data)
    return module


def test_combined_with_matrix_losses_and_scheduled(batch, started):
    """The total is the weighted sum; an output counts from its first epoch on."""
    outputs = [
        Output(keys.HAMILTONIAN, weight=10.0),
        output(keys.CHARGES, weight=2.0),
        output(PROJECTED_DOS, weight=3.0, start=1),
    ]
    module = module_of(*outputs)
    module.model.load_state_dict(started.model.state_dict())
    prediction, reference = module._quantities(batch)
    total, parts = module._loss(prediction, reference, 0)
    assert set(parts) == {keys.HAMILTONIAN, keys.CHARGES}
    assert torch.isclose(total, 10 * parts[keys.HAMILTONIAN] + 2 * parts[keys.CHARGES])
    later, parts = module._loss(prediction, reference, 1)
    assert torch.isclose(later, total + 3 * parts[PROJECTED_DOS])
    module.validation_step(batch, 0)  # epoch 0, but with the weights of the end: epochs are comparable
    assert torch.isclose(module.validation["loss"].compute().double(), later, rtol=1e-5)
    total.backward()
    gradients = [p.grad for p in module.model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def test_learns_from_properties_alone(data, started):
    """Some steps on the losses of one batch, no matrix among them, lower each of its errors."""
    module = module_of(output(keys.CHARGES, weight=30.0), output(PROJECTED_DOS, weight=10.0))
    module.model.load_state_dict(started.model.state_dict())
    example = next(iter(data.train_dataloader()))
    optimizer = torch.optim.Adam(module.model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 120)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        total, parts = module._loss(*module._quantities(example), 0)
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append({name: float(x.detach()) for name, x in parts.items()})
    assert all(losses[-1][name] < 0.7 * losses[0][name] for name in losses[0]), (losses[0], losses[-1])


def test_one_property_twice_is_refused():
    with pytest.raises(ValueError, match="once"):
        module_of(output(keys.CHARGES), output(keys.CHARGES, "l2"))


def test_start_is_the_two_centre_fit(data, started):
    """The start that errors are compared with has no network in it, whatever the network has learned."""
    trained = module_of(output(keys.CHARGES)).model
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(0.1)
    start = two_centre_start(trained, data)
    baseline = TwoCentreModel(BASIS, 8.0, start.two_centre.n_radial)
    baseline.fit(data.training_batches)
    example = next(iter(data.test_dataloader()))
    assert torch.allclose(start(example)[keys.HAMILTONIAN], baseline(example)[keys.HAMILTONIAN], atol=1e-8)
    assert not torch.allclose(trained(example)[keys.HAMILTONIAN], start(example)[keys.HAMILTONIAN], atol=1e-3)


def test_comparison_of_the_start_with_itself(data, started):
    """Errors are those of a loop over molecules, and the start is better than itself by a factor of 1."""
    start = two_centre_start(started.model, data)
    result = compare_with_start(start, data, started.properties, SMEARING)
    rows = data.split["test"]
    assert result["split"] == "test" and result["n_molecules"] == len(rows)
    table = result["properties"]
    assert set(table) == {keys.CHARGES, PROJECTED_DOS}
    assert all(abs(row["factor"] - 1) < 1e-9 for row in table.values())
    assert table[keys.CHARGES]["unit"] == "e" and table[PROJECTED_DOS]["unit"] == "Eh"
    single = [property_errors(start, data.store, [int(i)], started.properties, SMEARING) for i in rows]
    n_atoms = data.store.n_atoms[rows]
    mean = sum(n * x[keys.CHARGES] for n, x in zip(n_atoms, single, strict=True)) / n_atoms.sum()
    assert abs(mean - table[keys.CHARGES]["model"]) < 1e-9
    mean = sum(x[PROJECTED_DOS] for x in single) / len(rows)
    assert abs(mean - table[PROJECTED_DOS]["model"]) < 1e-9


# ---- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"name": "colour"}, "no quantity 'colour' to train on; known: .*charges.*projected_density_of_states"),
        ({"name": "charges", "loss": "l3"}, "no loss 'l3'; known: .*wasserstein"),
        ({"name": "charges", "loss": "wasserstein"}, "charges cannot have the loss wasserstein"),
        ({"name": "charges", "options": {"width": 0.1}}, "charges: no option width"),
        ({"name": PROJECTED_DOS}, "cannot have the loss l1"),
        ({"name": PROJECTED_DOS, "options": {"colour": 1}}, "no option 'colour'; known: n_below, n_above, by, width"),
        ({"name": PROJECTED_DOS, "options": {"by": "taste"}}, "cannot group orbitals by 'taste'; known"),
        ({"name": PROJECTED_DOS, "options": {"n_below": 1.5}}, "option n_below must be of type int, got 1.5"),
        ({"name": PROJECTED_DOS, "options": {"width": "wide"}}, "option width must be of type float, got 'wide'"),
        ({"name": PROJECTED_DOS, "options": {"width": 0.0}}, "width above 0"),
        ({"name": PROJECTED_DOS, "options": {"n_below": 0, "n_above": 0}}, "no level counts"),
        ({"name": PROJECTED_DOS, "options": {"n_grid": 1}}, "n_grid must be 2 or more"),
    ],
)
def test_wrong_output_is_refused(bad, message):
    if bad["name"] == PROJECTED_DOS and "options" in bad:
        bad = {**bad, "loss": "wasserstein"}
    with pytest.raises(ValueError, match=message):
        Output(**bad)


def test_the_configuration_trains_on_no_matrix():
    """What docs/physics.md says of configs/properties.yaml."""
    outputs = yaml.safe_load((ROOT / "configs" / "properties.yaml").read_text())["model"]["outputs"]
    names = {Output(**entry).name for entry in outputs}
    assert names == {keys.ORBITAL_ENERGIES, keys.CHARGES, PROJECTED_DOS} and not names & set(MATRICES)


def fit(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "schnorb_t.fit", "--config=configs/properties.yaml", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_command_refuses_an_unknown_option_without_traceback():
    entry = "{name: projected_density_of_states, loss: wasserstein, options: {colour: 1}}"
    done = fit(f"--model.outputs=[{entry}]")
    assert done.returncode == 2 and "no option 'colour'" in done.stderr and "Traceback" not in done.stderr


def test_command_tells_errors_of_start_and_end(tmp_path, store):
    done = fit(
        f"--runs={tmp_path}",
        f"--data.path={store.path}",
        "--data.cutoff=8.0",
        "--model.network={irreps: 8x0e+4x1o+4x2e, pair_channels: [8, 4, 4, 4], hidden: 16, product_channels: 4}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_epochs=4",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "properties" / "version_0"
    result = json.loads((folder / "property_metrics.json").read_text())
    names = {keys.ORBITAL_ENERGIES, keys.CHARGES, PROJECTED_DOS}
    assert set(result["properties"]) == names and result["n_molecules"] == 3
    for row in result["properties"].values():
        assert row["two_centre_start"] > 0 and row["factor"] == pytest.approx(row["two_centre_start"] / row["model"])
    with open(folder / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["val/charges"]]
    assert len(rows) == 3 and rows[0]["step"] == "0"  # before the first step, after epochs 2 and 4
    assert all(float(row[f"val/{name}"]) > 0 for row in rows for name in names)
    assert "two-centre start" in done.stdout and "projected DOS" in done.stdout
