"""Using a model: ``schnorb_t.load``, ``Predictor`` and ``python -m schnorb_t.predict``."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.linalg
import torch
from ase.build import molecule
from ase.io import write

import schnorb_t
from schnorb_t import predictor as predictor_module
from schnorb_t.basis import Basis
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.interfaces import plots
from schnorb_t.predict import main
from schnorb_t.prediction import Prediction
from schnorb_t.training import checkpoint as checkpoint_module
from schnorb_t.units import HARTREE
from tests.training.examples import BASIS, geometries, toy_files


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return toy_files(folder)[0]


@pytest.fixture(scope="module")
def model(checkpoint):
    return schnorb_t.load(checkpoint, device="cpu")


@pytest.fixture
def molecules(tmp_path):
    path = tmp_path / "molecules.xyz"
    write(path, geometries())
    return path


def fails(capsys, *arguments) -> str:
    """The message of a command that ends with exit code 2 and no traceback."""
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(a) for a in arguments]))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


# ---- in Python -----------------------------------------------------------------------------------------------------


def test_one_molecule(model):
    atoms = molecule("CH3OH")
    found = model.predict(atoms)
    assert isinstance(found, Prediction)
    m = 2 * 5 + 4
    assert found.hamiltonian.shape == found.overlap.shape == found.orbital_coefficients.shape == (m, m)
    assert found.hamiltonian.dtype == found.orbital_energies.dtype == np.float64
    assert np.array_equal(found.hamiltonian, found.hamiltonian.T) and np.array_equal(found.overlap, found.overlap.T)
    e, _ = scipy.linalg.eigh(found.hamiltonian, found.overlap)
    assert np.allclose(found.orbital_energies, e, atol=1e-11)
    c = found.orbital_coefficients
    assert np.allclose(c.T @ found.overlap @ c, np.eye(m), atol=1e-10)
    assert found.n_electrons == 18 and found.n_occupied == 9 and found.formula == "CH4O"
    assert (found.homo, found.lumo) == (found.orbital_energies[8], found.orbital_energies[9])
    assert found.gap == found.lumo - found.homo > 0
    assert found.occupations.tolist() == [2.0] * 9 + [0.0] * (m - 9)
    assert np.trace(found.density @ found.overlap) == pytest.approx(18)
    # Mulliken by hand: carbon holds the first five orbitals
    populations = np.diag(found.density @ found.overlap)
    assert found.mulliken_charges[0] == pytest.approx(6 - populations[:5].sum())
    assert found.mulliken_charges.sum() == pytest.approx(0, abs=1e-9)


def test_a_degenerate_frontier_level_is_filled_evenly():
    basis = Basis("s", {1: (0,)})
    h = np.diag([-1.0, -0.5, -0.5, 0.0])
    found = Prediction(np.ones(4, int), np.eye(4, 3), basis, h, np.eye(4), np.diag(h), np.eye(4))
    assert found.occupations.tolist() == [2.0, 1.0, 1.0, 0.0]


def test_no_empty_orbital_no_lumo():
    helium = Prediction(np.array([2]), np.zeros((1, 3)), Basis("s", {2: (0,)}), *[np.eye(1)] * 2, [-0.9], np.eye(1))
    assert helium.homo == -0.9 and np.isnan(helium.lumo) and np.isnan(helium.gap)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_batch_equals_single_in_any_order(checkpoint, dtype, tolerance):
    model = schnorb_t.load(checkpoint, device="cpu", dtype=dtype)
    structures = geometries()[:7]
    alone = [model.predict(a) for a in structures]
    order = np.random.default_rng(0).permutation(len(structures))
    for batch_size in (None, 3):
        together = model.predict([structures[k] for k in order], batch_size=batch_size)
        for k, found in zip(order, together, strict=True):
            assert found.name == structures[k].info["name"]
            assert np.array_equal(found.atomic_numbers, structures[k].numbers)
            for what in ("hamiltonian", "overlap", "orbital_energies"):
                assert np.allclose(getattr(found, what), getattr(alone[k], what), rtol=0, atol=tolerance * 20), what


def test_predictions_come_batch_by_batch(model):
    structures = geometries()
    batches = model.predict_batches(structures, batch_size=5)
    first = next(batches)
    assert len(first) == 5
    sizes = [len(structures[k]) for k, _ in first]
    assert min(sizes) >= max(len(structures[k]) for batch in batches for k, _ in batch)


def test_structures_are_not_changed_and_not_shared(model):
    atoms = molecule("H2O")
    before = atoms.positions.copy()
    found = model.predict(atoms)
    found.positions[:] = 7.0
    assert np.array_equal(atoms.positions, before)


def test_molecules_far_apart_do_not_see_each_other(model):
    far = molecule("H2O") + molecule("CH4")
    # dipoles are felt as 1 / R^2; 500 Å leave 1e-6 Eh
    far.positions[3:] += [500.0, 0, 0]
    found, water, methane = model.predict([far, molecule("H2O"), molecule("CH4")])
    both = np.sort(np.concatenate((water.orbital_energies, methane.orbital_energies)))
    assert np.allclose(found.orbital_energies, both, atol=2e-6)
    assert model.predict([]) == []


def test_bad_structures_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr(model.model, "forward", lambda batch: pytest.fail("work before the check"))
    with pytest.raises(UserError, match="structure 1: open shell: 9 electrons, an odd number"):
        model.predict([molecule("H2O"), molecule("CH3")])
    with pytest.raises(UserError, match="Si"):
        model.predict(molecule("SiH4"))


def test_too_little_memory_halves_the_batch(model, monkeypatch):
    forward, tried = model.model.forward, []

    def small(batch):
        tried.append(len(batch["n_atoms"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    monkeypatch.setattr(model.model, "forward", small)
    structures = geometries()
    found = model.predict(structures, batch_size=8)
    assert [x.name for x in found] == [a.info["name"] for a in structures] and max(tried) == 8
    monkeypatch.setattr(model.model, "forward", lambda batch: small({**batch, "n_atoms": range(9)}))
    with pytest.raises(UserError, match=r"structure 0.*\(H2O\).*memory"):
        model.predict(structures[0])


def test_models_by_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "MODELS", tmp_path)
    with pytest.raises(UserError, match="comes without models"):
        schnorb_t.load("qm9")
    (tmp_path / "small.ckpt").write_bytes(checkpoint.read_bytes())
    assert schnorb_t.load("small").basis == BASIS
    with pytest.raises(UserError, match="no model 'qm9'; the package has small"):
        schnorb_t.load("qm9")
    with pytest.raises(UserError, match="no such model"):
        schnorb_t.load("runs/there/is/none.ckpt")


def test_unknown_device(checkpoint):
    with pytest.raises(UserError, match="device 'abacus'.*--device cpu"):
        schnorb_t.load(checkpoint, device="abacus")


def test_importing_the_package_is_cheap():
    code = "import sys, schnorb_t; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- the command ---------------------------------------------------------------------------------------------------


def test_command_writes_what_the_model_predicts(checkpoint, model, molecules, tmp_path, capsys):
    out = tmp_path / "out.h5"
    main([str(checkpoint), str(molecules), "-o", str(out), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "12 structures" in printed and "ms each" in printed and "the first 5 of 12" in printed
    structures = geometries()
    with h5py.File(out) as file:
        assert sorted(file) == [f"{k:06d}" for k in range(len(structures))]
        about = file.attrs
        assert about["n_structures"] == len(structures) and json.loads(about["skipped"]) == []
        assert Basis.from_json(about["basis"]) == BASIS
        assert "p: y, z, x" in about["orbital_order"]
        assert json.loads(about["units"])["hamiltonian"] == "Eh"
        assert json.loads(about["level_of_theory"]) == {"functional": "extended Hueckel"}
        assert about["schnorb_t_version"] == schnorb_t.__version__ and about["model"] == str(checkpoint)
        for k, atoms in enumerate(structures):
            group, expected = file[f"{k:06d}"], model.predict(atoms)
            assert set(group) == {"atomic_numbers", "positions", "hamiltonian", "overlap", "orbital_energies"}
            assert group["atomic_numbers"][:].tolist() == atoms.numbers.tolist()
            assert np.allclose(group["positions"], atoms.positions, atol=1e-7)
            for name in ("hamiltonian", "overlap", "orbital_energies"):
                assert np.allclose(group[name], getattr(expected, name), atol=1e-4)
            assert group.attrs["index"] == k and group.attrs["formula"] == atoms.get_chemical_formula(mode="hill")
            assert group.attrs["n_electrons"] == atoms.numbers.sum()
            n = atoms.numbers.sum() // 2
            assert group.attrs["homo"] == group["orbital_energies"][n - 1]
            assert group.attrs["lumo"] == group["orbital_energies"][n]
    line = next(x for x in printed.splitlines() if "CH4 " in x)
    assert float(line.split("│")[4]) == pytest.approx(model.predict(structures[1]).homo * HARTREE, abs=2e-3)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_command_reads_one_structure(checkpoint, tmp_path, capsys):
    write(tmp_path / "water.xyz", molecule("H2O"))
    main([str(checkpoint), str(tmp_path / "water.xyz"), "-o", str(tmp_path / "o.h5"), "--batch-size", "3"])
    with h5py.File(tmp_path / "o.h5") as file:
        assert list(file) == ["000000"]


def test_skip_bad_goes_on_and_lists_what_it_skipped(checkpoint, tmp_path, capsys):
    structures = geometries()[:4] + [molecule("CH3"), molecule("SiH4")]
    structures[2].positions[0] = np.nan
    path, out = tmp_path / "mixed.xyz", tmp_path / "out.h5"
    write(path, structures)
    message = fails(capsys, checkpoint, path, "-o", out)
    assert "mixed.xyz" in message and "3 of 6" in message and "structure 2 (NH3): position of atom 0" in message
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))
    main([str(checkpoint), str(path), "-o", str(out), "--skip-bad"])
    printed = capsys.readouterr().out
    assert "skipped structure 4: open shell: 9 electrons" in printed and "3 structures, 3 skipped" in printed
    with h5py.File(out) as file:
        assert sorted(file) == ["000000", "000001", "000003"]
        assert [x.split(":")[0] for x in json.loads(file.attrs["skipped"])] == [
            "structure 2 (NH3)",
            "structure 4",
            "structure 5",
        ]
    write(path, structures[4:])
    assert "2 of 2" in fails(capsys, checkpoint, path, "-o", tmp_path / "none.h5", "--skip-bad")


def test_an_existing_file_is_kept_unless_forced(checkpoint, molecules, tmp_path, capsys):
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    assert "--force" in fails(capsys, checkpoint, molecules, "-o", out)
    assert out.read_bytes() == b"precious"
    # not even a forced run touches it before the new one is whole
    write(tmp_path / "bad.xyz", molecule("CH3"))
    fails(capsys, checkpoint, tmp_path / "bad.xyz", "-o", out, "--force")
    assert out.read_bytes() == b"precious"
    main([str(checkpoint), str(molecules), "-o", str(out), "--force"])
    assert h5py.is_hdf5(out)


def test_a_failure_on_the_way_leaves_nothing_behind(checkpoint, molecules, tmp_path, capsys, monkeypatch):
    original, calls = predictor_module.orbitals_checked, []

    def breaks(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("structure 3: overlap is not positive definite")
        return original(*arguments)

    monkeypatch.setattr(predictor_module, "orbitals_checked", breaks)
    message = fails(capsys, checkpoint, molecules, "-o", tmp_path / "out.h5", "--batch-size", "2")
    assert "molecules.xyz, structure 3" in message and len(calls) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["molecules.xyz"]


def test_every_wrong_argument_has_its_message(checkpoint, molecules, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert "no such file" in fails(capsys, checkpoint, tmp_path / "none.xyz", "-o", out)
    assert "no such model" in fails(capsys, tmp_path / "none.ckpt", molecules, "-o", out)
    assert "no model 'nonsense'" in fails(capsys, "nonsense", molecules, "-o", out)
    assert "not a readable checkpoint" in fails(capsys, molecules, molecules, "-o", out)
    assert "no such folder" in fails(capsys, checkpoint, molecules, "-o", tmp_path / "there" / "out.h5")
    assert "is a folder" in fails(capsys, checkpoint, molecules, "-o", tmp_path)
    assert "is an input" in fails(capsys, checkpoint, molecules, "-o", molecules, "--force")
    assert "device 'abacus'" in fails(capsys, checkpoint, molecules, "-o", out, "--device", "abacus")
    (tmp_path / "empty.xyz").write_text("")
    assert "is empty" in fails(capsys, checkpoint, tmp_path / "empty.xyz", "-o", out)
    with pytest.raises(SystemExit) as stop:
        main([str(checkpoint), str(molecules), "-o", str(out), "--batch-size", "0"])
    assert stop.value.code == 2 and "must be 1 or more" in capsys.readouterr().err
    assert not out.exists() and molecules.read_text().startswith("3\n")


def test_plots_beside_a_reference(checkpoint, model, molecules, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "write_picture", lambda *a: drawn.append(a))
    labels = checkpoint.with_name("toy.h5")
    arguments = [str(checkpoint), str(molecules), "-o", str(tmp_path / "out.h5"), "--plot", str(tmp_path / "pictures")]
    main([*arguments, "--reference", str(labels), "--broadening", "0.5", "--plot-limit", "7"])
    assert "pictures of the first 7 of 12 structures (more with --plot-limit)" in capsys.readouterr().out
    store, structures = Store(labels), geometries()
    assert sorted(path.name for path, *_ in drawn) == [
        f"{k:06d}_{a.info['name']}.png" for k, a in enumerate(structures[:7])
    ]
    for _, prediction, reference, width in drawn:
        row = store.names.tolist().index(prediction.name)
        assert np.array_equal(reference.energies, store[row].large_basis_energies) and width == 0.5
        assert len(reference.basis_energies) == len(prediction.orbital_energies)
    drawn.clear()
    main([*arguments, "--force"])
    assert "pictures: pictures of 12 structures" in capsys.readouterr().out
    assert len(drawn) == 12 and all(reference is None and width == 0.3 for *_, reference, width in drawn)


def test_plots_are_pictures(checkpoint, molecules, tmp_path, capsys):
    from matplotlib.image import imread

    folder = tmp_path / "pictures"
    arguments = [str(checkpoint), str(molecules), "-o", str(tmp_path / "out.h5"), "--plot", str(folder)]
    main([*arguments, "--reference", str(checkpoint.with_name("toy.h5")), "--plot-limit", "2"])
    assert sorted(p.name for p in folder.iterdir()) == ["000000_H2O.png", "000001_CH4.png"]
    water, methane = (imread(p)[:, :, :3] for p in sorted(folder.iterdir()))
    assert water.shape == methane.shape and (water != methane).mean() > 0.01
    assert "holds files" in fails(capsys, *arguments[:2], "-o", tmp_path / "second.h5", *arguments[4:])


def test_wrong_arguments_of_plots_stop_before_any_work(checkpoint, molecules, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predictor_module.Predictor, "predict_batches", lambda *_: pytest.fail("work before the checks"))
    labels = tmp_path / "labels.h5"
    labels.write_bytes(checkpoint.with_name("toy.h5").read_bytes())
    before = labels.read_bytes()
    base = [checkpoint, molecules, "-o", tmp_path / "out.h5"]
    plot = [*base, "--plot", tmp_path / "pictures"]
    assert "add --plot" in fails(capsys, *base, "--reference", labels)
    assert "no such file" in fails(capsys, *plot, "--reference", tmp_path / "none.h5")
    assert "cannot be read as HDF5" in fails(capsys, *plot, "--reference", molecules)
    assert "0.01 to 10 eV" in fails(capsys, *plot, "--broadening", "30")
    assert "is a file" in fails(capsys, *base, "--plot", molecules)
    overwrite = [checkpoint, molecules, "-o", labels, "--force", "--plot", tmp_path / "pictures", "--reference", labels]
    assert "is an input" in fails(capsys, *overwrite)
    for text, message in (("-1", "above 0"), ("nan", "above 0"), ("wide", "is not a number")):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, plot), "--broadening", text])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    # a stranger, and a molecule that was moved
    structures = geometries()
    write(molecules, [*structures[:2], molecule("CH3CN")])
    message = fails(capsys, *plot, "--reference", labels)
    assert "molecules.xyz, structure 2: " in message and "holds no molecule" in message
    structures[1].positions[1] *= 1.1
    write(molecules, structures)
    assert "structure 1 (CH4): " in (message := fails(capsys, *plot, "--reference", labels))
    assert "other positions" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.h5", "molecules.xyz"]
    assert labels.read_bytes() == before


def test_a_failed_picture_leaves_nothing_behind(checkpoint, molecules, tmp_path, capsys, monkeypatch):
    from matplotlib.figure import Figure

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    arguments = [checkpoint, molecules, "-o", tmp_path / "out.h5", "--plot", tmp_path / "pictures"]
    assert "no space left" in fails(capsys, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["molecules.xyz"]


def test_the_command_as_a_process(checkpoint, tmp_path):
    write(tmp_path / "radical.xyz", molecule("CH3"))
    command = [sys.executable, "-m", "schnorb_t.predict", str(checkpoint), str(tmp_path / "radical.xyz")]
    done = subprocess.run([*command, "-o", str(tmp_path / "o.h5")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "odd number" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "o.h5").exists()
