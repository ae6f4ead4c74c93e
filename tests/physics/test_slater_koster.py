import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from schnorb_t import keys
from schnorb_t.errors import UserError
from schnorb_t.physics.repulsion import Repulsion
from schnorb_t.physics.skf import read_skf, read_skf_set
from schnorb_t.physics.slater_koster import SlaterKoster, unordered_pairs
from schnorb_t.units import BOHR
from tests.physics.dense_dftb import Tables
from tests.physics.skf_sets import SHELLS, WITH_F, flat_batch, integrals, write_set
from tests.shared_data import shared_data

MIO = {1: (0,), 6: (0, 1), 7: (0, 1), 8: (0, 1)}


def random_molecules(elements, sizes, seed=0, spread=1.6):
    """Atoms at least 0.9 Å apart, in any order of elements, and so in random directions."""
    rng = np.random.default_rng(seed)
    out = []
    for n in sizes:
        positions = np.zeros((0, 3))
        while len(positions) < n:
            p = rng.normal(size=3) * spread
            if len(positions) == 0 or np.linalg.norm(positions - p, axis=1).min() > 0.9:
                positions = np.vstack([positions, p])
        out.append((rng.choice(elements, n).tolist(), positions))
    out.append(([elements[0], elements[-1], elements[0]], np.array([[0, 0, 0], [0, 0, -1.3], [0, 0, 2.0]])))
    return out


@pytest.fixture(scope="module")
def own_set(tmp_path_factory):
    pytest.importorskip("pyscf")
    return write_set(tmp_path_factory.mktemp("skf"), extended=[(16, 6), (6, 6), (1, 16)])


def test_overlap_and_kinetic_energy_equal_pyscf(own_set):
    """Tables of two-centre integrals of s, p, d functions become PySCF's matrices of molecules in any direction."""
    tables = read_skf_set(own_set, [1, 6, 16])
    assert tables.basis.shells == SHELLS
    model = SlaterKoster(tables)
    molecules = random_molecules([1, 6, 16], [5, 3, 7])
    batch = flat_batch(model.basis, molecules)
    h, s = model(batch)
    for b, (numbers, positions) in enumerate(molecules):
        n = int(batch[keys.ORBITAL_MASK][b].sum())
        for matrix, name in ((h, "int1e_kin"), (s, "int1e_ovlp")):
            reference = integrals(numbers, positions / BOHR, name)
            assert np.abs(matrix[b, :n, :n].detach().numpy() - reference).max() < 1e-7, name
            assert (matrix[b, n:] == 0).all() and (matrix[b, :, n:] == 0).all()
        assert torch.equal(h[b], h[b].T)


def test_f_shells_of_the_extended_format(tmp_path):
    pytest.importorskip("pyscf")
    pairs = [(a, b) for a in WITH_F for b in WITH_F]
    write_set(tmp_path, extended=pairs, gaussians=WITH_F)
    model = SlaterKoster(read_skf_set(tmp_path, [1, 6, 16]))
    assert model.basis.shells[16] == (0, 1, 2, 3)
    (numbers, positions), *_ = random_molecules([1, 6, 16], [5], seed=4)
    numbers[0], numbers[1] = 1, 16
    assert numbers.count(16) >= 2 and set(numbers) == {1, 6, 16}
    h, s = model(flat_batch(model.basis, [(numbers, positions)]))
    for matrix, name in ((h, "int1e_kin"), (s, "int1e_ovlp")):
        reference = integrals(numbers, positions / BOHR, name, WITH_F)
        assert np.abs(matrix[0].detach().numpy() - reference).max() < 3e-7, name


def test_order_of_atoms_does_not_matter(own_set):
    model = SlaterKoster(read_skf_set(own_set, [1, 6, 16]))
    (numbers, positions), *_ = random_molecules([1, 6, 16], [6], seed=3)
    order = np.random.default_rng(0).permutation(6)
    h, s = model(flat_batch(model.basis, [(numbers, positions)]))
    again = model(flat_batch(model.basis, [([numbers[k] for k in order], positions[order])]))
    labels = [[a for a, *_ in model.basis.orbital_labels(x)] for x in (numbers, [numbers[k] for k in order])]
    place = np.concatenate([np.flatnonzero(np.array(labels[0]) == k) for k in order])
    for x, y in zip((h, s), again, strict=True):
        assert (x[0][place][:, place] - y[0]).abs().max() < 1e-12


