"""H0 and S of padded molecules from Slater-Koster tables, with learnable splines initialised from the files.

Every table is a cubic B-spline on a uniform grid; its coefficients are the parameters. A block of orbitals (a on A, b
on B) is diagonal in m in the frame that has B at +z of A (Slater & Koster, Phys. Rev. 94, 1498 (1954)) and is
turned into the molecule's frame with D^l: H = D_a^T H_bond D_b.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_banded
from torch import Tensor, nn

from schnorb_t import keys, units
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.harmonics import bond_frames, slot_rotations, wigner_d
from schnorb_t.physics.orbitals import first_atoms
from schnorb_t.physics.skf import SlaterKosterFile, SlaterKosterSet

#: Bohr, beyond its last row a table goes to zero over this distance
TAIL = 1.0


def unordered_pairs(molecule: Tensor, n_molecules: int) -> Tensor:
    """All pairs i < j of atoms of one molecule, [2, P] int64, from ``keys.MOLECULE`` (ascending)."""
    first, counts = first_atoms(molecule, n_molecules)
    a = int(counts.max()) if len(counts) else 0
    i, j = torch.triu_indices(a, a, 1, device=molecule.device)
    inside = j.unsqueeze(0) < counts.unsqueeze(1)
    b, p = inside.nonzero(as_tuple=True)
    return torch.stack((first[b] + i[p], first[b] + j[p]))


def _table_on_grid(file: SlaterKosterFile, channels, grid: np.ndarray) -> np.ndarray:
    """Hamiltonian and overlap columns [n, 2C] of a file on another grid: cubic spline, then a quintic to zero."""
    skip = file.first_row
    rows = np.stack([table[c] for table in (file.hamiltonian, file.overlap) for c in channels], 1)[skip:]
    r = file.spacing * (np.arange(len(rows)) + skip + 1)
    spline = CubicSpline(r, rows, axis=0)
    out = spline(np.clip(grid, r[0], r[-1]))
    # value, slope and curvature of the last row, all three zero TAIL further on
    y, dy, ddy = (spline(r[-1], k) for k in range(3))
    conditions = np.array([[1, 1, 1], [-3, -4, -5], [6, 12, 20]], dtype=float)  # of (1-t)^3, (1-t)^4, (1-t)^5 at t=0
    c = np.linalg.solve(conditions, np.stack([y, dy * TAIL, ddy * TAIL**2]))
    t = np.clip((grid - r[-1]) / TAIL, 0, 1)[:, None]
    tail = (1 - t) ** 3 * c[0] + (1 - t) ** 4 * c[1] + (1 - t) ** 5 * c[2]
    return np.where((grid <= r[-1])[:, None], out, tail)


def _spline_coefficients(values: np.ndarray) -> np.ndarray:
    """Uniform cubic B-spline coefficients [n + 2, C] that interpolate [n, C], without curvature at both ends."""
    n = len(values)
    # no curvature means that an end coefficient is its value: (1 + 4 + 1) c / 6 = y
    inner = values[1:-1] * 6
    inner[0] -= values[0]
    inner[-1] -= values[-1]
    banded = np.stack([np.ones(n - 2), np.full(n - 2, 4.0), np.ones(n - 2)])
    c = np.concatenate([values[:1], solve_banded((1, 1), banded, inner), values[-1:]])
    return np.concatenate([2 * c[:1] - c[1:2], c, 2 * c[-1:] - c[-2:-1]])


class SlaterKoster(nn.Module):
    """Batch -> H0 and S by Slater-Koster tables.

    Args:
        tables: the files.
        spacing: Bohr, of the splines' grid; the finest of the files if left out (then the splines are exact there).
            A coarse one (0.2) gives smoother tables with fewer parameters for training.

    Attributes:
        basis: shells of each element; batches must be built with it.
        coefficients: [T, n + 2, 2C] parameter, T ordered element pairs, C channels (l_A <= l_B, |m|), H then S.
        onsite: [119, K] parameter, Eh, energies of an element's slots.
    """

    element_index: Tensor

    def __init__(self, tables: SlaterKosterSet, spacing: float | None = None):
        super().__init__()
        self.basis = basis = tables.basis
        l_max = basis.l_max
        self.channels = [(a, b, m) for a in range(l_max + 1) for b in range(a, l_max + 1) for m in range(a + 1)]
        self.spacing = min(f.spacing for f in tables.files.values()) if spacing is None else spacing
        self.start = min(f.spacing * (f.first_row + 1) for f in tables.files.values())
        cutoff = max(f.spacing * len(next(iter(f.hamiltonian.values()))) for f in tables.files.values()) + TAIL
        grid = self.start + self.spacing * np.arange(int(np.ceil((cutoff - self.start) / self.spacing)) + 2)
        elements = list(basis.elements)
        self.register_buffer("element_index", torch.from_numpy(basis.element_row_table), persistent=False)
        coefficients, onsite = [], torch.zeros(119, basis.n_slots, dtype=torch.float64)
        for a in elements:
            for l, at in zip(basis.layout, basis.layout_offsets, strict=True):
                if l in basis.shells[a]:
                    onsite[a, at : at + 2 * l + 1] = tables.files[a, a].onsite[l][0]
            for b in elements:
                coefficients.append(
                    _spline_coefficients(_table_on_grid(self._with_f(tables.files[a, b]), self.channels, grid))
                )
        self.coefficients = nn.Parameter(torch.tensor(np.stack(coefficients)))
        self.onsite = nn.Parameter(onsite)
        forward, backward = self._placement()
        self.register_buffer("forward_placement", forward, persistent=False)
        self.register_buffer("backward_placement", backward, persistent=False)

    def _with_f(self, file: SlaterKosterFile) -> SlaterKosterFile:
        missing = [c for c in self.channels if c not in file.hamiltonian]
        if missing:
            raise ValueError(f"{file.path}: simple format holds no f shells; an extended file is needed")
        return file

    def _placement(self) -> tuple[Tensor, Tensor]:
        """[C, K, K] twice: where a channel of file A-B stands in block A, B, and where one of B-A does, with sign."""
        ml = [(l, m) for l in self.basis.layout for m in range(-l, l + 1)]
        k = len(ml)
        out = torch.zeros(2, len(self.channels), k, k, dtype=torch.float64)
        for a, (la, ma) in enumerate(ml):
            for b, (lb, mb) in enumerate(ml):
                if ma == mb:
                    low, high = min(la, lb), max(la, lb)
                    channel = self.channels.index((low, high, abs(ma)))
                    # from B's side A stands at -z: parity of both functions
                    out[0 if la <= lb else 1, channel, a, b] = 1.0 if la <= lb else (-1.0) ** (la + lb)
        return out[0], out[1]

    def tables_at(self, pair_type: Tensor, distance: Tensor) -> Tensor:
        """All columns [P, 2C] of ordered element pairs [P] at distances [P], Bohr."""
        n = self.coefficients.shape[1]
        t = ((distance - self.start) / self.spacing).clamp(0, n - 3)
        k = t.detach().floor().clamp(max=n - 4).long()
        x = (t - k).unsqueeze(-1)
        y = 1 - x
        weights = (y**3, 4 - 6 * x**2 + 3 * x**3, 4 - 6 * y**2 + 3 * y**3, x**3)
        flat = self.coefficients.flatten(0, 1)
        at = pair_type * n + k
        w0, w1, w2, w3 = weights
        return (w0 * flat[at] + w1 * flat[at + 1] + w2 * flat[at + 2] + w3 * flat[at + 3]) / 6

    def onsite_energies(self) -> Tensor:
        """[119, K], Eh, of an element's slots."""
        return self.onsite

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """H0 [B, M, M] in Eh and S [B, M, M] in float64, 0 in padding.

        Args:
            batch: ``keys.ATOMIC_NUMBERS``, ``POSITIONS`` (Å), ``MOLECULE``, ``ORBITAL_INDEX``, ``ORBITAL_MASK``, built
                with ``self.basis``.
        """
        z, molecule = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE]
        mask = batch[keys.ORBITAL_MASK]
        positions = units.angstrom_to_bohr(batch[keys.POSITIONS].to(torch.float64))
        i, j = unordered_pairs(molecule, len(mask))
        # the lighter atom first, so that a pair finds the same table whatever the order of atoms
        i, j = torch.where(z[i] <= z[j], torch.stack((i, j)), torch.stack((j, i)))
        vectors = positions[j] - positions[i]
        blocks = self._blocks(z[i], z[j], vectors)
        index = BlockIndex(molecule, batch[keys.ORBITAL_INDEX], torch.stack((i, j)), mask)
        matrices = []
        energies = self.onsite_energies()[z]
        for block, diagonal in zip(blocks, (energies, torch.ones_like(energies)), strict=True):
            half = BlockMatrix(torch.diag_embed(diagonal / 2), block, index).padded()
            matrices.append(half + half.mT)
        return matrices[0], matrices[1]

    def _blocks(self, z_i: Tensor, z_j: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        n, c = len(self.basis.elements), len(self.channels)
        a, b = self.element_index[z_i], self.element_index[z_j]
        distance = vectors.norm(dim=-1)
        forward, backward = self.tables_at(a * n + b, distance), self.tables_at(b * n + a, distance)
        d = wigner_d(bond_frames(vectors), self.basis.l_max)
        rotation = slot_rotations(d, self.basis.layout)
        out = []
        for part in (slice(0, c), slice(c, 2 * c)):
            block = torch.einsum("pc,cab->pab", forward[:, part], self.forward_placement)
            block = block + torch.einsum("pc,cab->pab", backward[:, part], self.backward_placement)
            out.append(rotation.mT @ block @ rotation)
        return out[0], out[1]
