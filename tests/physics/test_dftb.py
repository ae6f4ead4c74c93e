"""DFTB2 and DFTB3: against a dense reference of the tests' own, forces against finite differences."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.physics.coulomb import gamma, gamma_slope
from schnorb_t.physics.dftb import DFTB
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.set_parameters import read_set_parameters
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.units import BOHR
from tests.physics.dense_dftb import Tables, dftb
from tests.shared_data import shared_data

SHELLS = {1: (0,), 6: (0, 1), 7: (0, 1), 8: (0, 1), 9: (0, 1), 15: (0, 1, 2), 16: (0, 1, 2), 17: (0, 1, 2)}
SHELLS[79] = (0, 1, 2)
WARM = Smearing("fermi-dirac", 0.01)


def shaken(name, seed=0, size=0.04):
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(size=(len(atoms), 3)) * size
    return atoms


def gold_thiolate():
    """CH3S on three gold atoms, all of them off symmetry."""
    from ase import Atoms

    return Atoms(
        "Au3SCH3",
        [
            (0.0, 0.1, 0.0),
            (2.75, 0.0, 0.1),
            (1.3, 2.4, -0.1),
            (1.4, 0.9, 1.95),
            (1.9, 1.9, 3.4),
            (1.1, 2.3, 3.9),
            (2.5, 2.7, 3.0),
            (2.5, 1.3, 4.1),
        ],
    )


def model_of(folder, molecules, **options):
    return DFTB(read_skf_set(folder, {z for a in molecules for z in a.numbers.tolist()}), **options)


def batch_of(model, molecules):
    return structures_to_batch([a.numbers for a in molecules], [a.positions for a in molecules], model.basis, 3.0)


@pytest.fixture(scope="module")
def ob():
    return shared_data("skf/3ob-3-1")


@pytest.fixture(scope="module")
def gold():
    return shared_data("skf/auorg-1-1")


ORGANIC = [shaken(name, k) for k, name in enumerate(["CH3Cl", "H2O", "SO2", "PH3", "CH3OH"])]
CHLORINE_FLUORIDE = molecule("ClF")
SYMMETRIC = [molecule(name) for name in ("C6H6", "CH4", "C2H2", "CO2", "P2")]
GOLD = [gold_thiolate(), shaken("CH3SH"), shaken("HCN")]


@pytest.mark.parametrize(
    "folder,molecules,options",
    [
        ("3ob-3-1", [*ORGANIC, CHLORINE_FLUORIDE], {"order": 3}),
        ("3ob-3-1", ORGANIC, {"order": 3, "shell_resolved": True, "smearing": WARM}),
        ("3ob-3-1", ORGANIC, {"order": 2, "damping_exponent": 4.2}),
        ("auorg-1-1", GOLD, {"shell_resolved": True, "smearing": WARM}),
        ("auorg-1-1", GOLD, {"shell_resolved": False, "smearing": WARM}),
    ],
    ids=["third order", "third order by shell", "damped second order", "gold by shell", "gold by atom"],
)
def test_against_dense_reference(folder, molecules, options):
    folder = shared_data(f"skf/{folder}")
    model = model_of(folder, molecules, **options).requires_grad_(False)
    charge = torch.tensor([0.0, 2.0, *[0.0] * (len(molecules) - 2)])
    result = model(batch_of(model, molecules), charge)
    published = read_set_parameters(folder)
    dense, at = Tables(folder, SHELLS), 0
    for k, atoms in enumerate(molecules):
        charges, energy, sites = dftb(
            dense,
            atoms.numbers.tolist(),
            atoms.positions / BOHR,
            charge=charge[k].item(),
            kt=model.smearing.width,
            by_shell=model.shell_resolved,
            derivatives=published.hubbard_derivatives if model.order == 3 else None,
            zeta=model.damping_exponent or None,
        )
        mine = result.site_charges[result.sites.molecule == k]
        assert np.abs(mine.numpy() - charges).max() < 1e-8
        total = energy + dense.repulsion(atoms.numbers.tolist(), atoms.positions / BOHR)
        assert result.energy[k].item() == pytest.approx(total, abs=1e-8)
        by_atom = np.bincount([a for a, _ in sites], charges)
        assert np.abs(result.charges[at : at + len(atoms)].numpy() - by_atom).max() < 1e-8
        at += len(atoms)
    assert result.energy.numpy() == pytest.approx(sum(result.parts.values()).numpy(), abs=1e-12)
    assert bool((result.parts["third_order"].abs() > 1e-6).all()) == (model.order == 3)


def test_resolving_shells_matters_for_gold(gold):
    by_shell, by_atom = (model_of(gold, GOLD, shell_resolved=x, smearing=WARM) for x in (True, False))
    batch = batch_of(by_shell, GOLD)
    with torch.no_grad():
        assert (by_shell(batch).charges - by_atom(batch).charges).abs().max() > 0.02


def five_point(function, x, direction, step):
    values = [function(x + t * step * direction) for t in (1, -1, 2, -2)]
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


@pytest.mark.parametrize(
    "folder,molecules,options",
    [
        ("3ob-3-1", ORGANIC, {"order": 3}),
        ("3ob-3-1", ORGANIC, {"order": 3, "smearing": Smearing("fermi-dirac", 0.02), "shell_resolved": True}),
        ("3ob-3-1", ORGANIC, {"order": 2, "smearing": Smearing("methfessel-paxton", 0.05, 1)}),
        # degenerate levels, symmetric and linear molecules, bonds along the axes
        ("3ob-3-1", SYMMETRIC, {"order": 3}),
        ("3ob-3-1", SYMMETRIC, {"order": 3, "smearing": WARM, "charge": 2.0}),
        ("auorg-1-1", GOLD, {"shell_resolved": True, "smearing": WARM}),
    ],
    ids=["third order", "smeared shells", "Methfessel-Paxton", "degenerate", "part-filled degenerate", "gold"],
)
def test_forces_equal_finite_differences(folder, molecules, options):
    """Of every molecule of a batch of different ones, along random directions, to 1e-6 relative."""
    options = dict(options)
    charge = torch.full((len(molecules),), options.pop("charge", 0.0))
    model = model_of(shared_data(f"skf/{folder}"), molecules, tolerance=1e-11, **options).requires_grad_(False)
    batch = batch_of(model, molecules)
    result, forces = model.energy_and_forces(batch, charge)
    x, which = batch[keys.POSITIONS].clone(), batch[keys.MOLECULE]

    def energies(positions):
        return model({**batch, keys.POSITIONS: positions}, charge).energy

    rng = np.random.default_rng(0)
    for _ in range(2):
        d = torch.tensor(rng.normal(size=x.shape))
        analytic = -torch.zeros(len(molecules), dtype=torch.float64).index_add(0, which, (forces * d).sum(-1))
        numeric = five_point(energies, x, d, 1e-4) * BOHR  # short: repulsive splines jump in curvature
        scale = torch.zeros_like(analytic).index_add(0, which, (forces**2).sum(-1)).sqrt().clamp_min(1e-2)
        assert ((analytic - numeric).abs() / scale).max() < 1e-6
        assert analytic.abs().max() > 1e-2
    if charge.any():
        occupations = result.scc.state.occupations[0]  # benzene's two highest levels share what is left
        part = occupations[(occupations - 1).abs() < 0.5]
        assert len(part) == 2 and part[0].item() == pytest.approx(part[1].item(), abs=1e-4)


def test_autograd_through_the_fixed_point_gives_the_same_forces(ob):
    model = model_of(ob, ORGANIC, order=3, smearing=WARM).requires_grad_(False)
    batch = batch_of(model, ORGANIC)
    _, forces = model.energy_and_forces(batch)
    x = batch[keys.POSITIONS].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model({**batch, keys.POSITIONS: x}).energy.sum(), x)
    assert (-gradient * BOHR - forces).abs().max() < 1e-8


def test_batch_equals_single(ob):
    model = model_of(ob, ORGANIC, order=3).requires_grad_(False)
    result, forces = model.energy_and_forces(batch_of(model, ORGANIC))
    at = 0
    for k, atoms in enumerate(ORGANIC):
        alone, own = model.energy_and_forces(batch_of(model, [atoms]))
        assert alone.energy[0].item() == pytest.approx(result.energy[k].item(), abs=1e-10)
        assert (own - forces[at : at + len(atoms)]).abs().max() < 1e-8
        at += len(atoms)


def test_training_on_forces_and_charges_reaches_the_parameters(ob):
    """Gradient of a loss on forces and charges by tables, U and U^d equals finite differences."""
    molecules = ORGANIC[:2]
    model = model_of(ob, molecules, order=3, tolerance=1e-12)
    batch = batch_of(model, molecules)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(len(batch[keys.MOLECULE]), 4, dtype=torch.float64, generator=generator)

    def loss(create_graph):
        result, forces = model.energy_and_forces(batch, create_graph=create_graph)
        return (forces * weights[:, :3]).sum() + (result.charges * weights[:, 3]).sum()

    parameters = [model.slater_koster.coefficients, model.hubbard, model.hubbard_derivatives]
    for parameter, step in zip(parameters, (1e-5, 1e-5, 1e-3), strict=True):
        (gradient,) = torch.autograd.grad(loss(True), parameter)
        direction = gradient / gradient.norm()
        start = parameter.detach().clone()

        def at(t, parameter=parameter, start=start, direction=direction):
            with torch.no_grad():
                parameter.copy_(start + t * direction)
                value = loss(False).item()
                parameter.copy_(start)
            return value

        numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
        assert gradient.norm().item() == pytest.approx(numeric, rel=1e-5)


def test_a_repulsion_of_ones_own(ob):
    class Springs(torch.nn.Module):
        def forward(self, batch):
            x = batch[keys.POSITIONS]
            return torch.zeros(len(batch[keys.ORBITAL_MASK]), dtype=x.dtype).index_add(
                0, batch[keys.MOLECULE], (x**2).sum(-1)
            )

    plain, own = model_of(ob, ORGANIC, order=3), model_of(ob, ORGANIC, order=3, repulsion=Springs())
    batch = batch_of(plain, ORGANIC)
    (a, fa), (b, fb) = plain.energy_and_forces(batch), own.energy_and_forces(batch)
    springs = Springs()(batch)
    assert (b.energy - b.parts["repulsion"] - a.energy + a.parts["repulsion"]).abs().max() < 1e-10
    assert torch.equal(b.parts["repulsion"], springs)
    x = batch[keys.POSITIONS].clone().requires_grad_()
    pairs = torch.autograd.grad(plain.repulsion({**batch, keys.POSITIONS: x}).sum(), x)[0]
    assert (fb - fa - (pairs - 2 * batch[keys.POSITIONS]) * BOHR).abs().max() < 1e-9


def test_no_convergence_names_the_molecule(ob):
    model = model_of(ob, ORGANIC, order=3, max_iterations=8).requires_grad_(False)
    batch = batch_of(model, ORGANIC)
    result = model(batch, check=False)
    assert 0 < result.converged.sum() < len(ORGANIC)
    bad = int((~result.converged).nonzero()[0])
    names = [a.get_chemical_formula() for a in ORGANIC]
    with pytest.raises(UserError, match=rf"{names[bad]}: charges have not converged in 8 iterations.*smear"):
        model(batch, names=names)
    with pytest.raises(UserError, match=f"molecule {bad} of the batch"):
        model.energy_and_forces(batch)
    water = molecule("H2O")
    water.positions[1] = water.positions[2]
    with pytest.raises(UserError, match="too close"):
        model(batch_of(model, [water]))


def test_what_a_set_says_in_its_readme(ob, gold):
    published = read_set_parameters(ob)
    assert published.damping_exponent == 4.0 and len(published.hubbard_derivatives) == 15
    assert published.hubbard_derivatives[1] == -0.1857 and published.hubbard_derivatives[30] == -0.03
    spins = read_set_parameters(gold).spin_constants
    assert sorted(spins) == [1, 6, 7, 8, 16, 79]
    assert spins[79][2, 0] == -0.00525 and spins[79][2, 2] == -0.01082 and spins[1].shape == (1, 1)
    assert all(np.array_equal(w, w.T) for w in spins.values())
    assert read_set_parameters(ob / "nowhere").hubbard_derivatives == {}


def test_parameters_that_are_missing(gold, ob):
    tables = read_skf_set(gold, [1, 8])
    with pytest.raises(UserError, match="auorg-1-1: no Hubbard derivative of H, O.*order=2"):
        DFTB(tables, order=3)
    given = DFTB(tables, order=3, hubbard_derivatives={"H": -0.19, 8: -0.16})
    assert given.hubbard_derivatives[8] == -0.16 and given.damping_exponent == 4.0
    with pytest.raises(ValueError, match="order 4"):
        DFTB(tables, order=4)


@pytest.mark.parametrize("damped", [False, True])
def test_slope_of_gamma(damped):
    """By U_a; near equality the expansion joins, at equality the short-range part counts twice."""
    r = torch.linspace(0.8, 9.0, 9, dtype=torch.float64)
    mask = torch.full(r.shape, damped)
    for ua, ub in [(0.4, 0.40001), (0.4, 0.4079), (0.4, 0.4081), (0.4, 0.3), (0.2, 0.6)]:
        a, b = (torch.full_like(r, u).requires_grad_() for u in (ua, ub))
        (expected,) = torch.autograd.grad(gamma(r, a, b, mask).sum(), a)
        assert (gamma_slope(r, a, b, mask) - expected).abs().max() < 1e-8, (ua, ub)
    if not damped:
        a = torch.full_like(r, 0.4).requires_grad_()
        (both,) = torch.autograd.grad(gamma(r, a, a).sum(), a)
        assert (gamma_slope(r, a, a) - both).abs().max() < 1e-12


def test_zero_temperature_is_the_limit_of_small_smearing(ob):
    cold, cool = (model_of(ob, ORGANIC, order=3, smearing=s) for s in (ZERO_TEMPERATURE, Smearing("fermi-dirac", 1e-4)))
    batch = batch_of(cold, ORGANIC)
    with torch.no_grad():
        assert (cold(batch).energy - cool(batch).energy).abs().max() < 1e-9