def test_mio_against_dense_reference():
    folder = shared_data("skf/mio-1-1")
    tables = read_skf_set(folder, [1, 6, 7, 8])
    assert tables.basis.shells == MIO
    assert tables.valence_charges[[1, 6, 7, 8]].tolist() == [1, 4, 5, 6]
    assert tables.hubbard[8] == 0.4954 and tables.files[8, 8].mass == 16.01
    model, repulsion = SlaterKoster(tables), Repulsion(tables)
    # one molecule so long that its ends stand in the tables' tails and beyond
    molecules = random_molecules([1, 6, 7, 8], [6, 2, 9], seed=1)
    molecules.append(([8, 6, 1, 7, 1], np.array([[0, 0, 0], [3.0, 4.2, 0.3], [0.1, 5.4, 1.0], [0, -3, 8], [7, 1, 0]])))
    batch = flat_batch(model.basis, molecules)
    h, s = model(batch)
    energy = repulsion(batch)
    dense = Tables(folder, MIO)
    for b, (numbers, positions) in enumerate(molecules):
        h0, s0, _ = dense.matrices(numbers, positions / BOHR)
        n = len(h0)
        assert np.abs(h[b, :n, :n].detach().numpy() - h0).max() < 1e-9
        assert np.abs(s[b, :n, :n].detach().numpy() - s0).max() < 1e-9
        assert energy[b].item() == pytest.approx(dense.repulsion(numbers, positions / BOHR), abs=1e-12)


def test_repulsion_everywhere():
    """Exponential wall, cubic pieces, last quintic, cutoff of a spline, and a polynomial's."""
    folder = shared_data("skf/mio-1-1")
    tables = read_skf_set(folder, [1, 6])
    repulsion, dense = Repulsion(tables), Tables(folder, MIO)
    r = torch.linspace(0.5, 5.0, 451, dtype=torch.float64)
    for t, (a, b) in enumerate([(1, 1), (1, 6), (6, 1), (6, 6)]):
        v = repulsion.pair_energy(torch.full((451,), t), r)
        reference = [dense.pair_repulsion(a, b, x) for x in r.tolist()]
        assert np.abs(v.numpy() - reference).max() < 1e-12
        assert v[-1] == 0 and v[0] > 0.1


def test_polynomial_repulsion_and_forces(own_set):
    tables = read_skf_set(own_set, [1, 6, 16])
    model, repulsion = SlaterKoster(tables), Repulsion(tables)
    molecules = random_molecules([1, 6, 16], [4, 3], seed=5)
    batch = flat_batch(model.basis, molecules)
    energy = repulsion(batch)
    for b, (_, positions) in enumerate(molecules):
        p, expected = positions / BOHR, 0.0
        for i in range(len(p)):
            for j in range(i):
                x = max(4.0 - np.linalg.norm(p[i] - p[j]), 0)
                expected += 0.1 * x**2 - 0.02 * x**3 + 0.003 * x**4
        assert energy[b].item() == pytest.approx(expected, abs=1e-12)
    positions = batch[keys.POSITIONS].clone().requires_grad_()

    def function(x):
        h, s = model({**batch, keys.POSITIONS: x})
        return h.sum((1, 2)), (s**2).sum((1, 2)), repulsion({**batch, keys.POSITIONS: x})

    assert torch.autograd.gradcheck(function, positions, atol=1e-6, eps=1e-5)


def test_coarse_splines_stay_close_and_learn(own_set):
    tables = read_skf_set(own_set, [1, 6, 16])
    fine, coarse = SlaterKoster(tables), SlaterKoster(tables, spacing=0.2)
    assert coarse.coefficients.numel() < fine.coefficients.numel() / 9
    batch = flat_batch(fine.basis, random_molecules([1, 6, 16], [5, 4]))
    (h, s), (h2, s2) = fine(batch), coarse(batch)
    assert (h - h2).abs().max() < 1e-3 and (s - s2).abs().max() < 1e-3
    (s2**2).sum().backward()
    grad = coarse.coefficients.grad
    assert grad.isfinite().all() and grad.abs().max() > 1e-3
    assert grad[..., : len(coarse.channels)].abs().max() == 0  # S does not see the columns of H


def test_rotated_twice_is_rotated(own_set):
    """A molecule and its turned copy have the same levels."""
    from schnorb_t.physics.eigen import solve

    model = SlaterKoster(read_skf_set(own_set, [1, 6, 16]))
    (numbers, positions), *_ = random_molecules([1, 6, 16], [4], seed=7, spread=2.2)
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    batch = flat_batch(model.basis, [(numbers, positions), (numbers, positions @ turn.T)])
    h, s = model(batch)
    energies, _ = solve(h, s, batch[keys.ORBITAL_MASK])
    assert (energies[0] - energies[1]).abs().max() < 1e-9


