"""Pictures of a prediction: orbital-energy diagram, beside a reference, and density of states, projected on elements.

Energies are drawn in eV. Core levels, which lie hundreds of eV below, are counted in a note and not drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.interfaces.reference_levels import ReferenceLevels
from schnorb_t.physics.density_of_states import Broadening, density_of_states, group_by, level_weights, projected_levels
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, chemical_potential
from schnorb_t.prediction import Prediction
from schnorb_t.units import HARTREE

#: eV, standard deviation of a level's Gaussian.
WIDTH = 0.3
#: eV, widths that can be drawn.
WIDTH_LIMITS = (0.01, 10.0)
#: eV, levels that follow one another within this stand side by side.
DEGENERATE = 0.01

# Okabe and Ito's colours, which the colour-blind can tell apart, as near to the habits of chemistry as they go
_ELEMENTS = {1: "#E69F00", 6: "#000000", 7: "#0072B2", 8: "#D55E00", 9: "#009E73", 15: "#CC79A7", 16: "#B8A900"}
_OTHERS = ("#56B4E9", "#8C564B", "#7F3FBF", "#17BECF")
_OCCUPIED, _VIRTUAL, _GAP = "#0072B2", "#8A8A8A", "#FFF3D6"
_FRONTIER = {"HOMO": "#004C7A", "LUMO": "#B5450A"}
_SMALL, _TINY = 8, 6.5


def _minus(energy: float) -> str:
    return f"{energy:.2f}".replace("-", "\N{MINUS SIGN}")


def _new_axes(width: float, height: float) -> Axes:
    return Figure(figsize=(width, height), layout="constrained").subplots()


def n_core_levels(prediction: Prediction) -> int:
    """How many of the lowest levels are core levels."""
    return min(prediction.basis.n_core_orbitals(prediction.atomic_numbers), prediction.n_occupied)


def energy_window(
    prediction: Prediction, reference: ReferenceLevels | None = None, width: float = WIDTH
) -> tuple[float, float]:
    """Energies that hold all valence levels, of the prediction and of the labels in their own basis, with a margin.

    Args:
        width: eV; the margin is 5 of it, so that broadened levels are whole.

    Returns:
        lowest and highest, eV.
    """
    core, energies = n_core_levels(prediction), prediction.orbital_energies * HARTREE
    valence = energies[core:]
    if reference is not None:
        in_basis = reference.energies[:0] if reference.basis_energies is None else reference.basis_energies
        valence = np.concatenate((valence, HARTREE * reference.energies[core : core + 1], HARTREE * in_basis[core:]))
    margin = max(1.0, 5 * width)
    return float(valence.min() - margin), float(valence.max() + margin)


# ---- orbital-energy diagram ----------------------------------------------------------------------------------------


def _places(energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number in its degenerate set and size of the set, of each of the ascending levels (eV)."""
    begins = np.concatenate(([0], np.flatnonzero(np.diff(energies) > DEGENERATE) + 1, [len(energies)]))
    size = np.diff(begins)
    return np.arange(len(energies)) - np.repeat(begins[:-1], size), np.repeat(size, size)


def _apart(heights: list[float], distance: float) -> list[float]:
    """Places of labels in ascending order, moved from the middle outwards until they stand ``distance`` apart."""
    middle = len(heights) // 2
    out = list(heights)
    for k in range(middle + 1, len(out)):
        out[k] = max(out[k], out[k - 1] + distance)
    for k in reversed(range(middle)):
        out[k] = min(out[k], out[k + 1] - distance)
    return out


