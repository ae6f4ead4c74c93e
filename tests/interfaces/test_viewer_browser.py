"""Pages in a real browser: headless Chromium, driven by playwright; skipped where one of them is missing."""

import os
import shutil
from io import BytesIO

import numpy as np
import pytest
from ase.io import write

import schnorb_t
from schnorb_t.interfaces.molden import drawn_orbitals
from schnorb_t.interfaces.viewer import folder as folders
from schnorb_t.interfaces.viewer import page_text, write_page
from schnorb_t.prediction import Prediction
from schnorb_t.units import BOHR
from tests.interfaces.examples import prediction_of, tilted

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: browser)")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
#: WebGL without a graphics card
SWITCHES = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 120_000  # ms; software rendering on a busy machine


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """``opened(path)``: a page that is ready; at the end it must have had no error and asked nobody for anything."""
    context = browser.new_context(viewport={"width": 1200, "height": 860}, offline=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))

    def open_(path):
        page.goto(f"file://{path}")
        page.wait_for_selector("body[data-ready]")
        return page

    page.requests = requests
    yield open_
    faults = [x for x in faults if "GL Driver Message" not in x and "swiftshader" not in x.lower()]
    assert not faults
    assert all(url.startswith(("file:///", "blob:", "about:")) for url in requests)
    context.close()


@pytest.fixture(scope="module")
def formaldehyde() -> Prediction:
    return schnorb_t.load("organic", "cpu").predict(tilted("H2CO"))