def test_unordered_pairs():
    pairs = unordered_pairs(torch.tensor([0, 1, 1, 1, 2, 2]), 3)
    assert sorted(map(tuple, pairs.T.tolist())) == [(1, 2), (1, 3), (2, 3), (4, 5)]
    assert unordered_pairs(torch.tensor([0, 1]), 2).shape == (2, 0)


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda t: t[: len(t) // 2], r"A-B.skf, line \d+: expected row|A-B.skf: ends before row"),
        (lambda t: "<html>" + t, "A-B.skf, line 1: expected spacing"),
        (lambda t: t.replace("Spline\n2 4.0", "Spline\n5 4.0"), "spline repulsive at line .* is the file complete"),
        (lambda t: t.replace("0.02 30", "-1 30", 1), "make no table"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    rows = "\n".join(" ".join(["1e-3"] * 9 + [f"{k}D-2"] + ["10*0.5"]) for k in range(29))
    text = f"0.02 30\n20*0.0\n{rows}\nSpline\n2 4.0\n1.0 2.0 3.0\n1.0 2.0 4*0.1\n2.0 4.0 6*0.1\n"
    path = tmp_path / "A-B.skf"
    path.write_text(text)
    file = read_skf(path)
    assert file.hamiltonian[0, 0, 0][3] == 0.03 and file.spline.cutoff == 4.0
    path.write_text(damage(text))
    with pytest.raises(UserError, match=message):
        read_skf(path)


def skf_text(like: bool, extended: bool = False) -> str:
    """A file of zeros but for row 3; on-site energies 0.1, 0.2, ... and a mass of 12 where both atoms are alike."""
    half = 20 if extended else 10
    onsite = " ".join(f"{0.1 * k:.1f}" for k in range(1, 14 if extended else 11))
    head = ["@"] * extended + ["0.02 11"] + ([onsite, "12.0 19*0.0"] if like else ["0.0 19*0.0"])
    return "\n".join(head + [f"{2 * half}*{0.5 if k == 3 else 0.0}" for k in range(1, 11)]) + "\n"


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    "name",
    ["C-C.skf", "_C-C.skf", "c-c.skf", "C-C_old.skf", "mio-1-1_C-C.skf", "C-C.2.skf", "Si-Si.skf", "x.skf", "C.1.skf",
     "set-3-C-C.skf", "no-C-C.skf"],
)  # fmt: skip
def test_files_of_one_element_under_any_name(tmp_path, name, extended):
    folder = tmp_path / "C-H-set"
    folder.mkdir()
    (folder / name).write_text(skf_text(True, extended))
    found = read_skf(folder / name)
    assert found.mass == 12.0 and len(found.overlap[0, 0, 0]) == 10
    assert found.overlap[0, 0, 0].tolist() == [0, 0, 0.5] + [0] * 7
    assert found.onsite[0][0] == pytest.approx(0.4 if extended else 0.3)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    "name", ["C-H.skf", "_C-H.skf", "c-h.skf", "C-H-old.skf", "pair.skf", "C-Cl.skf", "my-H-C.skf"]
)
def test_files_of_two_elements_under_any_name(tmp_path, name, extended):
    (tmp_path / name).write_text(skf_text(False, extended))
    found = read_skf(tmp_path / name)
    assert not found.onsite and found.overlap[0, 0, 0].tolist() == [0, 0, 0.5] + [0] * 7


def test_names_that_contradict_the_content(tmp_path):
    (tmp_path / "C-C.skf").write_text(skf_text(False))
    (tmp_path / "C-H.skf").write_text(skf_text(True))
    with pytest.raises(UserError, match="C-C.skf: named for two atoms of one element, but its second line has 20"):
        read_skf(tmp_path / "C-C.skf")
    with pytest.raises(UserError, match="C-H.skf: named for two elements, but .* a mass of 12"):
        read_skf(tmp_path / "C-H.skf")
    short = skf_text(False).replace("0.0 19*0.0", "0.0 9*0.0")  # no dummies: only a name tells
    (tmp_path / "x.skf").write_text(short)
    (tmp_path / "H-C.skf").write_text(short)
    with pytest.raises(UserError, match="neither name .* nor content"):
        read_skf(tmp_path / "x.skf")
    assert read_skf(tmp_path / "x.skf", homonuclear=False).mass == 0 == read_skf(tmp_path / "H-C.skf").mass


def test_a_set_of_lower_case_files(tmp_path):
    for a in "ch":
        for b in "ch":
            (tmp_path / f"{a}-{b}.skf").write_text(skf_text(a == b))
    found = read_skf_set(tmp_path, [1, 6])
    assert found.files[6, 6].mass == 12.0 and not found.files[1, 6].onsite


def test_missing_pair_is_named(tmp_path):
    with pytest.raises(UserError, match="H-H.skf: not there"):
        read_skf_set(tmp_path, [1])
