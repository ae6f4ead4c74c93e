"""How a molecule's orbitals turn with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch

from schnorb_t.basis import Basis
from schnorb_t.harmonics import wigner_d


def orbital_rotation(basis: Basis, atomic_numbers: Sequence[int], rotation: np.ndarray) -> np.ndarray:
    """D [m, m], block diagonal with one Wigner matrix per shell: X(R x) = D X(x) D^T for H and S in ``basis``.

    Args:
        basis: of the matrices.
        atomic_numbers: [n].
        rotation: R [3, 3], det = +1.
    """
    basis.n_orbitals(atomic_numbers)
    d = [m[0].numpy() for m in wigner_d(torch.tensor(rotation, dtype=torch.float64)[None], basis.l_max)]
    return scipy.linalg.block_diag(*[d[l] for z in atomic_numbers for l in basis.shells[int(z)]])
