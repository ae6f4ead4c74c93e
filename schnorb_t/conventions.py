"""Orbital order and sign of PySCF, ORCA, DFTB+ and e3nn <-> ours, each as a permutation and signs.

Ours: within an atom shells by l, then as listed; within a shell m = -l..l, standard real spherical harmonics
without extra signs. DFTB+ has the same. The others differ in the order of m within a shell, ORCA also in signs
and in the order of shells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: program -> l -> (m of its functions in its own order, sign of each relative to ours)
_M_ORDER: dict[str, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "ours": {},
    "dftb+": {},
    "pyscf": {1: ((1, -1, 0), (1, 1, 1))},  # px, py, pz; everything else -l..l
    "orca": {  # 0, +1, -1, +2, -2, ...; |m| >= 3 with flipped sign
        l: (
            tuple([0] + [s * m for m in range(1, l + 1) for s in (1, -1)]),
            tuple([1] + [-1 if m >= 3 else 1 for m in range(1, l + 1) for _ in (1, -1)]),
        )
        for l in range(1, 7)
    },
}


def shell_order(program: str, l: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The m values of a shell in a program's order and their signs relative to ours.

    Raises:
        ValueError: unknown program.
    """
    if program not in _M_ORDER:
        raise ValueError(f"no orbital order known for {program!r}; known: {sorted(_M_ORDER)}")
    natural = tuple(range(-l, l + 1)), (1,) * (2 * l + 1)
    return _M_ORDER[program].get(l, natural)


@dataclass(frozen=True)
class Reorder:
    """ours[i] = sign[i] * theirs[index[i]].

    Attributes:
        index: [M] int64.
        sign: [M] float64, +1 or -1.
    """

    index: np.ndarray
    sign: np.ndarray

    def matrix(self, theirs: np.ndarray) -> np.ndarray:
        """An operator's matrix [M, M] in their order -> in ours."""
        return theirs[np.ix_(self.index, self.index)] * np.outer(self.sign, self.sign)

    def rows(self, theirs: np.ndarray) -> np.ndarray:
        """Anything whose first axis is orbitals ([M], or coefficients [M, n]), in their order -> in ours."""
        sign = self.sign.reshape(-1, *[1] * (theirs.ndim - 1))
        return theirs[self.index] * sign

    def inverse(self) -> Reorder:
        """The way from our order to theirs."""
        inv = np.empty_like(self.index)
        inv[self.index] = np.arange(len(self.index))
        return Reorder(inv, self.sign[inv])


def reorder_from(program: str, atom_shells: Sequence[Sequence[int]]) -> Reorder:
    """The way from a program's orbital order to ours.

    Args:
        program: ``"pyscf"``, ``"orca"``, ``"dftb+"`` or ``"ours"``.
        atom_shells: for each atom the l of its shells *in the program's own order* (ORCA keeps the input order:
            6-31G carbon is 0, 0, 1, 0, 1). Shells are sorted by l, stably.
    """
    index, sign, start = [], [], 0
    for ls in atom_shells:
        starts = np.cumsum([0] + [2 * l + 1 for l in ls])
        for shell in sorted(range(len(ls)), key=lambda s: ls[s]):
            l = ls[shell]
            ms, signs = shell_order(program, l)
            for m in range(-l, l + 1):
                k = ms.index(m)
                index.append(start + starts[shell] + k)
                sign.append(signs[k])
        start += starts[-1]
    return Reorder(np.asarray(index, dtype=np.int64), np.asarray(sign, dtype=np.float64))


def pyscf_shells(mol) -> list[list[int]]:
    """The l of each shell of each atom of a PySCF ``Mole``, in its own order; a general contraction counts as many.

    Raises:
        ValueError: Cartesian functions (``mol.cart``).
    """
    if mol.cart:
        raise ValueError("PySCF molecule has Cartesian d functions; build it with cart=False")
    shells: list[list[int]] = [[] for _ in range(mol.natm)]
    for b in range(mol.nbas):
        shells[mol.bas_atom(b)].extend([int(mol.bas_angular(b))] * int(mol.bas_nctr(b)))
    return shells


def reorder_from_pyscf(mol) -> Reorder:
    """The way from the orbital order of a PySCF ``Mole`` to ours.

    Raises:
        ValueError: Cartesian functions (``mol.cart``).
    """
    return reorder_from("pyscf", pyscf_shells(mol))


#: e3nn 0.6: Y_standard(x, y, z) = Y_e3nn(y, z, x) for l <= 3 without signs, so feed e3nn ``vector[..., E3NN_AXES]``.
#: Its ``wigner_3j`` then holds for our harmonics as it stands.
E3NN_AXES = (1, 2, 0)
