"""Electronic structure of large molecules from sparse matrices: density matrix, frontier orbitals, density of states.

Where there is a gap the density matrix falls off exponentially with distance, so products of sparse matrices whose
small elements are dropped make it at a cost that grows with the number of atoms: second-order spectral projection
(Niklasson, Phys. Rev. B 66, 155115 (2002)). HOMO and LUMO are then the outermost levels of H within and outside the
space that it projects on, and Lanczos iterations find outermost levels (ARPACK). Square roots of S are made by coupled
Newton-Schulz iterations (Niklasson, Phys. Rev. B 70, 193102 (2004); Jansik et al., J. Chem. Phys. 126, 124104 (2007)),
the density of states by the kernel polynomial method (Weisse et al., Rev. Mod. Phys. 78, 275 (2006)).

Here H stands in orthogonal functions, matrices are SciPy's CSR in float64, energies in Eh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from schnorb_t.errors import UserError

#: Elements below are dropped from products. Of water clusters: charges change by 2e-5 e, levels by 1e-8 Eh.
DROP = 1e-6
#: Iterations of purification and of square roots; some 30 and 15 are needed.
_MOST = 60
_NO_ROOT = "the overlap has no square root: it is not positive definite, or too nearly singular"
#: Most that tr(P - P^2) may be, per occupied orbital, for P to be a projector.
_IDEMPOTENT = 1e-3


def dropped(matrix: scipy.sparse.csr_array, threshold: float) -> scipy.sparse.csr_array:
    """Without elements of smaller size, diagonal or not."""
    matrix = scipy.sparse.csr_array(matrix)
    matrix.data[np.abs(matrix.data) < threshold] = 0.0
    matrix.eliminate_zeros()
    return matrix


def symmetric(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """(A + A^T) / 2."""
    return scipy.sparse.csr_array((matrix + matrix.T) * 0.5)


def bounds(hamiltonian: scipy.sparse.csr_array) -> tuple[float, float]:
    """Numbers below and above all levels: Lanczos estimates of both ends, widened by 1 % of their distance."""
    if hamiltonian.shape[0] < 20:
        ends = np.linalg.eigvalsh(hamiltonian.toarray())[[0, -1]]
    else:
        start = np.random.default_rng(0).normal(size=hamiltonian.shape[0])
        ends = np.array(
            [eigsh(hamiltonian, 1, which=w, tol=1e-3, return_eigenvectors=False, v0=start)[0] for w in ("SA", "LA")]
        )
    margin = 0.01 * max(float(ends[1] - ends[0]), 1e-6)
    return float(ends[0]) - margin, float(ends[1]) + margin


def square_roots(
    overlap: scipy.sparse.csr_array, drop: float = DROP
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """S^(1/2) and S^(-1/2) of a symmetric positive definite matrix.

    Args:
        overlap: S.
        drop: elements below are dropped from products.

    Raises:
        UserError: the iterations do not converge, since S is not positive definite or nearly singular.
    """
    eye = scipy.sparse.eye_array(overlap.shape[0], format="csr")
    top = float(np.abs(overlap).sum(1).max())  # Gershgorin
    y, z = overlap / top, eye
    last = np.inf
    for _ in range(_MOST):
        product = dropped(symmetric(z @ y), drop)
        error = float(scipy.sparse.linalg.norm(product - eye)) / overlap.shape[0] ** 0.5
        if error < max(1e-14, drop) or (error >= last and error < 100 * max(drop, 1e-12)):
            break
        if not error < 1e3:  # it runs away
            raise UserError(_NO_ROOT)
        last = error
        t = 1.5 * eye - 0.5 * product
        y, z = dropped(symmetric(y @ t), drop), dropped(symmetric(t @ z), drop)
    else:
        raise UserError(_NO_ROOT)
    return scipy.sparse.csr_array(y * top**0.5), scipy.sparse.csr_array(z * top**-0.5)


def projector(hamiltonian: scipy.sparse.csr_array, n_occupied: int, drop: float = DROP) -> scipy.sparse.csr_array:
    """The density matrix of one spin in orthogonal functions: the projector on the ``n_occupied`` lowest levels.

    Raises:
        UserError: there is no gap above them.
    """
    m = hamiltonian.shape[0]
    low, high = bounds(hamiltonian)
    x = scipy.sparse.csr_array((scipy.sparse.eye_array(m, format="csr") * high - hamiltonian) / (high - low))
    errors: list[float] = []
    for _ in range(_MOST):
        square = dropped(symmetric(x @ x), drop)
        trace, of_square = float(x.trace()), float(square.trace())
        errors.append(abs(trace - of_square))
        # done, or as far as dropped elements let it come
        if errors[-1] < 1e-13 * m or (len(errors) > 12 and errors[-1] < 1e-2 and errors[-1] > 0.5 * min(errors[:-2])):
            break
        up = 2 * trace - of_square
        x = square if abs(of_square - n_occupied) < abs(up - n_occupied) else scipy.sparse.csr_array(2 * x - square)
        x = dropped(x, drop)
    if errors[-1] > _IDEMPOTENT * max(1, n_occupied) or abs(float(x.trace()) - n_occupied) > 0.1:
        raise UserError(
            f"no gap above the {n_occupied} occupied orbitals was found (tr(P - P^2) = {errors[-1]:.1e}); "
            "a sparse density matrix needs one: take the dense solution"
        )
    return x


@dataclass(frozen=True)
class Frontier:
    """HOMO and LUMO: energies, Eh, and orbitals [m] in orthogonal functions; NaN and None of one that there is not."""

    homo: float
    lumo: float
    homo_orbital: np.ndarray | None
    lumo_orbital: np.ndarray | None


def frontier(
    hamiltonian: scipy.sparse.csr_array, density: scipy.sparse.csr_array, n_occupied: int, tolerance: float = 1e-7
) -> Frontier:
    """HOMO and LUMO by Lanczos iterations within and outside the occupied space.

    Energies are H's mean in the orbitals found, so that their errors are squares of those of the orbitals.

    Args:
        hamiltonian: H.
        density: ``projector``.
        n_occupied: levels that it projects on.
        tolerance: of ARPACK, relative.
    """
    m = hamiltonian.shape[0]
    low, high = bounds(hamiltonian)

    def outermost(inside: bool) -> tuple[float, np.ndarray | None]:
        count = n_occupied if inside else m - n_occupied
        if count < 1:
            return float("nan"), None

        def part(v: np.ndarray) -> np.ndarray:
            p = density @ v
            return p if inside else v - p

        def apply(v: np.ndarray) -> np.ndarray:
            v = part(v)
            # positive within the space, 0 outside: the largest eigenvalue belongs to the level next to the gap
            return part(hamiltonian @ v - low * v if inside else high * v - hamiltonian @ v)

        if m < 20:
            vector = np.linalg.eigh(apply(np.eye(m)))[1][:, -1]
        else:
            start = part(np.random.default_rng(1).normal(size=m))
            operator = LinearOperator((m, m), matvec=apply, dtype=np.float64)
            vector = eigsh(operator, 1, which="LA", tol=tolerance, v0=start, ncv=min(m, 60), maxiter=5000)[1][:, 0]
        vector = part(vector)
        vector /= np.linalg.norm(vector)
        return float(vector @ (hamiltonian @ vector)), vector

    homo, lumo = outermost(True), outermost(False)
    return Frontier(homo[0], lumo[0], homo[1], lumo[1])


def levels_near(hamiltonian: scipy.sparse.csr_array, energy: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The levels next to an energy by shift-invert Lanczos (ARPACK over a sparse factorisation).

    Best of chains and sheets, whose factors stay sparse; of compact molecules they fill up.

    Returns:
        energies [count], ascending, and orbitals [m, count] in orthogonal functions.
    """
    start = np.random.default_rng(2).normal(size=hamiltonian.shape[0])
    values, vectors = eigsh(scipy.sparse.csc_array(hamiltonian), count, sigma=energy, v0=start)
    order = np.argsort(values)
    return values[order], vectors[:, order]


