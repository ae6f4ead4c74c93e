"""Corrections of tables and repulsions: what they are, and that files of them are read here and in other programs."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.interpolate import BSpline

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.interfaces.trained_tables import trained_set
from schnorb_t.physics.dftb import DFTB
from schnorb_t.physics.occupations import Smearing
from schnorb_t.physics.skf import read_skf, read_skf_set
from schnorb_t.physics.spline_correction import SplineCorrection
from schnorb_t.physics.trainable_dftb import TrainableDFTB, chosen_pairs
from schnorb_t.units import BOHR
from tests.physics.dense_dftb import Tables, dftb
from tests.physics.test_dftb import gold_thiolate, shaken
from tests.shared_data import shared_data

EVERYTHING = ("hamiltonian", "overlap", "onsite", "hubbard", "hubbard_derivatives", "repulsion")
MOLECULES = [shaken(name, k) for k, name in enumerate(("CH3OH", "H2O", "C2H2", "OCHCHO"))]


def batch_of(model, molecules):
    return structures_to_batch([a.numbers for a in molecules], [a.positions for a in molecules], model.basis, 1.0)


def perturb(model, size=2e-3):
    """Every trained number changes at random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.trained().items():
            noise = size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p += noise * ((p != 0) if name.startswith("hubbard") else 1)
    return model


@pytest.fixture(scope="module")
def ob():
    return read_skf_set(shared_data("skf/3ob-3-1"), [1, 6, 8])


@pytest.fixture(scope="module")
def trained(ob, tmp_path_factory):
    """A perturbed model and the folder of its files."""
    model = perturb(TrainableDFTB(ob, EVERYTHING, repulsion_cutoff=5.0, order=3))
    folder = tmp_path_factory.mktemp("trained")
    for name, text in trained_set(model, "a test").items():
        (folder / name).write_text(text)
    return model, folder


def test_corrections_are_b_splines():
    correction = SplineCorrection([1.0, 1.2], [4.0, 3.3], 0.3, 2)
    assert correction.coefficients.shape == (2, 7, 2) and correction.inside.sum().item() == 7 + 4
    with torch.no_grad():
        correction.coefficients.normal_(generator=torch.Generator().manual_seed(0))
    r = np.linspace(0.5, 4.5, 173)
    for table, (start, end, n) in enumerate([(1.0, 4.0, 7), (1.2, 3.3, 4)]):
        knots = start + 0.3 * np.arange(n + 4)
        wider = np.concatenate([start - 0.3 * np.arange(3, 0, -1), knots, end + 0.3 * np.arange(1, 4)])
        padded = np.pad(correction.coefficients[table, :n].detach().numpy(), ((3, 3), (0, 0)))
        spline = BSpline(wider, padded, 3, extrapolate=False)
        assert correction.values(table, r) == pytest.approx(np.nan_to_num(spline(r)), abs=1e-12)
        assert np.abs(correction.values(table, np.array([start, end, end + 0.01]))).max() < 1e-12
        begin, cubics = correction.cubics(table)
        at = np.searchsorted(begin, r, side="right") - 1
        inside = (at >= 0) & (r < knots[-1])
        x = (r - begin[at.clip(0)])[:, None]
        c = cubics[at.clip(0)].transpose(1, 0, 2)
        assert np.where(inside[:, None], c[0] + x * (c[1] + x * (c[2] + x * c[3])), 0) == pytest.approx(
            correction.values(table, r), abs=1e-12
        )
        second = np.nan_to_num(spline.derivative(2)(knots[:-1]))
        assert correction.curvature()[table, : n + 3].detach().numpy() == pytest.approx(second, abs=1e-9)
    fine = np.linspace(1.0, 4.0, 30001)
    whole = 0.0
    for table in (0, 1):
        values = correction.values(table, fine)
        whole += (np.diff(values, 2, axis=0) ** 2).sum() / (fine[1] - fine[0]) ** 3
    assert correction.roughness().item() == pytest.approx(whole, rel=1e-3)
    assert (correction(torch.tensor([-1, 0]), torch.tensor([2.0, 2.0]))[0] == 0).all()
    with pytest.raises(ValueError, match="none in a range of 1 Bohr"):
        SplineCorrection([1.0], [2.0], 0.3, 1)


