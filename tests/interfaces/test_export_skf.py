"""Exported Slater-Koster files, read back by two readers, hold the model's two-centre part."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols

from schnorb_t import keys
from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError, run_command
from schnorb_t.export_skf import main
from schnorb_t.interfaces.slater_koster_files import (
    onsite_means,
    slater_koster_files,
    taper,
    valence_shells,
)
from schnorb_t.nn.model import MatrixModel
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.physics.slater_koster import SlaterKoster
from schnorb_t.units import BOHR, DFTBPLUS_BOHR
from tests.interfaces import skf_reader
from tests.physics.skf_sets import flat_batch


def random_model() -> MatrixModel:
    """Made-up two-centre functions over s, p, d and f shells with cores; fixed basis, so that S is S0."""
    shells = {1: (0,), 14: (0, 0, 0, 1, 1, 2), 58: (0, 0, 0, 0, 0, 0, 3)}
    shells[58] = (0,) * 6 + (3,)  # five core s shells
    functions = {
        z: tuple(GaussianShell(l, (4.0 * 0.45**k + 0.15 * l,), (1.0,)) for k, l in enumerate(ls))
        for z, ls in shells.items()
    }
    model = MatrixModel(
        Basis("made-up", shells, functions),
        irreps="2x0e+2x1o+2x1e+2x2e",
        interactions=1,
        pair_channels=[2, 2, 2, 2],
        hidden=4,
        product_channels=2,
        cutoff=6.0,
        triangle_channels=0,
    )
    torch.manual_seed(1)
    part = model.two_centre
    with torch.no_grad():
        part.coefficients.normal_(0, 0.1)
        random = 0.05 * torch.randn(3, part.invariant.shape[0], dtype=torch.float64)
        onsite = (random @ part.invariant).reshape(part.onsite.shape)
        levels = torch.linspace(-9.0, -0.3, part.onsite.shape[1], dtype=torch.float64)
        mean = torch.diag_embed(levels.expand(3, -1))
        mean = (mean.reshape(3, -1) @ part.invariant.T @ part.invariant).reshape(part.onsite.shape)
        part.onsite.copy_(mean + onsite)
    return model.eval()


@pytest.fixture(scope="module")
def wide():
    return random_model()


def two_centre_matrices(model, numbers, positions):
    """H and S of the model without its network, by the model's own assembly: [m, m], our order."""
    batch = structures_to_batch([np.array(numbers)], [np.array(positions)], model.basis, model.cutoff)
    g = model.geometry(batch)

    def matrix(part):
        blocks = part.onsite[g.element], part.bond_blocks(g.element_i, g.element_j, g.distance)
        return model.geometry.symmetric(*blocks, g).padded()

    with torch.no_grad():
        h, s = matrix(model.two_centre), model.overlap0(g)
        if model.basis.projected:
            s = s + matrix(model.overlap_two_centre)
    return h[0].numpy(), s[0].numpy()


def to_valence(model, numbers):
    """[m, v]: the files' functions in the molecule's."""
    basis, shells = model.basis, valence_shells(model)
    columns, start = [], 0
    m = int(basis.n_orbitals(numbers).sum())
    for z in numbers:
        slots = basis.slot_shells(z)
        at = np.cumsum([0] + [2 * l + 1 for l in basis.shells[z]])
        for shell in shells[z]:
            for k in range(2 * shell.l + 1):
                column = np.zeros(m)
                for slot, c in zip(shell.slots, shell.coefficients, strict=True):
                    column[start + at[slots.index(slot)] + k] = c
                columns.append(column)
        start += at[-1]
    return np.stack(columns, 1)


def write(folder, model):
    for name, text in slater_koster_files(model).items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("which", ["toy", "wide"])
def test_independent_reader_finds_the_two_centre_blocks_of_rotated_dimers(which, model, wide, tmp_path):
    network = model.model if which == "toy" else wide
    folder = write(tmp_path, network)
    random = np.random.default_rng(0)
    basis, shells = network.basis, valence_shells(network)
    on_grid = [0.02 * k * DFTBPLUS_BOHR for k in (90, 133, 250)]
    off_grid = list(random.uniform(0.8, network.cutoff - 0.6, 5))
    for za in basis.elements:
        for zb in basis.elements:
            ls_a, ls_b = ([s.l for s in shells[z]] for z in (za, zb))
            for distance in on_grid + off_grid:
                v = random.normal(size=3)
                v *= distance / np.linalg.norm(v)
                h, s = two_centre_matrices(network, [za, zb], [np.zeros(3), v])
                t = to_valence(network, [za, zb])
                n = sum(2 * l + 1 for l in ls_a)
                found = skf_reader.block(
                    folder, chemical_symbols[za], chemical_symbols[zb], ls_a, ls_b, v / DFTBPLUS_BOHR
                )
                for expected, got in zip((h, s), found, strict=True):
                    assert np.abs((t.T @ expected @ t)[:n, n:] - got).max() < 1e-8, (za, zb, distance)
                own = (t.T @ h @ t)[:n, :n], (t.T @ s @ t)[:n, :n]
                energies = np.repeat([x.energy for x in shells[za]], [2 * l + 1 for l in ls_a])
                assert np.abs(own[0] - np.diag(energies)).max() < 1e-10 and np.abs(own[1] - np.eye(n)).max() < 1e-10


