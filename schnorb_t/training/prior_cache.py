"""What a frozen prior says of molecules, kept in memory: it costs as much as the network, and never changes."""

from __future__ import annotations

import torch
from torch import Tensor

from schnorb_t import keys

#: Matrices that are kept of each molecule.
NAMES = (keys.PRIOR_HAMILTONIAN, keys.PRIOR_OVERLAP, keys.PRIOR_DENSITY)


class PriorCache:
    """Matrices of molecules by their place in the data, one behind the other in one float32 tensor on the CPU.

    Full is full: molecules that come later are computed every time.

    Args:
        orbital_count: [119] orbitals of each element in the prior's basis.
        gib: GiB that it may take. A molecule of n orbitals takes 12 n^2 bytes: 25 kB for one of QM9.
    """

    def __init__(self, orbital_count: Tensor, gib: float):
        self.orbital_count, self.limit = orbital_count.cpu(), int(gib * 2**30) // (4 * len(NAMES))
        self.values = torch.zeros(len(NAMES), 0)
        self.used = 0
        self.offsets = torch.zeros(0, dtype=torch.int64)  # of a molecule in ``values``; -1: not there

    def _orbitals(self, batch: dict[str, Tensor]) -> Tensor:
        """[B] orbitals of the batch's molecules in the prior's basis."""
        counts = self.orbital_count[batch[keys.ATOMIC_NUMBERS]]
        total = torch.zeros(len(batch[keys.INDEX]), dtype=counts.dtype)
        return total.index_add_(0, batch[keys.MOLECULE], counts)

    @staticmethod
    def _square(n: Tensor, m: int) -> Tensor:
        """[B, M, M] bool: elements of matrices of n [B] orbitals."""
        real = torch.arange(m) < n[:, None]
        return real[:, :, None] & real[:, None]

    def get(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The prior's matrices [B, M, M] of a batch on the CPU; ``None`` unless all of its molecules are kept."""
        places = batch[keys.INDEX]
        if int(places.max()) >= len(self.offsets):
            return None
        starts = self.offsets[places]
        if int(starts.min()) < 0:
            return None
        m, n = batch[keys.ORBITAL_MASK].shape[1], self._orbitals(batch)
        real = self._square(n, m)
        k = torch.arange(m)
        at = (starts[:, None, None] + k[:, None] * n[:, None, None] + k)[real]
        out = {}
        for name, values in zip(NAMES, self.values, strict=True):
            out[name] = torch.zeros(real.shape)
            out[name][real] = values[at]
        return out

    def put(self, batch: dict[str, Tensor], made: dict[str, Tensor]) -> None:
        """Keep what the prior says of a batch on the CPU; molecules that are kept already, or do not fit, are left out.

        Args:
            batch: on the CPU.
            made: [B, M, M] of ``NAMES``, anywhere.
        """
        places, n = batch[keys.INDEX], self._orbitals(batch)
        if (more := int(places.max()) + 1 - len(self.offsets)) > 0:
            self.offsets = torch.cat((self.offsets, torch.full((more + len(self.offsets) // 2,), -1)))
        new = self.offsets[places] < 0
        new &= self.used + torch.where(new, n * n, 0).cumsum(0) <= self.limit
        if not bool(new.any()):
            return
        n_new = n[new]
        ends = self.used + (n_new * n_new).cumsum(0)
        real = self._square(n_new, batch[keys.ORBITAL_MASK].shape[1])
        end = int(ends[-1])
        if end > self.values.shape[1]:
            room = min(max(end, 2 * self.values.shape[1]), self.limit)
            self.values = torch.cat((self.values, torch.zeros(len(NAMES), room - self.values.shape[1])), 1)
        for name, values in zip(NAMES, self.values, strict=True):
            values[self.used : end] = made[name].detach().float().cpu()[new][real]
        self.offsets[places[new]] = ends - n_new * n_new
        self.used = end
