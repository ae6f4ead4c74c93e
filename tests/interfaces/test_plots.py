"""What is drawn in orbital-energy diagrams and densities of states, read back from the axes."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from scipy.integrate import trapezoid

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces import plots
from schnorb_t.interfaces.plots import (
    density_of_states_plot,
    element_densities,
    energy_window,
    level_diagram,
    levels_picture,
    picture_name,
    write_picture,
)
from schnorb_t.interfaces.reference_levels import ReferenceLevels
from schnorb_t.prediction import Prediction
from schnorb_t.units import HARTREE
from tests.interfaces.examples import prediction_of
from tests.training.examples import BASIS, record

CORE = {"C6H6": 6, "CH3CHO": 3}


def predicted(atoms: Atoms, name: str) -> Prediction:
    atoms.info["name"] = name
    labels = record(atoms, "test")
    return prediction_of(BASIS, labels.atomic_numbers, labels.positions, labels.hamiltonian, labels.overlap, name)


@pytest.fixture(scope="module")
def benzene():
    """Exactly D6h, so that its e levels are exactly degenerate."""
    angle = np.arange(6) * np.pi / 3
    ring = np.stack((np.cos(angle), np.sin(angle), 0 * angle), axis=1)
    return predicted(Atoms("C6H6", np.concatenate((1.39 * ring, 2.48 * ring))), "C6H6")


@pytest.fixture(scope="module")
def ethanal():
    return predicted(molecule("CH3CHO"), "CH3CHO")


@pytest.fixture(scope="module")
def reference(ethanal):
    """Every level a little elsewhere, and seven more above."""
    own = ethanal.orbital_energies + np.linspace(-0.01, 0.02, len(ethanal.orbital_energies))
    large = np.concatenate((own, own[-1] + np.arange(-3, 4) * 0.01))
    return ReferenceLevels(np.sort(large), "PBE/big", own, "PBE/big, toy")


def segments(axes, gid: str) -> np.ndarray:
    """[n, 2, 2] ends of the drawn lines of one kind, by height."""
    found = next(c for c in axes.collections if c.get_gid() == gid)
    ends = np.array(found.get_segments()).reshape(-1, 2, 2)
    return ends[np.argsort(ends[:, 0, 1], kind="stable")]


def labels(axes, gid: str) -> list[str]:
    return [t.get_text().replace("\N{MINUS SIGN}", "-") for t in axes.texts if t.get_gid() == gid]


def curve(axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """(density, energy) of a line in the density of states."""
    line = next(x for x in axes.lines if x.get_label() == label)
    return line.get_xdata(), line.get_ydata()


# ---- orbital-energy diagram ----------------------------------------------------------------------------------------


def test_every_valence_level_is_a_line_at_its_energy(benzene):
    axes = level_diagram(benzene)
    energies, core, n = benzene.orbital_energies * HARTREE, CORE["C6H6"], benzene.n_occupied
    occupied, virtual = (segments(axes, f"predicted {kind}") for kind in ("occupied", "virtual"))
    assert np.allclose(occupied[:, :, 1], energies[core:n, None], rtol=0, atol=1e-9)
    assert np.allclose(virtual[:, :, 1], energies[n:, None], rtol=0, atol=1e-9)
    low, high = axes.get_ylim()
    assert energies[core - 1] < low < energies[core] and high > energies[-1]
    assert axes.get_xlabel() == "6 core levels not drawn"


def test_degenerate_levels_stand_side_by_side(benzene):
    axes = level_diagram(benzene)
    energies = benzene.orbital_energies * HARTREE
    assert np.ptp(energies[19:21]) < 1e-9 and np.ptp(energies[21:23]) < 1e-9
    lines = np.concatenate([segments(axes, f"predicted {kind}") for kind in ("occupied", "virtual")])
    near = np.diff(energies[CORE["C6H6"] :]) < 1e-6
    assert near.sum() >= 8  # the e levels of D6h
    for k, degenerate in enumerate(near):
        left, right = sorted((lines[k], lines[k + 1]), key=lambda line: line[0, 0])
        if degenerate:
            assert left[1, 0] < right[0, 0]
            assert right[1, 0] - right[0, 0] == pytest.approx(left[1, 0] - left[0, 0])
    single = ~np.concatenate(([False], near)) & ~np.concatenate((near, [False]))
    assert single.any() and np.allclose(np.diff(lines[single][:, :, 0]), 0.72)
    assert lines[:, :, 0].min() == pytest.approx(-0.36) and lines[:, :, 0].max() == pytest.approx(0.36)
    # both members of the HOMO and of the LUMO are marked
    widths = [c.get_linewidths() for c in axes.collections if c.get_gid()]
    assert [int((np.asarray(w) > 1).sum()) for w in widths] == [2, 2]


def test_homo_lumo_and_gap_are_written(ethanal, reference):
    axes = level_diagram(ethanal, reference)
    for name, energies in (("predicted", ethanal.orbital_energies), ("reference", reference.energies)):
        homo, lumo = energies[[11, 12]] * HARTREE
        assert labels(axes, f"{name} label") == [f"HOMO {homo:.2f}", f"gap {lumo - homo:.2f}", f"LUMO {lumo:.2f}"]


def test_labels_of_a_tiny_gap_do_not_cover_each_other():
    energies = np.array([-0.5, -0.499, 1.0])
    h = np.diag(energies)
    tiny = Prediction(np.array([1, 1]), np.eye(2, 3), Basis("s", {1: (0,)}), h, np.eye(3), energies, np.eye(3))
    axes = level_diagram(tiny)
    axes.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in axes.texts if t.get_gid() == "predicted label"]
    assert len(boxes) == 3
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:], strict=False))


def test_reference_levels_stand_beside_the_predicted_ones(ethanal, reference):
    axes = level_diagram(ethanal, reference)
    energies = reference.energies * HARTREE
    low, high = axes.get_ylim()
    occupied, virtual = (segments(axes, f"reference {kind}") for kind in ("occupied", "virtual"))
    assert np.allclose(occupied[:, 0, 1], energies[3:12], rtol=0, atol=1e-9)
    assert np.allclose(virtual[:, 0, 1], energies[12:][energies[12:] <= high], rtol=0, atol=1e-9)
    assert occupied[:, :, 0].min() > segments(axes, "predicted occupied")[:, :, 0].max()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["predicted", "PBE/big"]
    joined = {tuple(line.get_ydata()) for line in axes.lines}
    assert joined == set(zip(ethanal.orbital_energies[3:13] * HARTREE, energies[3:13], strict=True))
    mean = np.abs(ethanal.orbital_energies[3:12] * HARTREE - energies[3:12]).mean()
    assert f"mean |Δ| {mean:.3f} eV" in axes.get_xlabel()


def test_a_window_leaves_out_what_lies_outside(ethanal):
    energies = ethanal.orbital_energies * HARTREE
    window = (energies[8] - 0.01, energies[13] + 0.01)
    axes = level_diagram(ethanal, window=window)
    assert len(segments(axes, "predicted occupied")) == 4 and len(segments(axes, "predicted virtual")) == 2
    assert axes.get_ylim() == window
    assert len(labels(axes, "predicted label")) == 3
    deep = (energies[3] - 1, energies[8] + 0.01)
    left, right = level_diagram(ethanal, window=deep), density_of_states_plot(ethanal, window=deep)
    assert not left.texts and not right.texts


def test_no_empty_orbital_no_gap():
    helium = Prediction(
        np.array([2]), np.zeros((1, 3)), Basis("s", {2: (0,)}), *[np.eye(1)] * 2, np.array([-0.9]), np.eye(1)
    )
    left, right = levels_picture(helium).axes
    assert labels(left, "predicted label") == [f"HOMO {-0.9 * HARTREE:.2f}"]
    assert not [line for line in right.lines if line.get_gid() == "Fermi level"]


# ---- density of states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.1, 0.3, 1.0])
def test_the_area_is_the_number_of_valence_levels(ethanal, width):
    axes = density_of_states_plot(ethanal, width=width)
    density, energy = curve(axes, "total")
    assert trapezoid(density, energy) == pytest.approx(len(ethanal.orbital_energies) - 3, abs=1e-4)
    gauss = np.exp(-0.5 * ((energy[:, None] - ethanal.orbital_energies * HARTREE) / width) ** 2)
    assert np.allclose(density, gauss.sum(1) / (width * np.sqrt(2 * np.pi)), rtol=0, atol=1e-9)


def test_elements_hold_mulliken_shares_and_add_up(ethanal):
    axes = density_of_states_plot(ethanal)
    total, energy = curve(axes, "total")
    parts = {symbol: curve(axes, symbol)[0] for symbol in ("H", "C", "O")}
    assert np.allclose(sum(parts.values()), total, rtol=0, atol=1e-10)
    # by hand, orbital after orbital
    c, s = ethanal.orbital_coefficients, ethanal.overlap
    element = [int(ethanal.atomic_numbers[atom]) for atom, *_ in BASIS.orbital_labels(ethanal.atomic_numbers)]
    for symbol, z in (("H", 1), ("C", 6), ("O", 8)):
        mine = np.array([q == z for q in element])
        shares = [c[mine, i] @ (s @ c[:, i])[mine] for i in range(3, c.shape[1])]
        assert trapezoid(parts[symbol], energy) == pytest.approx(sum(shares), abs=1e-4)
        levels = ethanal.orbital_energies[3:] * HARTREE
        gauss = np.exp(-0.5 * ((energy[:, None] - levels) / 0.3) ** 2) / (0.3 * np.sqrt(2 * np.pi))
        assert np.allclose(parts[symbol], gauss @ shares, rtol=0, atol=1e-9)
    assert len({next(x for x in axes.lines if x.get_label() == q).get_color() for q in parts}) == 3


def test_fermi_level_in_the_middle_of_the_gap(ethanal):
    axes = density_of_states_plot(ethanal)
    line = next(x for x in axes.lines if x.get_gid() == "Fermi level")
    assert np.allclose(line.get_ydata(), (ethanal.homo + ethanal.lumo) / 2 * HARTREE, rtol=0, atol=1e-9)


def test_the_labels_own_levels_are_a_dashed_total(ethanal, reference):
    axes = density_of_states_plot(ethanal, reference)
    density, energy = curve(axes, "total, PBE/big, toy")
    assert trapezoid(density, energy) == pytest.approx(len(reference.basis_energies) - 3, abs=1e-4)
    gauss = np.exp(-0.5 * ((energy[:, None] - reference.basis_energies * HARTREE) / 0.3) ** 2)
    assert np.allclose(density, gauss.sum(1) / (0.3 * np.sqrt(2 * np.pi)), rtol=0, atol=1e-9)
    without = density_of_states_plot(ethanal, ReferenceLevels(reference.energies, "PBE/big"))
    assert [t.get_text() for t in without.get_legend().get_texts()] == ["total", "H", "C", "O"]


def test_a_broadening_that_cannot_be_drawn(ethanal):
    for width in (0.0, -1.0, 1e-3, 11.0, float("nan")):
        with pytest.raises(UserError, match="0.01 to 10 eV"):
            density_of_states_plot(ethanal, width=width)
        with pytest.raises(UserError, match="cannot be drawn"):
            levels_picture(ethanal, width=width)


def test_densities_on_any_grid(ethanal):
    grid = np.array([-30.0, -7.5, 2.0])
    total, parts = element_densities(ethanal, grid, 0.4)
    assert total.shape == (3,) and sorted(parts) == ["C", "H", "O"]
    assert np.allclose(sum(parts.values()), total)


# ---- both, and to files --------------------------------------------------------------------------------------------


def test_both_panels_share_one_energy_axis(ethanal, reference):
    for width in (0.3, 2.0):
        left, right = levels_picture(ethanal, reference, width).axes
        assert left.get_ylim() == right.get_ylim() == energy_window(ethanal, reference, width)
        assert left.get_shared_y_axes().joined(left, right)


def test_a_picture_appears_whole_or_not_at_all(ethanal, reference, tmp_path, monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    path = tmp_path / "picture.png"
    write_picture(path, ethanal, reference)
    image = imread(path)
    assert image.shape[:2] == (920, 1400) and len(np.unique(image[:, :, 0])) > 50
    before = path.read_bytes()
    with pytest.raises(UserError, match="picture.abc: cannot be written"):
        write_picture(tmp_path / "picture.abc", ethanal)

    def breaks(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", breaks)
    with pytest.raises(UserError, match="no space left"):
        write_picture(path, ethanal)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"] and path.read_bytes() == before


def test_names_of_files_are_safe(ethanal):
    def called(name: str) -> str:
        return picture_name(7, Prediction(**{**_fields(ethanal), "name": name}))

    assert called("qm9:48036") == "000007_qm9_48036.png"
    assert called("../../etc/passwd") == "000007_etc_passwd.png"
    assert called("") == called("水") == called("..") == "000007_C2H4O.png"
    assert len(called("x" * 500)) < 80


def _fields(prediction: Prediction) -> dict:
    return {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}


def test_any_name_can_be_drawn(ethanal, tmp_path):
    strange = Prediction(**{**_fields(ethanal), "name": "$x_{ $\\frac ^ \n molecule"})
    figure = levels_picture(strange)
    figure.draw_without_rendering()
    assert "\n" not in figure.get_suptitle() and figure.get_suptitle().endswith("C₂H₄O")


def test_only_chosen_structures_are_drawn(ethanal, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "write_picture", lambda *a: drawn.append(a))
    write = plots.picture_files({0, 2}, lambda index, n: (index, n), 0.5)
    for index in range(4):
        write(tmp_path, index, ethanal)
    m = len(ethanal.orbital_energies)
    assert [(path.name[:6], reference, width) for path, _, reference, width in drawn] == [
        ("000000", (0, m), 0.5),
        ("000002", (2, m), 0.5),
    ]