def test_untrained_is_published_and_names_choose(ob):
    model, published = TrainableDFTB(ob, EVERYTHING, order=3), DFTB(ob, order=3)
    batch = batch_of(model, MOLECULES)
    with torch.no_grad():
        assert torch.equal(model(batch).energy, published(batch).energy)
    assert set(model.trained()) == {
        "hubbard",
        "hubbard_derivatives",
        "slater_koster.onsite_shift",
        "slater_koster.correction.coefficients",
        "repulsion.correction.coefficients",
    }
    assert chosen_pairs(["O"], [1, 6, 8]) == [(1, 8), (6, 8), (8, 8)]
    assert chosen_pairs(["H-C", "O-O"], [1, 6, 8]) == [(1, 6), (8, 8)] and len(chosen_pairs(None, [1, 6, 8])) == 6
    for wrong in ("Au", "C-Au", "C-H-O", "x"):
        with pytest.raises(UserError, match=f"'{wrong}' is no element and no pair"):
            chosen_pairs([wrong], [1, 6, 8])
    with pytest.raises(UserError, match="'hamilton' cannot be trained"):
        TrainableDFTB(ob, ["hamilton"])
    with pytest.raises(UserError, match="belong to third order"):
        TrainableDFTB(ob, ["hubbard_derivatives"], order=2)
    with pytest.raises(UserError, match="H-H: its repulsive ends too early"):
        TrainableDFTB(ob, ["repulsion"], repulsion_spacing=0.5)


def test_gradients_of_everything_that_is_trained(ob):
    """Of energies, charges and penalties, by all parameters at once, against differences."""
    model = perturb(TrainableDFTB(ob, EVERYTHING, order=3, tolerance=1e-12), 1e-3)
    batch = batch_of(model, MOLECULES[:2])

    def loss():
        result = model(batch)
        parts = (result.energy**2).sum() + (result.charges**3).sum()
        return parts + sum(s * p for s, p in zip((1.0, 1.0, 10.0), model.penalties().values(), strict=True))

    parameters = list(model.trained().values())
    gradients = torch.autograd.grad(loss(), parameters)
    start = [p.detach().clone() for p in parameters]
    for p, g, x in zip(parameters, gradients, start, strict=True):
        step = 1e-4 * g / g.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.copy_(x + sign * step)
                values.append(loss().item())
                p.copy_(x)
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(g.norm().item(), rel=1e-5)


def test_repulsions_are_pushed_to_be_convex(ob):
    model = TrainableDFTB(ob, ["repulsion"], order=3)
    assert model.penalties()["repulsion"] == 0
    curvature = model.repulsion.curvature()
    before = model.repulsion.concavity().item()
    with torch.no_grad():
        model.repulsion.correction.coefficients[:, 2] += 0.05  # a bump
    types = torch.tensor([1] * 3)  # H-C
    row, at, h = model.repulsion.rows[1, 6], [30, 60, 120], 1e-3
    r = model.repulsion.points[row, at]
    values = [model.repulsion.pair_energy(types, r + s) for s in (-h, 0.0, h)]
    numeric = ((values[0] - 2 * values[1] + values[2]) / h**2).detach()
    assert model.repulsion.curvature()[row, at].tolist() == pytest.approx(numeric.tolist(), abs=0.02)
    assert model.repulsion.concavity().item() > before and (curvature != model.repulsion.curvature()).any()


def test_files_come_back(trained):
    model, folder = trained
    back = DFTB(read_skf_set(folder, [1, 6, 8]), order=3)
    batch = batch_of(model, MOLECULES)
    with torch.no_grad():
        mine, theirs = model(batch), back(batch)
        assert (mine.energy - DFTB(model.tables, order=3)(batch).energy).abs().min() > 1e-4
    assert (mine.energy - theirs.energy).abs().max() < 1e-8
    assert (mine.charges - theirs.charges).abs().max() < 1e-8
    assert torch.allclose(back.hubbard_derivatives, model.hubbard_derivatives, atol=1e-11, rtol=0)
    # <s|s> of A-B and of B-A is one and the same
    there, again = (read_skf(folder / name) for name in ("C-H.skf", "H-C.skf"))
    assert np.abs(there.hamiltonian[0, 0, 0] - again.hamiltonian[0, 0, 0]).max() < 1e-7


