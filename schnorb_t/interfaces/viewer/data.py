"""What a page holds of one prediction: numbers that its script draws."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces.molden import drawn_orbitals
from schnorb_t.interfaces.viewer.doubt import DOUBT_ABOVE, explain
from schnorb_t.prediction import Prediction
from schnorb_t.units import BOHR, HARTREE

#: Highest angular momentum that the page's script evaluates.
L_MAX = 3
#: Values, Bohr^(-3/2), that a function has fallen to at the edge of the space that is searched for a surface.
EDGE = 0.004
#: Numbers of the coefficients in a page (4 bytes each); of very large molecules it holds the orbitals about the gap.
MOST_COEFFICIENTS = 3_000_000
#: Å, that space around the atoms.
MARGINS = (2.0, 4.5)
#: eV, standard deviation of the levels in the density of states.
BROADENING = 0.3


def _packed(values: np.ndarray, kind: str) -> str:
    """Little-endian numbers, row by row, as base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _finite(value: float, digits: int = 6) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def radial_factors(exponents: np.ndarray, coefficients: np.ndarray, l: int) -> np.ndarray:
    """[k] c_k N_k of R(r) = r^l sum_k c_k N_k exp(-a_k r^2): ``coefficients`` are of normalised primitives."""
    norm = np.sqrt(2 * (2 * exponents) ** (l + 1.5) / math.gamma(l + 1.5))
    return coefficients * norm


def functions_of(basis: Basis, atomic_numbers: np.ndarray) -> dict[str, list]:
    """Element -> its shells as [l, exponents (1/Bohr^2), factors of ``radial_factors``].

    Raises:
        UserError: the basis has no functions, or shells beyond f.
    """
    if basis.functions is None:
        raise UserError(f"basis {basis.name!r} holds shells only, no Gaussian functions: nothing to draw orbitals with")
    out = {}
    for z in np.unique(atomic_numbers).tolist():
        shells = []
        for shell in basis.functions[z]:
            if shell.l > L_MAX:
                raise UserError(f"basis {basis.name!r} has shells beyond f, which the page cannot draw")
            a = np.array(shell.exponents)
            shells.append([shell.l, a.tolist(), radial_factors(a, shell.normalised_coefficients(), shell.l).tolist()])
        out[str(z)] = shells
    return out


def _margin(functions: dict[str, list]) -> float:
    """Å beyond the atoms within which every function falls to ``EDGE``."""
    r = np.linspace(0.0, MARGINS[1], 200) / BOHR
    far = MARGINS[0]
    for shells in functions.values():
        for l, a, c in shells:
            values = np.abs(r**l * (np.exp(-np.outer(r * r, a)) @ np.array(c))) * math.sqrt((2 * l + 1) / (4 * math.pi))
            far = max(far, float(r[np.flatnonzero(values > EDGE)[-1]]) * BOHR)
    return min(far, MARGINS[1])


def shares(prediction: Prediction) -> np.ndarray:
    """[n, m] Mulliken's share of each atom in each level; columns add up to 1, single ones may be below 0."""
    c = prediction.orbital_coefficients
    atom = np.repeat(np.arange(len(prediction.atomic_numbers)), prediction.basis.n_orbitals(prediction.atomic_numbers))
    out = np.zeros((len(prediction.atomic_numbers), c.shape[1]))
    np.add.at(out, atom, c * (prediction.overlap @ c))
    return out


def first_view(positions: np.ndarray) -> list[float]:
    """Quaternion (x, y, z, w) that lays a molecule's longest direction across the picture, its thinnest towards us."""
    from scipy.spatial.transform import Rotation

    centred = positions - positions.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1].T  # rows: longest, middle, thinnest
    axes = axes * np.where(axes[np.arange(3), np.abs(axes).argmax(1)] < 0, -1.0, 1.0)[:, None]
    axes[2] = np.cross(axes[0], axes[1])
    tilt = Rotation.from_euler("xy", (-14, 10), degrees=True)  # a little from the side: planes look like planes
    return [round(float(q), 5) for q in (tilt * Rotation.from_matrix(axes)).as_quat()]


def _what_is_drawn(prediction: Prediction) -> list[str]:
    """Sentences on what the surfaces are."""
    basis = prediction.basis
    out = []
    if basis.projected:
        out.append(
            f"The model's functions ({basis.name}) follow from each molecule's surroundings and are not stored. "
            "Free atoms' functions stand for them, orthonormalised alike (Löwdin): shapes, nodes and signs are right, "
            "values approximate. Energies, charges and densities of states are those of the model itself."
        )
        out.append("A minimal basis has few empty levels: LUMO and its neighbours mean something, the highest do not.")
    else:
        out.append(f"Orbitals are drawn exactly in the model's own functions ({basis.name}).")
    if prediction.n_electrons < int(prediction.atomic_numbers.sum()):
        out.append("Core electrons are not part of this basis.")
    out.append("The two colours are the two signs of the orbital; which is which has no meaning.")
    return out


def page_data(
    prediction: Prediction,
    index: int | None = None,
    broadening: float = BROADENING,
    doubt_above: float = DOUBT_ABOVE,
) -> dict[str, Any]:
    """All that a page knows; plain values for JSON.

    Args:
        prediction: of one molecule.
        index: of the structure in its file, where there is one.
        broadening: eV, standard deviation of a level in the density of states.
        doubt_above: eV, see ``doubt.grade``.

    Returns:
        energies in eV, lengths in Å, charges in e; ``coefficients`` (float32, a row per orbital from number ``first``
        on) and ``shares`` (int16, 1e-4, a row per atom) as base64. ``coefficients`` is None, with the reason in
        ``undrawable``, where the basis has no functions that can be drawn.
    """
    basis, z = prediction.basis, prediction.atomic_numbers
    n_core = min(basis.n_core_orbitals(z), prediction.n_occupied)
    origin, spread = prediction.origin, prediction.orbital_energy_spread
    data: dict[str, Any] = {
        "name": " ".join(prediction.name.split()),
        "formula": prediction.formula,
        "index": index,
        "model": "" if origin is None else origin.text,
        "numbers": z.tolist(),
        "symbols": [chemical_symbols[q] for q in z],
        "positions": np.round(prediction.positions, 6).tolist(),
        "view": first_view(prediction.positions),
        "energies": [_finite(e) for e in prediction.orbital_energies * HARTREE],
        "spread": None if spread is None else [_finite(x, 4) for x in spread * HARTREE],
        "occupied": prediction.n_occupied,
        "core": n_core,
        "charges": [_finite(q, 4) for q in prediction.mulliken_charges],
        "shares": _packed(np.round(np.clip(shares(prediction), -3, 3) * 1e4), "<i2"),
        "broadening": broadening,
        "doubt": explain(prediction, doubt_above) | {"value": prediction.doubt and _finite(prediction.doubt, 4)},
        "drawn": _what_is_drawn(prediction),
        "coefficients": None,
        "undrawable": "",
    }
    try:
        data["functions"] = functions_of(basis, z)
        data["margin"] = round(_margin(data["functions"]), 3)
        n, homo = len(prediction.orbital_energies), prediction.n_occupied - 1
        kept = min(n, max(20, MOST_COEFFICIENTS // n))
        data["first"] = first = max(0, min(n - kept, homo + 1 - kept // 2))
        data["coefficients"] = _packed(drawn_orbitals(prediction).T[first : first + kept], "<f4")
    except UserError as error:
        data["undrawable"], data["drawn"] = str(error), []
    return data
