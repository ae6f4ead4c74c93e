"""Thermally displaced geometries: classical harmonic sampling of normal modes with a GFN2-xTB Hessian."""

from __future__ import annotations

import hashlib

import numpy as np
import scipy.linalg
from ase.data import atomic_masses

from schnorb_t.errors import UserError
from schnorb_t.structures.geometry import bonds
from schnorb_t.units import BOHR, KELVIN

#: Electron masses per atomic mass unit (CODATA 2018).
_AMU = 1822.888486209
#: Eh per cm^-1 (CODATA 2018: 219474.6313632 cm^-1 per Eh).
_WAVENUMBER = 1.0 / 219474.6313632


def xtb_hessian(atomic_numbers: np.ndarray, positions: np.ndarray, step: float = 0.005) -> np.ndarray:
    """GFN2-xTB Hessian [3n, 3n], Eh/Bohr^2, by central differences of gradients.

    Args:
        atomic_numbers: [n].
        positions: [n, 3], Å; any geometry, stationary or not.
        step: displacement, Bohr.
    """
    try:
        from tblite.interface import Calculator
    except ImportError as error:
        raise UserError('tblite is not installed; pip install "schnorb_t[xtb]"') from error
    z = np.asarray(atomic_numbers)
    x = np.asarray(positions, dtype=np.float64) / BOHR
    calculator = Calculator("GFN2-xTB", z, x)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", 0.01)

    def gradient(at: np.ndarray) -> np.ndarray:
        calculator.update(at)
        return np.asarray(calculator.singlepoint().get("gradient")).ravel()

    hessian = np.empty((x.size, x.size))
    for k in range(x.size):
        shift = np.zeros(x.size)
        shift[k] = step
        shift = shift.reshape(x.shape)
        hessian[k] = (gradient(x + shift) - gradient(x - shift)) / (2.0 * step)
    return 0.5 * (hessian + hessian.T)


def internal_space(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Orthonormal basis [3n, f] of mass-weighted displacements without translation and rotation."""
    root = np.sqrt(masses)
    centred = positions - masses @ positions / masses.sum()
    motions = [np.outer(root, axis) for axis in np.eye(3)]
    motions += [root[:, None] * np.cross(axis, centred) for axis in np.eye(3)]
    u, singular, _ = np.linalg.svd(np.stack([m.ravel() for m in motions], axis=1), full_matrices=True)
    rank = int((singular > 1e-6 * singular[0]).sum())  # 5 for linear molecules
    return u[:, rank:]


def seed_of(name: str) -> int:
    """A seed that depends on a molecule's name only, not on its place in a list."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def displaced_geometries(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    n: int,
    seed: int,
    temperature: float = 300.0,
    lowest_wavenumber: float = 100.0,
) -> np.ndarray:
    """Geometries of a classical harmonic ensemble around the given one: each normal mode ~ N(0, kT/omega^2).

    Soft and imaginary modes count as ``lowest_wavenumber``. A draw that makes or breaks a bond (see ``bonds``) is drawn
    again.

    Args:
        atomic_numbers: [a].
        positions: [a, 3], Å.
        n: how many geometries.
        seed: of ``numpy.random.default_rng``.
        temperature: K.
        lowest_wavenumber: cm^-1.

    Returns:
        [n, a, 3], Å.
    """
    z = np.asarray(atomic_numbers)
    x = np.asarray(positions, dtype=np.float64)
    if n == 0:
        return np.zeros((0, *x.shape))
    masses = atomic_masses[z] * _AMU
    space = internal_space(masses, x)
    weight = np.repeat(1.0 / np.sqrt(masses), 3)
    hessian = space.T @ (xtb_hessian(z, x) * np.outer(weight, weight)) @ space
    squares, modes = scipy.linalg.eigh(hessian)
    omega = np.sqrt(np.maximum(squares, (lowest_wavenumber * _WAVENUMBER) ** 2))
    # an eigenvector's sign is arbitrary: fix it, or the draw depends on the linear algebra library
    vectors = space @ modes
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    amplitude = np.sqrt(temperature * KELVIN) / omega
    rng = np.random.default_rng(seed)
    graph = bonds(z, x)
    out = []
    for _ in range(100 * n):
        q = rng.standard_normal(len(omega)) * amplitude
        geometry = x + (weight * (vectors @ q)).reshape(x.shape) * BOHR
        if bonds(z, geometry) == graph:
            out.append(geometry)
            if len(out) == n:
                return np.stack(out)
    raise UserError(f"displacing a molecule at {temperature} K breaks its bonds again and again; lower the temperature")
