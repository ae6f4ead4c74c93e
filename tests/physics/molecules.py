"""Padded batches for the tests of ``physics``: random ones, and PySCF's, degenerate molecules included."""

from functools import cache

import numpy as np
import pytest
import torch

from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.units import BOHR

METHANE = [("C", (0, 0, 0))] + [
    ("H", tuple(0.6276 * np.array(v))) for v in [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
]
BENZENE = [
    (symbol, (r * np.cos(k * np.pi / 3), r * np.sin(k * np.pi / 3), 0.0))
    for symbol, r in (("C", 1.397), ("H", 2.484))
    for k in range(6)
]
WATER = [("O", (0.1, 0.2, -0.3)), ("H", (0.86, 0.2, -0.9)), ("H", (-0.7, 0.3, -0.85))]
FORMALDEHYDE = [
    ("O", (0.1, 0.2, 0.9)),
    ("C", (0.0, -0.1, -0.3)),
    ("H", (0.9, 0.1, -0.9)),
    ("H", (-0.9, -0.3, -0.8)),
]


def random_batch(sizes, seed=0, dtype=torch.float64):
    """Random symmetric H, positive definite S, NaN in padding, and the mask."""
    rng = np.random.default_rng(seed)
    m = max(sizes)
    h = np.full((len(sizes), m, m), np.nan)
    s = np.full((len(sizes), m, m), np.nan)
    mask = np.zeros((len(sizes), m), dtype=bool)
    for b, n in enumerate(sizes):
        a = rng.normal(size=(n, n))
        q = rng.normal(size=(n, 2 * n))
        h[b, :n, :n] = (a + a.T) / 2
        s[b, :n, :n] = q @ q.T / (2 * n) + 0.2 * np.eye(n)
        mask[b, :n] = True
    return torch.tensor(h, dtype=dtype), torch.tensor(s, dtype=dtype), torch.tensor(mask)


@cache
def _hartree_fock(atoms):
    gto, scf = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.scf")
    # in Bohr of our own, because PySCF's differs in the ninth digit
    atoms = [(symbol, tuple(np.asarray(xyz) / BOHR)) for symbol, xyz in atoms]
    mol = gto.M(atom=atoms, basis="sto-3g", unit="Bohr", verbose=0)
    mf = scf.RHF(mol)
    mf.conv_tol, mf.conv_tol_grad = 1e-13, 1e-10
    mf.kernel()
    return mol, mf


def hartree_fock(atoms):
    """PySCF's ``(mol, mf)``, RHF/STO-3G converged; skips without PySCF."""
    return _hartree_fock(tuple((symbol, tuple(map(float, xyz))) for symbol, xyz in atoms))


def hartree_fock_batch(molecules):
    """H, S (our order, zero padded), mask, number of doubly occupied orbitals of several molecules."""
    hs, ss, n_occ = [], [], []
    for atoms in molecules:
        mol, mf = hartree_fock(atoms)
        reorder = reorder_from_pyscf(mol)
        hs.append(torch.tensor(reorder.matrix(mf.get_fock())))
        ss.append(torch.tensor(reorder.matrix(mol.intor("int1e_ovlp"))))
        n_occ.append(mol.nelectron // 2)
    m = max(len(h) for h in hs)
    mask = torch.tensor([[i < len(h) for i in range(m)] for h in hs])

    def padded(xs):
        return torch.stack([torch.nn.functional.pad(x, (0, m - len(x), 0, m - len(x))) for x in xs])

    return padded(hs), padded(ss), mask, torch.tensor(n_occ)


def directional_derivative(function, inputs, seed=0, step=1e-4, real=None):
    """(autograd, five-point finite difference) of a scalar along a random symmetric direction of every [B, M, M] input.

    Args:
        function: tensors -> scalar.
        inputs: list of [B, M, M].
        real: [B, M] bool; the direction is zero elsewhere.
    """
    g = torch.Generator().manual_seed(seed)
    directions = []
    for x in inputs:
        d = torch.randn(x.shape, dtype=x.dtype, generator=g)
        if x.dim() == 3:
            d = (d + d.mT) / 2
            if real is not None:
                d = d * (real[:, :, None] & real[:, None, :])
        directions.append(d / d.norm())
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    grads = torch.autograd.grad(function(*leaves), leaves)
    analytic = sum((gr * d).sum() for gr, d in zip(grads, directions, strict=True)).item()
    with torch.no_grad():

        def at(t):
            return function(*[x.detach() + t * d for x, d in zip(inputs, directions, strict=True)]).item()

        numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    return analytic, numeric
