"""Pages of predictions: what they hold and how they are written. ``test_viewer_browser.py`` opens them in a browser."""

import base64
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write
from scipy.spatial.transform import Rotation

import schnorb_t
from schnorb_t.basis import Basis
from schnorb_t.errors import run_command
from schnorb_t.interfaces.molden import drawn_orbitals
from schnorb_t.interfaces.plots import element_densities
from schnorb_t.interfaces.viewer import data as page_numbers
from schnorb_t.interfaces.viewer import folder as folders
from schnorb_t.interfaces.viewer import page_text
from schnorb_t.interfaces.viewer.data import first_view, page_data, radial_factors, shares
from schnorb_t.interfaces.viewer.doubt import explain, grade
from schnorb_t.predict import main
from schnorb_t.prediction import Origin, Prediction
from schnorb_t.units import HARTREE
from tests.interfaces.examples import prediction_of, tilted


@pytest.fixture(scope="module")
def organic():
    return schnorb_t.load("organic", "cpu")


@pytest.fixture(scope="module")
def formaldehyde(organic) -> Prediction:
    return organic.predict(tilted("H2CO"))


def data_in(text: str):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def unpacked(text: str, kind: str, columns: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind).reshape(-1, columns)


def test_a_page_holds_the_prediction(formaldehyde):
    x = formaldehyde
    data = data_in(page_text(x, 7))
    m = len(x.orbital_energies)
    assert data["index"] == 7 and data["numbers"] == x.atomic_numbers.tolist()
    assert np.allclose(data["positions"], x.positions, atol=1e-6)
    assert np.allclose(data["energies"], x.orbital_energies * HARTREE, atol=1e-6)
    assert np.allclose(data["spread"], x.orbital_energy_spread * HARTREE, atol=1e-4)
    assert np.allclose(data["charges"], x.mulliken_charges, atol=1e-4)
    assert (data["occupied"], data["core"], data["first"]) == (x.n_occupied, 0, 0)
    assert np.allclose(unpacked(data["coefficients"], "<f4", m).T, drawn_orbitals(x), atol=1e-6)
    assert np.allclose(unpacked(data["shares"], "<i2", m) * 1e-4, shares(x), atol=1e-4)
    assert data["model"] == "organic, wqvo of B3LYP/def2-SVP"


def test_shares_are_those_of_the_density_of_states(formaldehyde):
    grid = np.linspace(-20, 5, 300)
    total, parts = element_densities(formaldehyde, grid, 0.3)
    of_atom = shares(formaldehyde)
    assert np.allclose(of_atom.sum(0), 1)
    oxygen = of_atom[formaldehyde.atomic_numbers == 8].sum(0)
    x = (grid[:, None] - formaldehyde.orbital_energies * HARTREE) / 0.3
    assert np.allclose(np.exp(-0.5 * x**2) @ oxygen / (0.3 * math.sqrt(2 * math.pi)), parts["O"], atol=1e-8)


def test_radial_factors_normalise():
    a, r = np.array([3.1, 0.4]), np.linspace(0, 30, 60001)
    for l in range(4):
        c = radial_factors(a[:1], np.ones(1), l)
        assert np.trapezoid((r**l * np.exp(-a[0] * r**2) * c[0]) ** 2 * r**2, r) == pytest.approx(1, abs=1e-6)


def test_the_first_view_shows_a_plane_from_its_front():
    benzene = molecule("C6H6")
    benzene.rotate(63, (1, 2, 3))
    seen = Rotation.from_quat(first_view(benzene.positions)).apply(benzene.positions)
    flat = np.ptp(seen, axis=0)
    assert flat[2] < 0.4 * min(flat[:2])  # tilted a little
    for linear in (molecule("CO2"), molecule("H2")):
        assert np.isfinite(first_view(linear.positions)).all()
    assert np.linalg.norm(first_view(np.zeros((1, 3)))) == pytest.approx(1, abs=1e-4)


def test_one_page_needs_no_other_file_and_names_no_address(formaldehyde, tmp_path):
    formaldehyde.html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(text) < 300_000 and "BSD" in text and "Content-Security-Policy" in text
    assert not re.search(r'(src|href)="(?!data:)', text.split('<script type="application/json"')[0])
    assert "http" not in re.sub(r"<!--.*?-->", "", text, flags=re.S).replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_no_name_becomes_markup(formaldehyde):
    name = '</script><script>alert(1)</script> & "quoted" {{data}} <!--'
    x = replace(formaldehyde, name=name)
    text = page_text(x)
    assert "<script>alert" not in text and data_in(text)["name"] == name
    assert "alert(1)</script>" not in page_text(x).split("<title>")[1].split("</title>")[0]
    assert "<script>alert" not in x.view()._repr_html_()


def test_a_notebook_shows_the_page_in_a_frame(formaldehyde):
    view = formaldehyde.view(500)
    shown = view._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "height: 500px" in shown and "prediction.html" in repr(view)


