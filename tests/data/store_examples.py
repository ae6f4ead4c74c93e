"""Random but sound molecules for the tests of the store."""

from __future__ import annotations

import numpy as np

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.store import Header, MoleculeRecord

BASIS = Basis("wqao", {1: (0,), 6: (0, 0, 1), 8: (0, 0, 1)}, projected=True)
HEADER = Header(BASIS, "wqao", {"functional": "b3lyp", "basis": "def2-svp", "grid_level": 1}, {"pyscf": "2.14.0"})


def example(i: int, *, name: str | None = None, keep: bool = False, **changes) -> MoleculeRecord:
    """Molecule i: even electrons, positive definite S, occupied levels of (H, S) equal to the large-basis ones."""
    random = np.random.default_rng([7, i])
    z = np.concatenate([random.choice([6, 8], random.integers(1, 4)), np.ones(2 * random.integers(1, 4), dtype=int)])
    m, n_occupied = int(BASIS.n_orbitals(z).sum()), int(z.sum()) // 2
    positions = 1.4 * np.stack(np.unravel_index(random.permutation(27)[: len(z)], (3, 3, 3)), axis=1)
    levels = np.sort(random.uniform(-10, 2, 3 * m))
    factor = np.eye(m) + 0.1 * random.normal(size=(m, m))
    hamiltonian = factor @ np.diag(levels[:m]) @ factor.T
    overlap = factor @ factor.T
    fields = dict(
        atomic_numbers=z,
        positions=positions + random.uniform(-0.2, 0.2, (len(z), 3)),
        hamiltonian=0.5 * (hamiltonian + hamiltonian.T),
        overlap=0.5 * (overlap + overlap.T),
        large_basis_energies=levels,
        total_energy=float(2 * levels[:n_occupied].sum()),
        n_electrons=2 * n_occupied,
        name=name or f"molecule:{i}",
        group=f"group {i // 2}",
        split=("train", "train", "val", "val", "test", "test")[i % 6],
        order=i,
        contraction=random.normal(size=(3 * m, m)) if keep else None,
    )
    return MoleculeRecord(**(fields | changes))


def assert_same(found: MoleculeRecord, expected: MoleculeRecord) -> None:
    """Bitwise equality of every field."""
    for field in [q.field for q in keys.stored()]:
        x, y = getattr(found, field), getattr(expected, field)
        if isinstance(y, np.ndarray):
            assert isinstance(x, np.ndarray) and x.shape == y.shape and x.tobytes() == y.astype(x.dtype).tobytes(), (
                field
            )
        else:
            assert x == y and type(x) is type(y), (field, x, y)
