"""The steps of a PySCF calculation that take the time, done faster at the same result.

PySCF evaluates the atomic orbitals on the grid anew in every SCF cycle and multiplies matrices by its bundled OpenBLAS,
which knows no recent processor (22 GFLOP/s where NumPy's reaches 83). Here the orbitals stay in memory, what is zero on
a block of neighbouring points is left out, densities come from the occupied orbitals, and NumPy multiplies. PySCF
keeps the SCF itself, the integrals, the grid and the functional.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pyscf import df, lib
from pyscf.dft import numint

#: Memory for orbitals on the grid and, apart from them, for three-centre integrals, MB.
MAX_MEMORY = 2000.0
#: Grid points per block; PySCF sorts them by place. What belongs to a block fits into a core's cache.
BLOCK = 504
#: Orbitals below this on all points of a block (values and slopes, atomic units) are left out there.
NEGLIGIBLE = 1e-10
#: Auxiliary functions per block of the exchange, for the same cache.
AUXILIARY_BLOCK = 16


def occupied_orbitals(dm: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """C [m, k] and signs [k] with D = C diag(signs) C^T; signs None where all are 1.

    Args:
        dm: [m, m] symmetric density matrix; PySCF's tagged array carries its orbitals, of another one the natural
            orbitals (of its matrix, without S) are taken.
    """
    coefficients = getattr(dm, "mo_coeff", None)
    if coefficients is not None and np.ndim(coefficients) == 2:
        occupations = np.asarray(dm.mo_occ)
        kept = occupations > 0
        return np.asarray(coefficients)[:, kept] * np.sqrt(occupations[kept]), None
    values, vectors = np.linalg.eigh(np.asarray(dm))
    kept = np.abs(values) > 1e-14 * np.abs(values).max(initial=0.0)
    values, vectors = values[kept], vectors[:, kept]
    signs = None if (values > 0).all() else np.sign(values)
    return vectors * np.sqrt(np.abs(values)), signs


@dataclass(frozen=True)
class GridBlock:
    """Atomic orbitals on neighbouring grid points.

    Attributes:
        start, stop: its points in the grid.
        functions: [a] indices of the orbitals that are not negligible there.
        values: [a, c, points]; c = 1 (values) or 4 (values and slopes along x, y, z).
    """

    start: int
    stop: int
    functions: np.ndarray
    values: np.ndarray


class CachedNumInt(numint.NumInt):
    """PySCF's integration on the grid for one symmetric density matrix, with orbitals kept between calls.

    Closed shell, LDA and GGA functionals (hybrids among them); anything else goes PySCF's own way. One object serves
    one molecule at a time: another molecule or grid empties it.

    Args:
        max_memory: MB for kept orbitals; blocks beyond are evaluated anew in each call.
    """

    def __init__(self, max_memory: float = MAX_MEMORY):
        super().__init__()
        self.max_cache = max_memory
        self._blocks: list[GridBlock] = []
        self._owner: tuple | None = None
        self._complete_to = 0

    def _evaluate(self, mol, grids, start: int, stop: int, slopes: bool) -> GridBlock:
        mask = grids.non0tab[start // numint.BLKSIZE :] if grids.non0tab is not None else None
        ao = self.eval_ao(mol, grids.coords[start:stop], deriv=int(slopes), non0tab=mask, cutoff=grids.cutoff)
        ao = ao.reshape(-1, stop - start, mol.nao).transpose(2, 0, 1)  # [m, c, points]
        functions = np.flatnonzero(np.abs(ao).max(axis=(1, 2), initial=0.0) > NEGLIGIBLE)
        return GridBlock(start, stop, functions, np.ascontiguousarray(ao[functions]))

    def blocks(self, mol, grids, slopes: bool) -> Iterator[GridBlock]:
        """All blocks of the grid, from memory as far as it reaches."""
        if grids.coords is None:
            grids.build(with_non0tab=True)
        owner = (mol, grids.coords, slopes)
        if self._owner is None or any(a is not b for a, b in zip(owner, self._owner, strict=True)):
            self._owner, self._blocks, self._complete_to = owner, [], 0
        yield from self._blocks
        used = sum(block.values.nbytes for block in self._blocks) / 1e6
        n_points = len(grids.weights)
        step = BLOCK - BLOCK % numint.BLKSIZE
        for start in range(self._complete_to, n_points, step):
            block = self._evaluate(mol, grids, start, min(start + step, n_points), slopes)
            used += block.values.nbytes / 1e6
            if used <= self.max_cache and start == self._complete_to:
                self._blocks.append(block)
                self._complete_to = block.stop
            yield block

    def nr_rks(self, mol, grids, xc_code, dms, relativity=0, hermi=1, max_memory=2000, verbose=None):
        """Electrons, exchange-correlation energy (Eh) and potential [m, m] (Eh); PySCF's order of functions."""
        kind = self._xc_type(xc_code)
        plain = isinstance(dms, np.ndarray) and dms.ndim == 2 and dms.dtype == np.float64
        if kind not in ("LDA", "GGA") or hermi != 1 or not plain:
            return super().nr_rks(mol, grids, xc_code, dms, relativity, hermi, max_memory, verbose)
        slopes = kind == "GGA"
        orbitals, signs = occupied_orbitals(dms)
        n_electrons = energy = 0.0
        potential = np.zeros((mol.nao, mol.nao))
        for block in self.blocks(mol, grids, slopes):
            a, c, points = block.values.shape
            if a == 0:
                continue
            part = orbitals[block.functions]
            psi = (part.T @ block.values.reshape(a, c * points)).reshape(-1, c, points)
            first = psi[:, 0] if signs is None else psi[:, 0] * signs[:, None]
            density = np.einsum("ip,icp->cp", first, psi)
            density[1:] *= 2.0
            weight = grids.weights[block.start : block.stop]
            rho = density if slopes else density[0]
            exc, vxc = self.eval_xc_eff(xc_code, rho, deriv=1, xctype=kind, spin=0)[:2]
            charge = density[0] * weight
            n_electrons += charge.sum()
            energy += charge @ exc
            wv = np.ascontiguousarray(np.reshape(vxc, (-1, points))[:c] * weight)
            wv[0] *= 0.5
            scaled = np.einsum("acp,cp->ap", block.values, wv)
            half = block.values[:, 0] @ scaled.T
            potential[np.ix_(block.functions, block.functions)] += half
        return n_electrons, energy, potential + potential.T


