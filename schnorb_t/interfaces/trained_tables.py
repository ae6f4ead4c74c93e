"""Slater-Koster files of trained DFTB: tables, on-site energies, U and repulsive splines, and a README for the rest.

Rows are the files' own plus corrections; repulsives become cubics whose intervals begin at all knots, so that what is
read back is what was trained. Where a published repulsive is no cubic (the exponential near the nuclei, the quintic at
the end, polynomials) it is taken apart into cubics of ``STEP``, which costs some 1e-9 Eh.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols

from schnorb_t.physics.skf import EXTENDED, SlaterKosterFile, SplineRepulsive
from schnorb_t.physics.spline_correction import SplineCorrection
from schnorb_t.physics.trainable_dftb import CorrectedRepulsion, TrainableDFTB

#: Bohr, cubics in place of what is no cubic.
STEP = 0.01


def skf_text(file: SlaterKosterFile, documentation: str = "") -> str:
    """One file in the simple or extended format, with its spline repulsive.

    Args:
        file: what it shall hold; ``path`` is not read.
        documentation: text for its end.
    """
    extended = len(file.hamiltonian) == len(EXTENDED)
    rows = np.stack([*file.hamiltonian.values(), *file.overlap.values()], 1)
    lines = ["@"] if extended else []
    lines.append(f"{file.spacing:.15g} {len(rows) + 1}")
    if file.onsite:
        ls = range(3 if extended else 2, -1, -1)
        energies, hubbard, electrons = ([file.onsite[l][k] for l in ls] for k in range(3))
        lines.append(" ".join(f"{x:.15g}" for x in [*energies, 0.0, *hubbard, *electrons]))
    polynomial = " ".join(f"{x:.15g}" for x in file.polynomial)
    lines.append(f"{file.mass:.6f} {polynomial} {file.polynomial_cutoff:.15g} 10*0.0")
    lines += [" ".join(f"{x:.15e}" for x in row) for row in rows.tolist()]
    spline = file.spline
    if spline is not None:
        ends = [*spline.starts[1:], spline.cutoff]
        lines += ["Spline", f"{len(spline.starts)} {spline.cutoff:.15g}"]
        lines.append(" ".join(f"{x:.15e}" for x in spline.exponential))
        for k, (start, end, c) in enumerate(zip(spline.starts, ends, spline.coefficients, strict=True)):
            width = 6 if k == len(ends) - 1 else 4
            lines.append(f"{start:.15g} {end:.15g} " + " ".join(f"{x:.15e}" for x in c[:width]))
    lines += ["<Documentation>", documentation, "</Documentation>"]
    return "\n".join(lines) + "\n"


def _cubics_between(value_and_slope, points: np.ndarray) -> np.ndarray:
    """[n - 1, 4] cubics that have a function's values and slopes at all points [n]."""
    y, dy = value_and_slope(points)
    h, rise = np.diff(points), np.diff(y)
    c2 = (3 * rise / h - 2 * dy[:-1] - dy[1:]) / h
    c3 = (dy[:-1] + dy[1:] - 2 * rise / h) / h**2
    return np.stack([y[:-1], dy[:-1], c2, c3], 1)


def _published(file: SlaterKosterFile, start: float, end: float):
    """Repulsive of a file as cubics: starts [n], coefficients [n, 4], where they end, and the wall below them."""
    spline = file.spline
    if spline is None:
        cutoff = max(file.polynomial_cutoff if np.any(file.polynomial) else 0.0, end)
        points = np.linspace(start, cutoff, int(np.ceil((cutoff - start) / STEP)) + 1)

        def polynomial(r):
            gap = np.clip(file.polynomial_cutoff - r, 0, None)
            powers = np.arange(2, 10)
            value = (file.polynomial * gap[:, None] ** powers).sum(1)
            return value, -(powers * file.polynomial * gap[:, None] ** (powers - 1)).sum(1)

        return points[:-1], _cubics_between(polynomial, points), cutoff, _wall(polynomial, start)
    a1, a2, a3 = spline.exponential

    def exponential(r):
        e = np.exp(-a1 * r + a2)
        return e + a3, -a1 * e

    def last(r):
        x, c = r - spline.starts[-1], spline.coefficients[-1]
        return sum(c[k] * x**k for k in range(6)), sum(k * c[k] * x ** (k - 1) for k in range(1, 6))

    starts, coefficients = [], []
    if start < spline.starts[0]:
        n = int(np.ceil((spline.starts[0] - start) / STEP))
        points = np.linspace(start, spline.starts[0], n + 1)
        starts.append(points[:-1])
        coefficients.append(_cubics_between(exponential, points))
    starts.append(spline.starts[:-1])
    coefficients.append(spline.coefficients[:-1, :4])
    n = int(np.ceil((spline.cutoff - spline.starts[-1]) / STEP))
    points = np.linspace(spline.starts[-1], spline.cutoff, n + 1)
    starts.append(points[:-1])
    coefficients.append(_cubics_between(last, points))
    return np.concatenate(starts), np.concatenate(coefficients), spline.cutoff, spline.exponential


def _wall(function, start: float) -> tuple[float, float, float]:
    """(a1, a2, a3) of exp(-a1 r + a2) + a3 with a function's value and slope at ``start``."""
    value, slope = (float(x[0]) for x in function(np.array([start])))
    if slope >= 0:
        return 0.0, 0.0, value - 1.0  # constant
    a1 = max(-slope / value, 1.0) if value > 0 else 1.0
    a2 = np.log(-slope / a1) + a1 * start
    return a1, float(a2), value + slope / a1