def picture(page) -> np.ndarray:
    from PIL import Image

    page.wait_for_timeout(100)
    return np.asarray(Image.open(BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def differ(a: np.ndarray, b: np.ndarray) -> int:
    """Pixels that are clearly of another colour."""
    return int((np.abs(a - b).max(-1) > 40).sum())


def test_a_page_draws_orbitals_and_a_click_on_a_level_changes_them(formaldehyde, opened, tmp_path):
    path = tmp_path / "page.html"
    formaldehyde.html(path)
    page = opened(path)
    assert page.requests == [f"file://{path}"]  # one file is all
    assert page.evaluate("document.body.dataset.ready") == "yes"  # with WebGL
    homo = picture(page)
    assert page.locator("#caption").inner_text().startswith("HOMO")
    page.click("#none")
    molecule = picture(page)
    assert differ(molecule, np.full_like(molecule, 255)) > 2000  # a molecule stands on white
    assert differ(homo, molecule) > 2000
    reds, blues = (homo - molecule)[..., 0], (homo - molecule)[..., 2]
    assert (reds < -60).sum() > 500 and (blues < -60).sum() > 500  # both signs of the orbital

    level = formaldehyde.n_occupied  # by a click where the diagram has the LUMO
    box = page.locator(f"line[data-level='{level}']").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lumo = picture(page)
    assert page.evaluate("document.body.dataset.level") == str(level)
    assert page.locator("#caption").inner_text().startswith("LUMO")
    assert min(differ(lumo, homo), differ(lumo, molecule)) > 2000

    page.focus("#diagram")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.body.dataset.level") == str(level - 1)
    assert differ(picture(page), homo) < 200  # the same picture again
    page.evaluate("document.getElementById('share').value = 40")
    page.locator("#share").dispatch_event("input")
    assert "encloses 40 %" in page.locator("#caption").inner_text() and differ(picture(page), homo) > 500


def _prediction_in(basis_name: str, name: str) -> Prediction:
    """A molecule with some orbitals of a large basis with f functions."""
    from schnorb_t.reference.pyscf import basis_from_pyscf, overlap_integrals

    atoms = tilted(name)
    basis = basis_from_pyscf(basis_name, atoms.numbers)
    overlap = overlap_integrals(basis, atoms.numbers, atoms.positions)
    random = np.random.default_rng(1).normal(size=overlap.shape)
    return prediction_of(basis, atoms.numbers, atoms.positions, random + random.T, overlap, name)


@pytest.mark.parametrize("kind", ["wqvo", "def2-TZVP"])
def test_values_and_surfaces_are_those_of_pyscf(kind, formaldehyde, opened, tmp_path):
    pytest.importorskip("pyscf")
    from schnorb_t.conventions import reorder_from_pyscf
    from schnorb_t.reference.pyscf import mole_from_basis

    x = formaldehyde if kind == "wqvo" else _prediction_in(kind, "H2O")
    write_page(tmp_path / "page.html", x)
    page = opened(tmp_path / "page.html")
    mol = mole_from_basis(x.basis, x.atomic_numbers, x.positions)
    orbitals = reorder_from_pyscf(mol).inverse().rows(drawn_orbitals(x))
    low = x.positions.min(0) - 1.57
    size = np.ceil((np.ptp(x.positions, axis=0) + 3.1) / 0.4).astype(int) + 1
    axes = [(o + 0.4 * np.arange(n)) / BOHR for o, n in zip(low, size, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    expected = mol.eval_gto("GTOval_sph", points) @ orbitals
    grid = {"origin": low.tolist(), "step": 0.4, "size": size.tolist()}
    page.evaluate(
        """() => { const d = page.data, n = d.energies.length; window.valuesOf = (k, grid) => Orbitals.evaluate(
        d.functions, d.numbers, d.positions, page.coefficients.subarray(k * n, (k + 1) * n), grid) }"""
    )
    found = page.evaluate("grid => page.data.energies.map((_, k) => Array.from(valuesOf(k, grid)))", grid)
    assert np.ptp(expected) > 0.5
    assert np.abs(np.array(found).T - expected).max() < 3e-6 * max(1, np.abs(expected).max())

    if kind != "wqvo":  # those orbitals, of random numbers, are no smooth ones
        return
    level, k = 0.05, x.n_occupied - 1
    *mesh, enclosing, total, inside = page.evaluate(
        """([k, level]) => { const g = Orbitals.gridAbout(page.data.positions, 3, 0.15, 1e6), v = valuesOf(k, g);
        const s = Orbitals.surface(v, g, level, -1), flat = list => list.map(p => [p.x, p.y, p.z]);
        const e = Orbitals.valueEnclosing(v, 0.75);
        const sum = least => v.reduce((a, b) => a + (Math.abs(b) > least ? b * b : 0), 0);
        return [flat(s.vertices), flat(s.normals), s.faces, e, sum(0), sum(e)] }""",
        [k, level],
    )
    assert 0 < enclosing < 1 and inside / total == pytest.approx(0.75, abs=0.02)
    vertices, normals, faces = (np.array(m) for m in mesh)
    values = mol.eval_gto("GTOval_sph", vertices / BOHR) @ orbitals[:, k]
    assert len(vertices) > 200 and np.abs(values + level).mean() < 0.03 * level
    assert np.quantile(np.abs(values + level), 0.98) < 0.15 * level
    triangles = faces.reshape(-1, 3)
    edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()  # closed: no edge with one side
    a, b, c = (vertices[triangles[:, q]] for q in range(3))
    across = np.cross(b - a, c - a)
    assert ((across * normals[triangles].mean(1)).sum(1) > 0).mean() > 0.98  # faces and normals look outwards
    away = mol.eval_gto("GTOval_sph", (vertices + 0.05 * normals) / BOHR) @ orbitals[:, k]
    assert (away > values).mean() > 0.98  # the lobe's value is negative: outwards it rises


def test_a_notebooks_frame_draws(formaldehyde, opened, tmp_path):
    (tmp_path / "cell.html").write_text(
        f"<!doctype html><body data-ready><p>Out[1]:</p>{formaldehyde.view(600)._repr_html_()}", encoding="utf-8"
    )
    page = opened(tmp_path / "cell.html")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready='yes']").wait_for()
    assert frame.locator("body").get_attribute("data-level") == str(formaldehyde.n_occupied - 1)


def test_the_index_sorts_filters_and_leads_to_pages(opened, tmp_path, monkeypatch, capsys):
    from schnorb_t.predict import main

    monkeypatch.setattr(folders, "SELF_CONTAINED", 1)  # as of many: pages share a script
    names = ["H2O", "CH3OH", "H2CO", "CH4", "NH3"]
    structures = [tilted(name) for name in names]
    structures[1].info["name"] = "<img src=x onerror=alert(1)>"
    write(tmp_path / "in.xyz", structures, format="extxyz")
    main(["organic", str(tmp_path / "in.xyz"), "--html", str(tmp_path / "pages"), "--device", "cpu"])
    page = opened(tmp_path / "pages" / "index.html")
    gaps = page.evaluate("JSON.parse(document.getElementById('data').textContent).columns.gap")

    def shown() -> list[int]:
        return page.evaluate("[...document.querySelectorAll('#rows tr[data-row]')].map(r => Number(r.dataset.row))")

    assert shown() == [0, 1, 2, 3, 4]
    page.click("th[data-key='gap'] button")
    assert shown() == np.argsort(gaps).tolist()
    assert page.locator("th[data-key='gap']").get_attribute("aria-sort") == "ascending"
    page.click("th[data-key='gap'] button")
    assert shown() == np.argsort(gaps)[::-1].tolist()
    page.click("th[data-key='formula'] button")
    assert shown() == [2, 3, 1, 0, 4]  # CH2O, CH4, CH4O, H2O, H3N: numbers as numbers
    page.fill("#search", "ch4")
    assert shown() == [3, 1]
    page.fill("#search", "")
    marks = "[...document.getElementById('points').getContext('2d').getImageData(60, 10, 400, 300).data]"
    assert page.evaluate(f"{marks}.filter((v, k) => k % 4 === 3 && v > 150).length") > 50  # points of the scatter plot
    page.select_option("#up", "doubt")
    page.click("tr[data-row='2'] a")
    page.wait_for_selector("body[data-ready='yes']")
    assert page.locator("#title").inner_text().startswith("CH") and page.requests[-1].endswith(folders.SCRIPT)
    page.click("#back a")
    page.wait_for_selector("#rows")


def test_without_webgl_the_numbers_are_there(browser, formaldehyde, tmp_path):
    (tmp_path / "page.html").write_text(page_text(formaldehyde), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector("body[data-ready='without WebGL']", timeout=PATIENCE)
    assert "no WebGL" in page.locator("#note").inner_text()
    assert page.locator("line.level").count() == len(formaldehyde.orbital_energies)
    context.close()


def test_a_phone_shows_all_of_it(formaldehyde, opened, tmp_path):
    write_page(tmp_path / "page.html", formaldehyde)
    page = opened(tmp_path / "page.html")
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.evaluate(
        "[...document.querySelectorAll('#diagram text.soft')].map(t => t.getBoundingClientRect())"
        ".filter(r => r.width).map(r => [r.left, r.right, r.top, r.bottom])"
    )
    assert all(right <= 390 for _, right, _, _ in boxes)
    captions = [b for b in boxes if b[3] > max(x[3] for x in boxes) - 40]
    for k, a in enumerate(captions):  # none runs into another
        for b in captions[k + 1 :]:
            assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 2 or b[3] <= a[2] + 2, (a, b)