class MemoryDF(df.DF):
    """PySCF's density fitting, Coulomb and exchange of one symmetric density matrix from its occupied orbitals.

    Where the integrals do not fit into PySCF's memory, or for several matrices at once, PySCF's own way is gone.
    """

    def get_jk(self, dm, hermi=1, with_j=True, with_k=True, direct_scf_tol=1e-13, omega=None):
        """Coulomb and exchange matrices [m, m], Eh; PySCF's order of functions."""
        if self._cderi is None and (omega is None):
            self.build()
        integrals = self._cderi
        plain = isinstance(dm, np.ndarray) and dm.ndim == 2 and dm.dtype == np.float64
        if omega is not None or hermi != 1 or not plain or not isinstance(integrals, np.ndarray):
            return super().get_jk(dm, hermi, with_j, with_k, direct_scf_tol, omega)
        n = len(dm)
        coulomb = exchange = None
        if with_j:
            packed = lib.pack_tril(2.0 * np.asarray(dm))
            diagonal = np.arange(n) * (np.arange(n) + 3) // 2
            packed[diagonal] *= 0.5
            coulomb = lib.unpack_tril((integrals @ packed) @ integrals, 1)
        if with_k:
            orbitals, signs = occupied_orbitals(dm)
            exchange = np.zeros((n, n))
            for start in range(0, len(integrals), AUXILIARY_BLOCK):
                block = lib.unpack_tril(integrals[start : start + AUXILIARY_BLOCK])  # [l, m, m]
                half = (block.reshape(-1, n) @ orbitals).reshape(len(block), n, -1).transpose(1, 0, 2)  # [m, l, k]
                if signs is None:
                    flat = half.reshape(n, -1)
                    exchange += flat @ flat.T
                else:
                    exchange += (half * signs).reshape(n, -1) @ half.reshape(n, -1).T
        return coulomb, exchange