def test_files_in_a_reader_of_the_tests_own(trained):
    model, folder = trained
    dense, batch = Tables(folder, {1: (0,), 6: (0, 1), 8: (0, 1)}), batch_of(model, MOLECULES[:2])
    derivatives = {z: model.hubbard_derivatives[z].item() for z in (1, 6, 8)}
    with torch.no_grad():
        energies = model(batch).energy
    for k, atoms in enumerate(MOLECULES[:2]):
        numbers, x = atoms.numbers.tolist(), atoms.positions / BOHR
        _, energy, _ = dftb(dense, numbers, x, derivatives=derivatives, zeta=4.0)
        assert energies[k].item() == pytest.approx(energy + dense.repulsion(numbers, x), abs=1e-7)


def test_files_in_sparrow(trained):
    """SCINE Sparrow reads the trained set, repulsive splines, U and its derivatives, and has the same energies."""
    utils = pytest.importorskip("scine_utilities", reason="pip install scine-sparrow")
    pytest.importorskip("scine_sparrow", reason="pip install scine-sparrow")
    model, folder = trained
    with torch.no_grad():
        energies = model(batch_of(model, MOLECULES)).energy
    for k, atoms in enumerate(MOLECULES):
        calculator = utils.core.get_calculator("DFTB3", "Sparrow")
        calculator.log = utils.core.Log.silent()
        calculator.settings["method_parameters"] = str(folder)
        calculator.settings["self_consistence_criterion"] = 1e-10
        calculator.settings["density_rmsd_criterion"] = 1e-9
        elements = [utils.ElementInfo.element_from_symbol(s) for s in atoms.get_chemical_symbols()]
        calculator.structure = utils.AtomCollection(elements, atoms.positions / BOHR)
        calculator.set_required_properties([utils.Property.Energy])
        assert energies[k].item() == pytest.approx(calculator.calculate().energy, abs=1e-6)


def test_only_gold(tmp_path):
    """Pairs without gold stay as published; shell-resolved U of gold goes out and comes back."""
    folder = shared_data("skf/auorg-1-1")
    tables = read_skf_set(folder, [1, 6, 16, 79])
    options = {"order": 2, "shell_resolved": True, "smearing": Smearing("fermi-dirac", 0.01)}
    feeds = ("hamiltonian", "overlap", "onsite", "hubbard", "repulsion")
    model = perturb(TrainableDFTB(tables, feeds, ["Au"], **options), 1e-3)
    assert len(model.pairs) == 4 and len(model.slater_koster.rows) == 7
    batch = batch_of(model, [gold_thiolate(), molecule("CH3SH")])
    published = DFTB(tables, **options)
    result = model(batch)
    result.energy.sum().backward()
    assert model.hubbard.grad[79].abs().min() > 0 and (model.hubbard.grad[:79] == 0).all()
    with torch.no_grad():
        model.hubbard[:79] = published.hubbard[:79]
        result, plain = model(batch), published(batch)
    assert abs(result.energy[0] - plain.energy[0]) > 1e-4 and abs(result.energy[1] - plain.energy[1]) < 1e-12
    for name, text in trained_set(model).items():
        (tmp_path / name).write_text(text)
    back = DFTB(read_skf_set(tmp_path, [1, 6, 16, 79]), **options)
    with torch.no_grad():
        assert (back(batch).energy - result.energy).abs().max() < 1e-8
    for name in ("C-H", "S-S"):
        new, old = read_skf(tmp_path / f"{name}.skf"), read_skf(folder / f"{name}.skf")
        assert all(np.array_equal(new.hamiltonian[c], old.hamiltonian[c]) for c in old.hamiltonian)
        assert np.array_equal(new.spline.coefficients, old.spline.coefficients)


def test_a_polynomial_repulsive_becomes_a_spline(tmp_path):
    from tests.physics.skf_sets import write_set

    write_set(tmp_path, hamiltonian="huckel", n_rows=400)
    tables = read_skf_set(tmp_path, [1, 6])
    model = perturb(TrainableDFTB(tables, ["repulsion"], order=2), 1e-3)
    (tmp_path / "new").mkdir()
    for name, text in trained_set(model).items():
        (tmp_path / "new" / name).write_text(text)
    back = DFTB(read_skf_set(tmp_path / "new", [1, 6]), order=2)
    batch = batch_of(model, [shaken("CH4")])
    with torch.no_grad():
        assert back.repulsion(batch).item() == pytest.approx(model.repulsion(batch).item(), abs=1e-8)
    assert keys.POSITIONS in batch and back.repulsion(batch).item() != 0
