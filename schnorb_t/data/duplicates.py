"""Find the same geometry twice, whatever its rotation, reflection, translation and order of atoms.

Two geometries count as the same if their sorted interatomic distances, per pair of elements, agree within a tolerance.
A mirror image counts as the same: for an O(3)-equivariant model it carries no new information.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

#: Å: distances closer than this are the same.
TOLERANCE = 1e-3

#: Length of ``geometry_invariants``.
N_INVARIANTS = 6


def _distances(atomic_numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    i, j = np.triu_indices(len(atomic_numbers), 1)
    return np.linalg.norm(positions[i] - positions[j], axis=1), atomic_numbers[i], atomic_numbers[j]


def smallest_distance(positions: np.ndarray) -> float:
    """Å; infinity for a single atom."""
    i, j = np.triu_indices(len(positions), 1)
    return float(np.linalg.norm(positions[i] - positions[j], axis=1).min()) if len(i) else np.inf


def composition_code(atomic_numbers: np.ndarray, charge: int = 0) -> int:
    """Equal for equal compositions and total charges (and seldom else)."""
    return (int(charge) << 33) + zlib.crc32(np.sort(np.asarray(atomic_numbers)).astype(np.uint8).tobytes())


def geometry_invariants(atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[6] weighted means of r, sin(r), cos(r) over all pairs, r in Å, with weights 1 and Z_i Z_j.

    Each changes by at most d when all distances change by at most d, so that geometries that are the same within
    a tolerance have invariants that are the same within it.
    """
    r, zi, zj = _distances(np.asarray(atomic_numbers, dtype=np.float64), np.asarray(positions))
    if not len(r):
        return np.zeros(N_INVARIANTS)
    weights = zi * zj / np.sum(zi * zj)
    functions = np.stack([r, np.sin(r), np.cos(r)])
    return np.concatenate([functions.mean(axis=1), functions @ weights])


def same_geometry(first: tuple, second: tuple, tolerance: float = TOLERANCE) -> bool:
    """Whether two ``(atomic_numbers [n], positions [n, 3])`` have the same distances."""
    sides = []
    for atomic_numbers, positions in (first, second):
        r, zi, zj = _distances(np.asarray(atomic_numbers, dtype=np.int64), np.asarray(positions))
        kind = np.minimum(zi, zj) * 1000 + np.maximum(zi, zj)
        order = np.lexsort((r, kind))
        sides.append((np.sort(atomic_numbers), kind[order], r[order]))
    (z1, kind1, r1), (z2, kind2, r2) = sides
    same_atoms = np.array_equal(z1, z2) and np.array_equal(kind1, kind2)
    return bool(same_atoms and (np.abs(r1 - r2) <= tolerance).all())


def find_duplicates(
    compositions: np.ndarray,
    invariants: np.ndarray,
    load: Callable[[int], tuple[np.ndarray, np.ndarray]],
    tolerance: float = TOLERANCE,
) -> list[tuple[int, int]]:
    """Pairs (i < j) of the same geometry; of k equal ones at least k - 1 pairs that link them all.

    Args:
        compositions: [n] ``composition_code`` of each molecule.
        invariants: [n, 6] ``geometry_invariants`` of each.
        load: index -> (atomic_numbers, positions), called for the few candidates.
        tolerance: Å.
    """
    order = np.lexsort((invariants[:, 0], compositions))
    code, value = compositions[order], invariants[order]
    pairs, component = [], np.arange(len(order))
    first = np.arange(len(order))
    for step in range(1, len(order)):
        first = first[first + step < len(order)]
        second = first + step
        near = (code[first] == code[second]) & (value[second, 0] - value[first, 0] <= tolerance)
        first, second = first[near], second[near]  # sorted: who is too far now stays too far
        if not len(first):
            break
        close = (np.abs(value[first] - value[second]) <= tolerance).all(axis=1)
        for a, b in zip(first[close], second[close], strict=True):
            i, j = int(order[a]), int(order[b])
            if component[i] != component[j] and same_geometry(load(i), load(j), tolerance):
                pairs.append((min(i, j), max(i, j)))
                component[component == component[j]] = component[i]
    return sorted(pairs)
