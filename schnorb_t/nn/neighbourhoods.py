"""Products over common neighbours in molecules of any size: dense among the atoms around a small group, nothing else.

Z_ij = sum_k X_ik Y_kj, with X and Y blocks of pairs within a cutoff and Z wanted for given pairs, is cut into groups of
atoms i that lie together. The k that a group needs are its neighbours, the j its partners, and among these few the sum
is a dense matrix product, the form in which a processor is fastest. Work and memory grow with the number of atoms; no
list of triples is built, and nothing of size [atoms, atoms].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def spatial_groups(positions: Tensor, size: int) -> list[Tensor]:
    """Atoms that lie together, at most ``size`` in each group: boxes are halved along their longest side.

    Args:
        positions: [N, 3].
        size: of a group, 1 or more.
    """
    todo, out = [torch.arange(len(positions), device=positions.device)], []
    while todo:
        atoms = todo.pop()
        if len(atoms) <= size:
            out.append(atoms.sort().values)
            continue
        r = positions[atoms]
        axis = int((r.amax(0) - r.amin(0)).argmax())
        atoms = atoms[r[:, axis].argsort(stable=True)]
        todo += [atoms[: len(atoms) // 2], atoms[len(atoms) // 2 :]]
    return out


@dataclass(frozen=True, eq=False)
class Rows:
    """Pairs (i, j) of N atoms, sorted by i, to be looked up by i.

    Attributes:
        i, j: [P].
        start: [N + 1], where the pairs of each i begin.
    """

    i: Tensor
    j: Tensor
    start: Tensor

    @classmethod
    def of(cls, i: Tensor, j: Tensor, n: int) -> Rows:
        """Of pairs sorted by i."""
        counts = torch.bincount(i, minlength=n)
        return cls(i, j, torch.cat((counts.new_zeros(1), counts.cumsum(0))))

    def of_atoms(self, atoms: Tensor) -> Tensor:
        """Places of all pairs whose first atom is one of ``atoms``, in their order."""
        first, count = self.start[atoms], self.start[atoms + 1] - self.start[atoms]
        within = torch.arange(int(count.sum()), device=count.device) - (count.cumsum(0) - count).repeat_interleave(
            count
        )
        return first.repeat_interleave(count) + within


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A group of atoms i, their neighbours k, their partners j, and the places of what lies between them.

    Attributes:
        atoms: [I].
        k, j: [K], [J], atoms.
        left, left_at: rows of the list of X, and where they stand in [I, K].
        right, right_at: rows of the list of Y, and where they stand in [K, J].
        target, target_at: rows of the wanted pairs, and where they stand in [I, J].
    """

    atoms: Tensor
    k: Tensor
    j: Tensor
    left: Tensor
    left_at: Tensor
    right: Tensor
    right_at: Tensor
    target: Tensor
    target_at: Tensor


def neighbourhoods(groups: list[Tensor], left: Rows, right: Rows, target: Rows) -> Iterator[Neighbourhood]:
    """Of each group; X stands on the pairs ``left`` (i, k), Y on ``right`` (k, j), Z is wanted on ``target`` (i, j)."""
    n = len(left.start) - 1
    row, column, middle = (torch.full((n,), -1, device=left.i.device) for _ in range(3))

    def number(table: Tensor, atoms: Tensor) -> None:
        table[atoms] = torch.arange(len(atoms), device=atoms.device)

    for atoms in groups:
        number(row, atoms)
        wanted = target.of_atoms(atoms)
        given = left.of_atoms(atoms)
        j, k = target.j[wanted].unique(), left.j[given].unique()
        number(column, j)
        number(middle, k)
        across = right.of_atoms(k)
        across = across[column[right.j[across]] >= 0]
        yield Neighbourhood(
            atoms,
            k,
            j,
            given,
            row[left.i[given]] * len(k) + middle[left.j[given]],
            across,
            middle[right.i[across]] * len(j) + column[right.j[across]],
            wanted,
            row[target.i[wanted]] * len(j) + column[target.j[wanted]],
        )
        row[atoms], column[j], middle[k] = -1, -1, -1