def density_of_states(
    hamiltonian: scipy.sparse.csr_array, grid: np.ndarray, width: float, vectors: int = 32, seed: int = 0
) -> np.ndarray:
    """Density of states by the kernel polynomial method with Jackson's kernel and random vectors.

    Args:
        hamiltonian: H.
        grid: [E], Eh.
        width: Eh, of the kernel's Gaussian shape in the middle of the spectrum; sets the number of moments.
        vectors: random vectors of the trace; the noise falls with the square root of vectors times orbitals.
        seed: of these.

    Returns:
        [E], 1/Eh; its integral is the number of orbitals.
    """
    low, high = bounds(hamiltonian)
    centre, half = (low + high) / 2, (high - low) / 2
    moments = int(np.ceil(np.pi * half / width)) + 1
    m = hamiltonian.shape[0]
    v0 = np.random.default_rng(seed).choice([-1.0, 1.0], size=(m, vectors))

    def apply(v: np.ndarray) -> np.ndarray:
        return (hamiltonian @ v - centre * v) / half

    mu = np.zeros(moments)
    last, now = v0, apply(v0)
    mu[0] = m
    for n in range(1, moments):
        mu[n] = (v0 * now).sum() / vectors
        last, now = now, 2 * apply(now) - last
    order = np.arange(moments)
    a = np.pi / (moments + 1)
    jackson = ((moments - order + 1) * np.cos(order * a) + np.sin(order * a) / np.tan(a)) / (moments + 1)
    x = (np.asarray(grid, dtype=np.float64) - centre) / half
    inside = np.abs(x) < 1
    safe = np.where(inside, x, 0.0)
    weights = np.where(order == 0, 1.0, 2.0) * jackson * mu
    total = np.polynomial.chebyshev.chebval(safe, weights)
    return np.where(inside, total / (np.pi * half * np.sqrt(1 - safe**2)), 0.0)


def mulliken_populations(
    density: scipy.sparse.csr_array, root: scipy.sparse.csr_array, inverse_root: scipy.sparse.csr_array
) -> np.ndarray:
    """Electrons of each orbital [m], (P S)_mm with P = 2 S^(-1/2) D S^(-1/2), D the projector."""
    return 2.0 * np.asarray(((inverse_root @ density) * root).sum(1)).ravel()