def test_the_packages_own_reader_finds_whole_molecules(model, tmp_path):
    """A molecule on the grid cannot be had; cubic splines over 0.02 Bohr leave 1e-7."""
    network = model.model
    tables = read_skf_set(write(tmp_path, network), network.basis.elements)
    assert tables.basis.shells == {1: (0,), 6: (0, 1), 7: (0, 1), 8: (0, 1)}
    assert [tables.valence_charges[z] for z in (1, 6, 7, 8)] == [1, 4, 5, 6]
    numbers = [8, 6, 1, 7]
    positions = np.array([[0.1, 0, 0], [1.1, 0.4, -0.5], [1.5, 1.4, 0.3], [2.0, -0.8, -0.6]])
    skf = SlaterKoster(tables)
    h, s = skf(flat_batch(skf.basis, [(numbers, positions * BOHR / DFTBPLUS_BOHR)]))
    t = to_valence(network, numbers)
    for expected, got in zip(two_centre_matrices(network, numbers, positions), (h, s), strict=True):
        assert np.abs(t.T @ expected @ t - got[0].detach().numpy()).max() < 1e-7
    # on the grid both agree to rounding
    v = np.array([2.0, -1.0, 2.0]) / 3 * 0.02 * 120 * DFTBPLUS_BOHR
    h, s = skf(flat_batch(skf.basis, [([7, 8], np.array([np.zeros(3), v]) * BOHR / DFTBPLUS_BOHR)]))
    t = to_valence(network, [7, 8])
    for expected, got in zip(two_centre_matrices(network, [7, 8], [np.zeros(3), v]), (h, s), strict=True):
        assert np.abs(t.T @ expected @ t - got[0].detach().numpy()).max() < 1e-9


def test_the_content_of_a_file(model, tmp_path):
    network = model.model
    folder = write(tmp_path, network)
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{a}-{b}.skf" for a in "CHNO" for b in "CHNO")
    carbon, mixed = skf_reader.read(folder / "C-C.skf", True), skf_reader.read(folder / "C-H.skf", False)
    own = {s.l: s for s in valence_shells(network)[6]}
    assert carbon["onsite"]["energy"] == pytest.approx({"d": 0.0, "p": own[1].energy, "s": own[0].energy})
    assert carbon["onsite"]["electrons"] == {"d": 0.0, "p": 2.0, "s": 2.0}
    assert carbon["onsite"]["spin"] == 0 and set(carbon["onsite"]["hubbard"]) == {0.0}
    assert carbon["mass"][0] == pytest.approx(12.011) and set(carbon["mass"][1:]) == {0.0} and mixed["mass"][0] == 0
    for file in (carbon, mixed):  # the repulsive is zero everywhere
        a = file["exponential"]
        assert all(np.exp(-a[0] * r + a[1]) + a[2] == 0 for r in (0.1, 0.4))
        assert len(file["spline"]) == 1 and set(file["spline"][0][2:]) == {0.0} and len(file["spline"][0]) == 8
        assert np.all(file["table"][-1] == 0)
        assert len(file["table"]) * file["step"] == pytest.approx(network.cutoff / DFTBPLUS_BOHR, abs=file["step"])
    assert (mixed["table"][:, :8] == 0).all()  # hydrogen has no p, C-H.skf no <s on C | p on H>
    assert np.abs(skf_reader.read(folder / "H-C.skf", False)["table"][:, 8]).max() > 1e-3
    text = (folder / "C-H.skf").read_text()
    assert "repulsive is ZERO" in text and "SCC = No" in text