def test_doubt_in_words(formaldehyde, organic):
    assert [grade(x) for x in (None, 0.1, 0.2, 0.4)] == ["unknown", "low", "raised", "high"]
    assert grade(0.4, 1.0) == "low"

    def words(spread, calibrated=True):
        origin = Origin("m", "full", "B3LYP/def2-SVP", calibrated)
        return explain(replace(formaldehyde, orbital_energy_spread=spread, origin=origin))

    spread = np.full(len(formaldehyde.orbital_energies), 0.5 / HARTREE)
    assert words(spread)["grade"] == "high" and "Not to be trusted" in words(spread)["headline"]
    assert "not calibrated" in " ".join(words(spread, False)["sentences"])
    unknown = words(None)
    assert unknown["grade"] == "unknown" and "no standard deviations" in " ".join(unknown["sentences"])


def test_what_cannot_be_drawn_is_said_and_the_rest_is_there():
    shells = Basis("shells only", {1: (0,)})
    overlap = np.array([[1.0, 0.4], [0.4, 1.0]])
    x = prediction_of(shells, [1, 1], [[0, 0, 0], [0, 0, 0.74]], -0.5 * overlap - 0.2 * np.eye(2)[::-1], overlap)
    data = data_in(page_text(x))
    assert data["coefficients"] is None and "shells only" in data["undrawable"] and len(data["energies"]) == 2
    helium = prediction_of(Basis("one", {2: (0,)}), [2], [[0, 0, 0]], -np.eye(1), np.eye(1))
    assert data_in(page_text(helium))["occupied"] == 1  # no LUMO, NaN nowhere


def test_very_large_molecules_keep_the_orbitals_about_the_gap(formaldehyde, monkeypatch):
    monkeypatch.setattr(page_numbers, "MOST_COEFFICIENTS", 40)
    monkeypatch.setattr(page_numbers, "max", lambda a, b: b if a == 20 else max(a, b), raising=False)
    data, m = page_data(formaldehyde), len(formaldehyde.orbital_energies)
    kept = unpacked(data["coefficients"], "<f4", m)
    homo = formaldehyde.n_occupied - 1
    assert len(kept) == 4 and data["first"] <= homo < homo + 1 < data["first"] + 4
    assert np.allclose(kept.T, drawn_orbitals(formaldehyde)[:, data["first"] : data["first"] + 4], atol=1e-6)


# ---- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def structures(tmp_path):
    path = tmp_path / "in.xyz"
    named = tilted("CH3OH")
    named.info["name"] = "wood alcohol/1"
    write(path, [tilted("H2O"), named], format="extxyz")
    return path


def test_predict_writes_pages_and_an_index(structures, tmp_path, capsys):
    out = tmp_path / "pages"
    main(["organic", str(structures), "--html", str(out), "--device", "cpu", "--doubt-above", "0.01"])
    assert sorted(p.name for p in out.iterdir()) == ["000000_H2O.html", "000001_wood_alcohol_1.html", "index.html"]
    assert f"open {out}/index.html in a browser" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))
    index = data_in((out / "index.html").read_text())
    columns = index["columns"]
    pages = [data_in((out / name).read_text()) for name in columns["file"]]
    for row, page in enumerate(pages):
        assert page["index_page"] == "index.html" and page["doubt"]["above"] == 0.01
        homo, lumo = page["energies"][page["occupied"] - 1 : page["occupied"] + 1]
        assert columns["homo"][row] == pytest.approx(homo, abs=1e-4)
        assert columns["gap"][row] == pytest.approx(lumo - homo, abs=1e-3)
        assert columns["grade"][row] == "high" and columns["doubt"][row] == pytest.approx(page["doubt"]["value"])
    numbers, xyz, bonds = index["sketches"][1]
    assert numbers == pages[1]["numbers"] and len(xyz) == 18 and len(bonds) == 10  # five bonds of methanol


def test_many_pages_share_one_script(structures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "SELF_CONTAINED", 1)
    out = tmp_path / "pages"
    main(["organic", str(structures), "-o", str(tmp_path / "o.h5"), "--html", str(out), "--device", "cpu"])
    page = (out / "000000_H2O.html").read_text()
    assert len(page) < 40_000 and f'<script src="{folders.SCRIPT}">' in page
    script = (out / folders.SCRIPT).read_text()
    assert "Redistribution and use" in script and "const Orbitals" in script and (tmp_path / "o.h5").exists()


def test_one_structure_has_no_index(tmp_path, capsys):
    write(tmp_path / "in.xyz", tilted("H2O"), format="extxyz")
    main(["organic", str(tmp_path / "in.xyz"), "--html", str(tmp_path / "pages"), "--device", "cpu"])
    assert [p.name for p in (tmp_path / "pages").iterdir()] == ["000000_H2O.html"]
    assert "000000_H2O.html in a browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        ([], "nothing to write"),
        (["--html", "pages", "--plot", "pages"], "one folder"),
        (["--html", "pages", "--cube", "homo"], "add -o"),
        (["--html", "in.xyz"], "is a file"),
        (["--html", "absent/pages"], "no such folder"),
        (["--html", "pages", "--broadening", "100"], "cannot be drawn"),
    ],
)
def test_wrong_arguments_stop_before_any_work(options, words, structures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(["organic", str(structures), *options]))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and len(error.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.xyz"]