def corrected_spline(file: SlaterKosterFile, correction: SplineCorrection, table: int) -> SplineRepulsive:
    """A file's repulsive plus one table of corrections; it may begin nearer and end farther than the file's own."""
    knots = correction.knots(table)
    starts, cubics, cutoff, wall = _published(file, knots[0], knots[-1])
    end = max(cutoff, knots[-1])
    # both are cubics from one of these points to the next
    points = np.concatenate([starts, [cutoff], knots])
    points = np.unique(np.round(points[(points >= min(starts[0], knots[0])) & (points <= end + 1e-9)], 10))
    keep = np.concatenate([[True], np.diff(points) > 1e-8])
    points = points[keep]
    middles = (points[:-1] + points[1:]) / 2
    out = np.zeros((len(middles), 6))

    def add(begin: np.ndarray, c: np.ndarray, last: float) -> None:
        at = np.searchsorted(begin, middles, side="right") - 1
        inside = (at >= 0) & (middles < last)
        x, own = points[:-1] - begin[at.clip(0)], c[at.clip(0)]
        c0, c1, c2, c3 = own.T
        shifted = np.stack([c0 + x * (c1 + x * (c2 + x * c3)), c1 + x * (2 * c2 + 3 * x * c3), c2 + 3 * x * c3, c3], 1)
        out[:, :4] += np.where(inside[:, None], shifted, 0.0)

    add(starts, cubics, cutoff)
    begin, own = correction.cubics(table)
    add(begin, own[..., 0], float(knots[-1]))
    a1, a2, a3 = (float(x) for x in wall)
    return SplineRepulsive(float(points[-1]), (a1, a2, a3), points[:-1], out)


@torch.no_grad()
def trained_files(model: TrainableDFTB) -> dict[tuple[int, int], SlaterKosterFile]:
    """Files of all ordered pairs as they are after training; those of pairs that were not trained are the published."""
    sk, layout = model.slater_koster, model.basis.layout
    out = {}
    for (a, b), file in model.tables.files.items():
        new = file
        if sk.correction is not None and (a, b) in sk.rows:
            new = _corrected_tables(model, file, a, b)
        pair = (min(a, b), max(a, b))
        if isinstance(model.repulsion, CorrectedRepulsion) and pair in model.repulsion.rows:
            row = model.repulsion.rows[pair]
            light = model.tables.files[pair]  # the one that the model takes for both orders
            spline = corrected_spline(light, model.repulsion.correction, row)
            new = replace(new, spline=spline, polynomial=np.zeros(8), polynomial_cutoff=0.0)
        if a == b:
            new = replace(new, onsite=_onsite(model, file, a, layout))
        out[a, b] = new
    return out


def _corrected_tables(model: TrainableDFTB, file: SlaterKosterFile, a: int, b: int) -> SlaterKosterFile:
    sk = model.slater_koster
    correction = sk.correction
    assert correction is not None

    def columns(pair: tuple[int, int]) -> np.ndarray:
        row, spacing = sk.rows[pair], file.spacing
        n = len(next(iter(file.hamiltonian.values())))
        return correction.values(row, spacing * np.arange(1, n + 1)) * sk.trained_columns[row].numpy()

    own, lighter, c = columns((a, b)), columns((min(a, b), max(a, b))), len(sk.channels)
    hamiltonian, overlap = dict(file.hamiltonian), dict(file.overlap)
    for k, channel in enumerate(sk.channels):
        of = lighter if channel[0] == channel[1] else own  # <s|s> of A-B and B-A is one and the same
        hamiltonian[channel] = hamiltonian[channel] + of[:, k]
        overlap[channel] = overlap[channel] + of[:, c + k]
    return replace(file, hamiltonian=hamiltonian, overlap=overlap)


def _onsite(model: TrainableDFTB, file: SlaterKosterFile, z: int, layout) -> dict[int, tuple[float, float, float]]:
    energies, out = model.slater_koster.onsite_energies()[z], dict(file.onsite)
    offsets = model.basis.layout_offsets
    hubbard = model.hubbard[z]
    for shell in model.basis.slot_shells(z):
        l = layout[shell]
        _, u, electrons = file.onsite[l]
        if model.shell_resolved:
            u = hubbard[shell].item()
        elif u == file.onsite[0][1]:  # one U for the atom, which stands at every shell
            u = hubbard.item()
        elif l == 0:
            u = hubbard.item()
        out[l] = (energies[offsets[shell]].item(), u, electrons)
    return out


def trained_set(model: TrainableDFTB, note: str = "") -> dict[str, str]:
    """File name -> text of a whole set: ``A-B.skf`` of all ordered pairs, a ``README``, and in third order
    ``hubbard.dat``, which SCINE Sparrow reads.

    Args:
        model: after training.
        note: what the files say of where they come from.
    """
    out = {
        f"{chemical_symbols[a]}-{chemical_symbols[b]}.skf": skf_text(file, note)
        for (a, b), file in trained_files(model).items()
    }
    elements = model.basis.elements
    lines = [note, "", f"Order {model.order}; charges of {'shells' if model.shell_resolved else 'atoms'}.", ""]
    if model.hubbard_derivatives is not None:
        lines += ["List of all atomic Hubbard derivatives (Eh per electron)", ""]
        lines += [f"{chemical_symbols[z]} = {model.hubbard_derivatives[z].item():.12f}" for z in elements]
        derivatives = (f"{chemical_symbols[z]} {model.hubbard_derivatives[z].item():.12f}\n" for z in elements)
        out["hubbard.dat"] = "".join(derivatives)
    if model.damping_exponent:
        lines += ["", f"zeta = {model.damping_exponent:.6g}"]
    out["README"] = "\n".join(lines) + "\n"
    return out