def test_smooth_to_zero_at_the_cutoff(wide):
    cutoff = wide.cutoff / DFTBPLUS_BOHR
    x = cutoff - 1.0 + np.linspace(-0.2, 1.2, 1401)
    y = taper(x, cutoff)
    assert np.all(y[x <= cutoff - 1] == 1) and np.all(y[x >= cutoff] == 0) and np.all(np.diff(y) <= 0)
    assert np.abs(np.diff(y, 2)).max() < 1e-5  # no kink: curvature below 10 / Bohr^2


def test_the_core_is_decoupled_and_left_out(model):
    network = model.model
    h, s = onsite_means(network)
    row = network.basis.elements.index(8)
    oxygen = {x.l: x for x in valence_shells(network)[8]}
    at = [network.basis.layout_offsets[k] for k in oxygen[0].slots]
    h, s = (x[row][np.ix_(at, at)] for x in (h, s))
    levels, vectors = np.linalg.eig(np.linalg.solve(s, h))
    assert oxygen[0].energy == pytest.approx(levels.max()) and levels.min() < -15
    core = vectors[:, levels.argmin()]
    assert abs(core @ h @ oxygen[0].coefficients) < 1e-9 and abs(core @ s @ oxygen[0].coefficients) < 1e-9
    assert oxygen[0].coefficients[-1] > 0


def test_a_large_basis_has_no_slater_koster_file():
    basis = Basis("split", {6: (0, 0, 0, 1)}, {6: tuple(GaussianShell(l, (1.0 + l,), (1.0,)) for l in (0, 0, 0, 1))})
    network = MatrixModel(basis, irreps="2x0e+2x1o+2x1e+2x2e", interactions=1, hidden=4, product_channels=2)
    with pytest.raises(UserError, match="C has 2 of s in 'split'.*minimal basis"):
        valence_shells(network)


def test_orthogonal_orbitals_have_no_slater_koster_file():
    basis = Basis("small", {1: (0,)}, {1: (GaussianShell(0, (1.0,), (1.0,)),)})
    network = MatrixModel(
        basis, irreps="2x0e+2x1o+2x1e+2x2e", interactions=1, hidden=4, product_channels=2, orthogonal=True
    )
    with pytest.raises(UserError, match="orthogonal"):
        valence_shells(network)


def test_command(checkpoint, model, tmp_path, capsys):
    folder = tmp_path / "new" / "skf"
    main([str(checkpoint), "-o", str(folder)])
    printed = capsys.readouterr().out
    assert "16 files" in printed and "repulsive and Hubbard U are zero" in printed
    assert "1 core shell left out" in next(x for x in printed.splitlines() if x.startswith("C:"))
    expected = slater_koster_files(model.model, source="toy.ckpt, target toy")
    assert {p.name: p.read_text() for p in folder.iterdir()} == expected

    def fails(*arguments):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda: main([str(a) for a in arguments]))
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "--force" in fails(checkpoint, "-o", folder)
    assert "is a file" in fails(checkpoint, "-o", checkpoint)
    assert "no such model" in fails(tmp_path / "none.ckpt", "-o", tmp_path / "x")
    assert "between 0.005 and 0.1" in fails(checkpoint, "-o", folder, "--spacing", "0")
    assert "not a number" in fails(checkpoint, "-o", folder, "--spacing", "fine")
    main([str(checkpoint), "-o", str(folder), "--force", "--spacing", "0.05"])
    assert (folder / "C-C.skf").read_text().splitlines()[0] == f"0.05 {int(np.ceil(8 / DFTBPLUS_BOHR / 0.05)) + 1}"
    done = subprocess.run([sys.executable, "-m", "schnorb_t.export_skf", str(checkpoint), "-o", str(folder)])
    assert done.returncode == 2


def test_a_batch_of_the_model_is_what_the_files_start_from(model):
    """The model with its network switched off is its two-centre part: guards ``two_centre_matrices`` above."""
    import copy

    network = copy.deepcopy(model.model)
    network.electrostatics = None
    with torch.no_grad():
        for scale in (network.scale, network.overlap_scale):
            scale.onsite.zero_()
            scale.offsite = lambda rows, distance: torch.zeros(len(rows), 1, 1)
    numbers, positions = np.array([8, 1]), np.array([[0, 0, 0], [0.5, 0.6, 0.7]])
    batch = structures_to_batch([numbers], [positions], network.basis, network.cutoff)
    with torch.no_grad():
        out = network(batch)
    h, s = two_centre_matrices(network, numbers, positions)
    assert np.allclose(out[keys.HAMILTONIAN][0].numpy(), h, atol=1e-10)
    assert np.allclose(out[keys.OVERLAP][0].numpy(), s, atol=1e-10)