def _draw_arrow(axes: Axes, x: float, homo: float, lumo: float) -> None:
    style = {"arrowstyle": "<->", "color": "0.2", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    axes.annotate("", (x, homo), (x, lumo), arrowprops=style)


def _draw_column(
    axes: Axes, centre: float, energies: np.ndarray, core: int, occupied: int, side: str, name: str
) -> None:
    """One column of levels (eV, ascending, core included), 0.72 wide, its frontier written to its left or right."""
    low, high = axes.get_ylim()
    place, size = _places(energies)
    piece = 0.72 / size
    space = np.minimum(0.03, 0.15 * piece)  # on either side of a break
    left = centre - 0.36 + place * piece + space * (place > 0)
    right = centre - 0.36 + (place + 1) * piece - space * (place + 1 < size)
    index = np.arange(len(energies))
    seen = (index >= core) & (energies >= low) & (energies <= high)
    colours = np.where(index < occupied, _OCCUPIED, _VIRTUAL).astype(object)
    widths = np.full(len(energies), 0.9)
    frontier = {"HOMO": occupied - 1, "LUMO": occupied}
    frontier = {label: k for label, k in frontier.items() if 0 <= k < len(energies)}
    for label, k in frontier.items():
        same = (index - place == k - place[k]) & ((index < occupied) == (k < occupied))
        colours[same], widths[same] = _FRONTIER[label], 1.8
    for kind, chosen in (("occupied", seen & (index < occupied)), ("virtual", seen & (index >= occupied))):
        lines = axes.hlines(
            energies[chosen], left[chosen], right[chosen], colors=list(colours[chosen]), linewidths=widths[chosen]
        )
        lines.set_gid(f"{name} {kind}")
    labels = [(energies[k], f"{label} {_minus(energies[k])}", _FRONTIER[label]) for label, k in frontier.items()]
    if len(frontier) == 2:
        homo, lumo = (energies[k] for k in frontier.values())
        labels.insert(1, ((homo + lumo) / 2, f"gap {_minus(lumo - homo)}", "0.2"))
        if low <= homo and lumo <= high:
            _draw_arrow(axes, centre, homo, lumo)
    labels = [label for label in labels if low <= label[0] <= high]
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes stand on one
    points = 72 * figure.get_figheight() * axes.get_position().height / (high - low)
    heights = _apart([height for height, *_ in labels], 1.3 * _SMALL / points)
    x, align = (centre + 0.42, "left") if side == "right" else (centre - 0.42, "right")
    for y, (_, text, colour) in zip(heights, labels, strict=True):
        axes.text(x, y, text, color=colour, fontsize=_SMALL, ha=align, va="center", gid=f"{name} label")


def _connect(axes: Axes, predicted: np.ndarray, reference: np.ndarray, rows: slice) -> None:
    """Thin lines from predicted levels to the reference's of the same number."""
    low, high = axes.get_ylim()
    for a, b in zip(predicted[rows], reference[rows], strict=False):
        if low <= min(a, b) and max(a, b) <= high:
            axes.plot((0.37, 0.63), (a, b), color="0.75", linewidth=0.5, zorder=0)


def level_diagram(
    prediction: Prediction,
    reference: ReferenceLevels | None = None,
    axes: Axes | None = None,
    window: tuple[float, float] | None = None,
) -> Axes:
    """Draw predicted levels as lines, HOMO, LUMO and gap (eV) beside them, and the reference's levels to their right.

    Levels within 0.01 eV of their neighbours stand side by side. Core levels are left out and counted below.

    Args:
        prediction: of one molecule.
        reference: of the same molecule; occupied levels and LUMO are joined by thin lines.
        axes: to draw on; new ones on a new figure if left out.
        window: lowest and highest energy drawn, eV; by default ``energy_window``.

    Returns:
        the axes; ``axes.figure.savefig(...)`` writes them.
    """
    axes = axes or _new_axes(3.0 if reference is None else 4.2, 4.4)
    core, occupied = n_core_levels(prediction), prediction.n_occupied
    low, high = window or energy_window(prediction, reference)
    axes.set_ylim(low, high)
    predicted = prediction.orbital_energies * HARTREE
    if prediction.gap > 0:
        axes.axhspan(prediction.homo * HARTREE, prediction.lumo * HARTREE, color=_GAP, linewidth=0, zorder=-1)
    _draw_column(axes, 0.0, predicted, core, occupied, "right" if reference is None else "left", "predicted")
    notes = [f"{core} core level{'s'[: core > 1]} not drawn"] if core else []
    axes.set_xticks([0], ["predicted"])
    axes.set_xlim(-0.55, 1.35)
    if reference is not None:
        levels = np.asarray(reference.energies) * HARTREE
        _draw_column(axes, 1.0, levels, core, occupied, "right", "reference")
        _connect(axes, predicted, levels, slice(core, occupied + 1))
        axes.set_xticks([0, 1], ["predicted", reference.label], parse_math=False)
        axes.set_xlim(-1.3, 2.3)
        n = min(occupied, len(levels))
        if n > core:
            mean = np.abs(predicted[core:n] - levels[core:n]).mean()
            notes.append(f"occupied valence levels: mean |Δ| {mean:.3f} eV")
    axes.set_xlabel("\n".join(notes), fontsize=_TINY, color="0.35")
    axes.set_ylabel("orbital energy / eV", fontsize=_SMALL)
    axes.tick_params(axis="x", length=0, labelsize=_SMALL)
    axes.tick_params(axis="y", labelsize=_SMALL)
    return axes


# ---- density of states ---------------------------------------------------------------------------------------------


def check_width(width: float) -> float:
    """Refuse a broadening that cannot be drawn.

    Raises:
        UserError: names the limits.
    """
    low, high = WIDTH_LIMITS
    if not low <= width <= high:
        raise UserError(f"a broadening of {width:g} eV cannot be drawn; take {low:g} to {high:g} eV")
    return width


def element_densities(
    prediction: Prediction, grid: np.ndarray, width: float = WIDTH
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Density of states, total and by element with Mulliken's shares, of Gaussian-broadened levels.

    Args:
        prediction: of one molecule.
        grid: [E], eV.
        width: eV, standard deviation.

    Returns:
        total [E], levels per eV (a doubly occupied level counts once), and one [E] per element symbol; these add up to
        the total, and may be slightly negative as Mulliken's shares may.
    """
    energies = torch.tensor(prediction.orbital_energies)[None]
    overlap, coefficients = (torch.tensor(x)[None] for x in (prediction.overlap, prediction.orbital_coefficients))
    points, shape = torch.tensor(grid, dtype=torch.float64) / HARTREE, Broadening(width=width / HARTREE)
    z = prediction.atomic_numbers
    elements = np.unique(z)
    of_orbital = torch.tensor(np.repeat(z, prediction.basis.n_orbitals(z)))[None]
    shares = level_weights(overlap, coefficients, group_by(of_orbital, torch.tensor(elements)))
    total = density_of_states(energies, torch.ones_like(energies), points, shape)[0].numpy() / HARTREE
    parts = projected_levels(energies, shares, points, shape)[0].numpy() / HARTREE
    return total, {chemical_symbols[e]: part for e, part in zip(elements, parts, strict=True)}


def _colours(symbols: list[str]) -> dict[str, str]:
    others = iter(_OTHERS * len(symbols))
    return {s: _ELEMENTS.get(chemical_symbols.index(s)) or next(others) for s in symbols}


def density_of_states_plot(
    prediction: Prediction,
    reference: ReferenceLevels | None = None,
    axes: Axes | None = None,
    width: float = WIDTH,
    window: tuple[float, float] | None = None,
) -> Axes:
    """Draw the density of states against energy (upwards): total, by element, the gap and the Fermi level in it.

    Args:
        prediction: of one molecule.
        reference: of the same molecule; its levels in the labels' own basis, where it has them, are drawn as a dashed
            total.
        axes: to draw on; new ones on a new figure if left out.
        width: eV, standard deviation of a level's Gaussian, 0.01 to 10.
        window: lowest and highest energy drawn, eV; by default ``energy_window``.

    Returns:
        the axes.

    Raises:
        UserError: a width out of range.
    """
    check_width(width)
    axes = axes or _new_axes(3.4, 4.4)
    low, high = window or energy_window(prediction, reference, width)
    grid = np.linspace(low, high, max(500, int(8 * (high - low) / width)))
    total, parts = element_densities(prediction, grid, width)
    dashed = reference if reference is not None and reference.basis_energies is not None else None
    axes.fill_betweenx(grid, total, color="0.88", linewidth=0)
    axes.plot(total, grid, color="0.6", linewidth=0.8, label="total, predicted" if dashed else "total")
    if dashed is not None:
        levels = torch.tensor(dashed.basis_energies)[None]
        points, shape = torch.tensor(grid) / HARTREE, Broadening(width=width / HARTREE)
        curve = density_of_states(levels, torch.ones_like(levels), points, shape)[0].numpy() / HARTREE
        axes.plot(curve, grid, color="0.25", linewidth=0.7, dashes=(4, 2), label=f"total, {dashed.basis_label}")
    for symbol, colour in _colours(list(parts)).items():
        axes.plot(parts[symbol], grid, color=colour, linewidth=1.0, label=symbol)
    edge = 1.08 * max(np.asarray(line.get_xdata()).max() for line in axes.lines)
    axes.set_xlim(min(0.0, 1.1 * min(part.min() for part in parts.values())), edge)
    axes.set_ylim(low, high)
    if prediction.gap > 0:
        axes.axhspan(prediction.homo * HARTREE, prediction.lumo * HARTREE, color=_GAP, linewidth=0, zorder=-1)
        energies = torch.tensor(prediction.orbital_energies)[None]
        electrons = torch.tensor([prediction.n_electrons])
        everything = torch.ones_like(energies, dtype=torch.bool)
        fermi = float(chemical_potential(energies, electrons, everything, ZERO_TEMPERATURE)[0]) * HARTREE
        axes.axhline(fermi, color="0.2", linewidth=0.7, linestyle=(0, (1, 1.5)), gid="Fermi level")
        if low <= fermi <= high:
            text = f"$E_\\mathrm{{F}}$ {_minus(fermi)}"
            axes.text(0.98 * edge, fermi, text, fontsize=_SMALL, color="0.2", ha="right", va="bottom")
    axes.set_xlabel(f"density of states / levels eV$^{{-1}}$ (σ = {width:g} eV)", fontsize=_SMALL)
    axes.set_ylabel("energy / eV", fontsize=_SMALL)
    axes.tick_params(labelsize=_SMALL)
    axes.legend(fontsize=_TINY, frameon=False, loc="best", handlelength=1.6)
    return axes


# ---- both, and to files --------------------------------------------------------------------------------------------

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def levels_picture(prediction: Prediction, reference: ReferenceLevels | None = None, width: float = WIDTH) -> Figure:
    """Diagram and density of states side by side on one energy axis.

    Args:
        prediction, reference, width: as in ``level_diagram`` and ``density_of_states_plot``.
    """
    check_width(width)
    figure = Figure(figsize=(7.0 if reference is not None else 6.2, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15 if reference is not None else 0.8, 1))
    window = energy_window(prediction, reference, width)
    level_diagram(prediction, reference, left, window)
    density_of_states_plot(prediction, reference, right, width, window)
    right.set_ylabel("")
    name, formula = " ".join(prediction.name.split())[:60], prediction.formula.translate(_SUBSCRIPTS)
    figure.suptitle(f"{name}, {formula}" if name else formula, fontsize=9, parse_math=False)
    return figure


def write_picture(
    path: str | Path, prediction: Prediction, reference: ReferenceLevels | None = None, width: float = WIDTH
) -> None:
    """``levels_picture`` to a file (.png, .pdf, .svg), which appears whole or not at all.

    Raises:
        UserError: the disk refuses, or an ending that means no kind of picture.
    """
    path = Path(path)
    figure = levels_picture(prediction, reference, width)
    try:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=200)
    except ValueError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None


def picture_name(index: int, prediction: Prediction) -> str:
    """``000003_qm9_48036.png``: index, and the name (the formula where it has none) in letters safe for any disk."""
    safe = re.sub(r"[^A-Za-z0-9+-]+", "_", prediction.name)[:60].strip("_")
    return f"{index:06d}_{safe or prediction.formula}.png"


def picture_files(
    indices: set[int], reference_of: Callable[[int, int], ReferenceLevels | None], width: float = WIDTH
) -> Callable[[Path, int, Prediction], None]:
    """Pictures of the chosen structures, for ``exports.exporting``.

    Args:
        indices: of the structures that are drawn.
        reference_of: (index, number of orbitals) -> its reference, None for none.
        width: eV.
    """
    check_width(width)

    def write(folder: Path, index: int, prediction: Prediction) -> None:
        if index in indices:
            reference = reference_of(index, len(prediction.orbital_energies))
            write_picture(folder / picture_name(index, prediction), prediction, reference, width)

    return write
