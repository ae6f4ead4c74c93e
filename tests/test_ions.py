"""Ions from a file through every door: labels, projections, stores, ORCA, a small model, its predictions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from ase import Atoms
from ase.build import molecule

import schnorb_t
from schnorb_t.commands.evaluate import evaluate
from schnorb_t.commands.label import label_files
from schnorb_t.commands.merge import merge
from schnorb_t.commands.predict import predict
from schnorb_t.commands.project import project
from schnorb_t.data.store import Store, StoreWriter
from schnorb_t.data.validation import check
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import SchNOrbT
from schnorb_t.interfaces.dftbplus_input import input_text
from schnorb_t.interfaces.pyscf import to_mean_field
from schnorb_t.nn.model import MatrixModel
from schnorb_t.physics.occupations import ZERO_TEMPERATURE
from schnorb_t.prediction_file import read_predictions
from schnorb_t.reference.labels import LabelJob, record_of
from schnorb_t.reference.orca import find_jobs, import_orca
from schnorb_t.reference.pyscf import Level, basis_from_pyscf, label
from schnorb_t.structures import as_structure, fault_of, read_structures
from schnorb_t.training.checkpoint import load_single, write_checkpoint
from schnorb_t.training.run import train
from schnorb_t.training.transfer import Taken, start_from
from tests.reference.orca_examples import orca_json, orca_text, write_json

pyscf = pytest.importorskip("pyscf")
TETRAHEDRON = 0.5936 * np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
#: name -> elements, positions (Å), charge
IONS = {
    "ammonium": ("NHHHH", TETRAHEDRON, 1),
    "oxonium": ("OHHH", [[0, 0, 0.08], [0.94, 0, -0.2], [-0.47, 0.814, -0.2], [-0.47, -0.814, -0.2]], 1),
    "hydroxide": ("OH", [[0, 0, 0], [0, 0, 0.97]], -1),
    "formate": ("COOH", [[0, 0, 0], [0, 1.14, 0.55], [0, -1.14, 0.55], [0, 0, -1.13]], -1),
    "water": ("OHH", molecule("H2O").positions, 0),
    "methane": ("CHHHH", molecule("CH4").positions, 0),
}
EXTRA = {"methanol": ("COHHHH", molecule("CH3OH").positions, 0), "ammonia": ("NHHH", molecule("NH3").positions, 0)}


def frame(name: str, symbols: str, positions, charge: int, split: str) -> str:
    atoms = Atoms(symbols, positions)
    rows = [f"{s} {x:.10f} {y:.10f} {z:.10f}" for s, (x, y, z) in zip(symbols, atoms.positions, strict=True)]
    said = f" charge={charge}" if charge else ""
    return "\n".join(
        [str(len(atoms)), f"Properties=species:S:1:pos:R:3 name={name} group={name} split={split}{said}", *rows, ""]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ions")


@pytest.fixture(scope="module")
def xyz(folder) -> Path:
    split = {"methane": "val", "formate": "val"}
    path = folder / "ions.xyz"
    path.write_text("".join(frame(n, *x, split.get(n, "train")) for n, x in {**IONS, **EXTRA}.items()))
    return path


@pytest.fixture(scope="module")
def full(folder, xyz) -> Path:
    """Labels in the large basis itself."""
    label_files([xyz], output=folder / "full.h5", functional="PBE", basis="STO-3G", target="full", workers=1)
    return folder / "full.h5"


@pytest.fixture(scope="module")
def minimal(folder, full) -> Path:
    project(full, output=folder / "iao.h5", target="iao")
    return folder / "iao.h5"


def reference(name: str):
    symbols, positions, charge = IONS[name]
    mol = pyscf.gto.M(atom=list(zip(symbols, positions, strict=True)), basis="def2-SVP", charge=charge, verbose=0)
    mf = pyscf.dft.RKS(mol, xc="B3LYP").density_fit()
    mf.grids.level, mf.conv_tol = 1, 1e-9
    mf.kernel()
    assert mf.converged
    return mf


@pytest.mark.parametrize("name", ["ammonium", "oxonium", "hydroxide", "formate"])
def test_labels_are_pyscfs_and_projections_exact(name):
    """Total energy and levels of a plain PySCF calculation of the ion; occupied levels of every target."""
    symbols, positions, charge = IONS[name]
    atoms = Atoms(symbols, positions, info={"charge": charge, "name": name})
    level = Level()
    result, mf = label(atoms.numbers, atoms.positions, level, charge=charge), reference(name)
    assert result.total_energy == pytest.approx(mf.e_tot, abs=1e-7)
    levels = mf.eig(mf.get_fock(), mf.get_ovlp())[0]
    assert np.abs(result.energies - levels).max() < 1e-5
    assert result.n_electrons == mf.mol.nelectron
    assert np.abs(result.dipole - mf.dip_moment(unit="AU", verbose=0)).max() < 1e-4
    basis = basis_from_pyscf("def2-SVP", atoms.numbers)
    for target in ("wqao", "wqvo", "iao", "quambo"):
        record = record_of(
            target, basis, atoms.numbers, atoms.positions, result.hamiltonian, result.total_energy, result.n_electrons,
            name, name,
        )  # fmt: skip
        n = record.n_electrons // 2
        found = scipy.linalg.eigvalsh(record.hamiltonian, record.overlap)
        assert np.abs(found[:n] - record.large_basis_energies[:n]).max() < 1e-10
        assert record.charge == charge
    if name == "hydroxide":
        job = LabelJob(level, "wqvo")(replace(as_structure(atoms), group=name))
        assert job.charge == -1 and job.n_electrons == 8


def test_store_holds_charges_and_is_sound(full, minimal):
    charges = {name: q for name, (_, _, q) in {**IONS, **EXTRA}.items()}
    for path in (full, minimal):
        with Store(path) as store:
            assert dict(zip(store.names.tolist(), store.total_charges.tolist(), strict=True)) == charges
            assert {r.name: r.charge or 0 for r in map(store.__getitem__, range(len(store)))} == charges
        report = check(path)
        assert not report.errors.counts and "charged" not in report.warnings.counts


def test_an_ion_at_its_molecules_geometry_is_no_contradiction(folder):
    hydrogen = ("HH", [[0, 0, 0], [0, 0, 0.75]])
    path = folder / "vertical.xyz"
    path.write_text(
        frame("molecule", *hydrogen, 0, "train").replace("group=molecule", "group=H2")
        + frame("dianion", *hydrogen, -2, "train").replace("group=dianion", "group=H2")
    )
    label_files([path], output=folder / "vertical.h5", functional="PBE", basis="6-31G", target="full", workers=1)
    report = check(folder / "vertical.h5")
    assert not report.errors.counts and not report.warnings.counts
    with Store(folder / "vertical.h5") as store, StoreWriter(folder / "dianion.h5", store.header) as writer:
        writer.add(replace(store[1], name="another name"))
    merge([folder / "vertical.h5", folder / "dianion.h5"], output=folder / "merged.h5")
    with Store(folder / "merged.h5") as store:
        assert sorted(store.total_charges.tolist()) == [-2, -2, 0]


@pytest.mark.parametrize("suffix", ["json", "out"])
def test_orca(tmp_path, suffix):
    """A JSON file of ORCA 6, and a printed output, of an ion: imported with its charge."""
    mol = pyscf.gto.M(atom=list(zip("OH", IONS["hydroxide"][1], strict=True)), basis="def2-SVP", charge=-1, verbose=0)
    mf = pyscf.scf.RHF(mol)
    mf.conv_tol = 1e-11
    mf.kernel()
    path = tmp_path / f"oh.{suffix}"
    if suffix == "json":
        write_json(path, orca_json(mf))
    else:
        path.write_text(orca_text(mf))
    (report,) = import_orca(find_jobs([path]), tmp_path / "orca.h5")
    assert report.molecule, report.reason
    with Store(tmp_path / "orca.h5") as store:
        assert store[0].charge == -1 and store[0].n_electrons == 10
        assert np.abs(store[0].large_basis_energies - mf.mo_energy).max() < 1e-5


@pytest.fixture(scope="module")
def trained(folder, minimal) -> Path:
    """A small model of ions and neutral molecules, a few steps long."""
    result = train(configuration(folder, minimal, True), tell=lambda text: None)
    return result.best


def configuration(folder: Path, data: Path, total_charge: bool) -> dict:
    return {
        "config": str(Path(__file__).parents[1] / "configs" / "sample.yaml"),
        "runs": str(folder / "runs"),
        "data.path": str(data),
        "data.batch_size": 3,
        "model.network.irreps": "8x0e+8x1o+4x1e+4x2e",
        "model.network.interactions": 1,
        "model.network.pair_channels": [8, 4, 4, 4],
        "model.network.hidden": 8,
        "model.network.product_channels": 4,
        "model.network.chain_channels": 0,
        "model.network.triangle_channels": 0,
        "model.network.prior": None,
        "model.network.total_charge": total_charge,
        "trainer.max_epochs": 2,
        "trainer.enable_progress_bar": False,
        "trainer.logger": False,
    }


def test_ions_in_the_data_of_a_network_of_neutral_molecules_are_refused_by_name(folder, minimal):
    with pytest.raises(UserError, match=r"'ammonium' of split train has charge \+1, and the network knows neutral"):
        train(configuration(folder, minimal, False), tell=lambda text: None)


def test_every_door_behind_a_model(trained, xyz, minimal, tmp_path):
    predictor = schnorb_t.load(trained, device="cpu")
    assert predictor.card.charges == predictor.charges == (-1, 0, 1)
    structures = read_structures(xyz)
    predictions = predictor.predict(structures)
    for s, p in zip(structures, predictions, strict=True):
        assert p.charge == s.charge and p.n_electrons == s.n_electrons
        assert p.mulliken_charges.sum() == pytest.approx(s.charge, abs=1e-9)
        assert np.trace(p.density @ p.overlap) == pytest.approx(s.n_electrons, abs=1e-9)
        assert (p.homo, p.lumo) == tuple(p.orbital_energies[[s.n_electrons // 2 - 1, s.n_electrons // 2]])
        mf = to_mean_field(p)
        assert mf.mol.charge == s.charge and mf.mo_occ.sum() == s.n_electrons
        assert mf.mulliken_pop()[1].sum() == pytest.approx(s.charge, abs=1e-9)
        assert "/Charge = " + repr(float(s.charge)) in input_text(
            p.basis, sorted({*p.atomic_numbers.tolist()}), ZERO_TEMPERATURE, float(p.charge), False
        )
    by_name = {p.name: p for p in predictions}
    # the start knows that levels of cations lie lower, those of anions higher
    assert by_name["ammonium"].homo < by_name["ammonia"].homo - 0.15
    assert by_name["hydroxide"].homo > by_name["water"].homo + 0.15

    predict(str(trained), xyz, output=tmp_path / "p.h5", molden=tmp_path / "molden", device="cpu")
    read = dict(read_predictions(tmp_path / "p.h5"))
    assert [int(read[k]["charge"]) for k in range(len(structures))] == [s.charge for s in structures]
    assert [int(read[k]["n_electrons"]) for k in range(len(structures))] == [s.n_electrons for s in structures]
    for k, s in enumerate(structures):
        text = next((tmp_path / "molden").glob(f"*{k:06d}*")).read_text()
        occupations = [float(line.split("=")[1]) for line in text.splitlines() if line.strip().startswith("Occup")]
        assert sum(occupations) == s.n_electrons

    result = evaluate(str(trained), str(minimal), split="all", device="cpu")
    assert result["n_molecules"] == len(structures)

    atoms = structures[3].to_atoms()
    atoms.calc = SchNOrbT(predictor)
    assert atoms.get_charges().sum() == pytest.approx(-1, abs=1e-9)
    anion = atoms.calc.get_property("homo", atoms)
    atoms.info["charge"] = 1
    cation = atoms.calc.get_property("homo", atoms)  # the same atoms, another charge
    assert cation < anion - 1
    with pytest.raises(UserError, match=r"has charge -3 .*the model knows only charges -1, 0, \+1"):
        atoms.info["charge"] = -3
        atoms.calc.get_property("homo", atoms)


def test_models_of_neutral_molecules_refuse_ions_in_the_same_sentence(xyz, minimal, tmp_path):
    with pytest.raises(UserError, match=r"\(ammonium\): has charge \+1 \(charge\), and only neutral molecules can be"):
        predict("hcnof", xyz, output=tmp_path / "p.h5", device="cpu")


def test_charge_without_enough_electrons():
    assert "leaves 0 electrons" in fault_of(Atoms("H", info={"charge": 1}), charges=None)
    assert "only neutral" in fault_of(Atoms("H", info={"charge": 1}))


def test_transfer_from_a_model_of_neutral_molecules(trained, folder, minimal):
    """Its weights serve a network that reads the charge, whose own part begins anew."""
    source, card = load_single(trained)
    arguments = {k: v for k, v in card.arguments.items() if k not in ("total_charge", "prior")}
    torch.manual_seed(1)
    neutral = MatrixModel(card.basis, **arguments)
    path = folder / "neutral.ckpt"
    write_checkpoint(path, neutral, replace(card, arguments={**arguments}, charges=(0,)), "")
    assert schnorb_t.load(path, device="cpu").charges == (0,)
    before = {name: x.clone() for name, x in source.ions.state_dict().items()}
    assert start_from(source, path) is Taken.EVERYTHING
    assert all(torch.equal(before[name], x) for name, x in source.ions.state_dict().items())
    assert torch.equal(source.embedding.table.weight, neutral.embedding.table.weight)
