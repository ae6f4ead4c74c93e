"""A small Slater-Koster set of the tests' own, from PySCF integrals of three made-up atoms; flat batches."""

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols

from schnorb_t import keys
from schnorb_t.conventions import reorder_from
from schnorb_t.physics.skf import EXTENDED, SIMPLE

#: element -> shells with Gaussian exponents; H has s, C s and p, S s, p and d
GAUSSIANS = {
    1: [[0, [0.5, 1.0]]],
    6: [[0, [0.45, 1.0]], [1, [0.35, 1.0]]],
    16: [[0, [0.4, 1.0]], [1, [0.3, 1.0]], [2, [0.35, 1.0]]],
}
SHELLS = {z: tuple(l for l, _ in rows) for z, rows in GAUSSIANS.items()}
#: the same with an f shell on S
WITH_F = {**GAUSSIANS, 16: [*GAUSSIANS[16], [3, [0.45, 1.0]]]}
#: E, U and electrons per shell
ONSITE = {
    1: [(-0.24, 0.42, 1.0)],
    6: [(-0.50, 0.36, 2.0), (-0.19, 0.36, 2.0)],
    16: [(-0.63, 0.33, 2.0), (-0.26, 0.33, 4.0), (0.02, 0.33, 0.0)],
}


def molecule(numbers, positions, gaussians=GAUSSIANS):
    """PySCF molecule of the made-up atoms, positions in Bohr."""
    gto = pytest.importorskip("pyscf.gto")
    atoms = [(chemical_symbols[z], tuple(map(float, r))) for z, r in zip(numbers, positions, strict=True)]
    basis = {chemical_symbols[z]: rows for z, rows in gaussians.items()}
    return gto.M(atom=atoms, basis=basis, unit="Bohr", spin=None, verbose=0)


def integrals(numbers, positions, name, gaussians=GAUSSIANS):
    """Whole matrix in our order."""
    reorder = reorder_from("pyscf", [[l for l, _ in gaussians[z]] for z in numbers])
    return reorder.matrix(molecule(numbers, positions, gaussians).intor(name))


def write_set(folder, hamiltonian="kinetic", extended=(), n_rows=600, spacing=0.02, gaussians=GAUSSIANS):
    """Write all nine files; element pairs in ``extended`` in that format. H: kinetic energy, or Wolfsberg-Helmholz."""
    from pyscf import gto

    shells_of = {z: tuple(l for l, _ in rows) for z, rows in gaussians.items()}
    z_axis = spacing * np.arange(1, n_rows)
    for a in gaussians:
        for b in gaussians:
            mol_a = molecule([a], [(0, 0, 0)], gaussians)
            mol_b = molecule([b] * len(z_axis), [(0, 0, z) for z in z_axis], gaussians)
            overlap = gto.intor_cross("int1e_ovlp", mol_a, mol_b)
            kinetic = gto.intor_cross("int1e_kin", mol_a, mol_b)
            reorder_a = reorder_from("pyscf", [shells_of[a]]).index
            reorder_b = reorder_from("pyscf", [shells_of[b]]).index
            shape = (len(reorder_a), len(z_axis), len(reorder_b))
            overlap, kinetic = (x.reshape(shape)[reorder_a][:, :, reorder_b] for x in (overlap, kinetic))
            columns = EXTENDED if (a, b) in extended else SIMPLE
            table = np.zeros((len(z_axis), 2 * len(columns)))
            for k, (la, lb, m) in enumerate(columns):
                if la in shells_of[a] and lb in shells_of[b]:
                    i = sum(2 * l + 1 for l in range(la)) + la + m
                    j = sum(2 * l + 1 for l in range(lb)) + lb + m
                    s = overlap[i, :, j]
                    if hamiltonian == "kinetic":
                        table[:, k] = kinetic[i, :, j]
                    else:
                        table[:, k] = 1.75 * s * (ONSITE[a][la][0] + ONSITE[b][lb][0]) / 2
                    table[:, len(columns) + k] = s
            text = ["@extended"] if (a, b) in extended else []
            text.append(f"{spacing} {n_rows}")
            if a == b:
                shells = 4 if (a, b) in extended else 3
                rows = ONSITE[a] + [(0.0, 0.0, 0.0)] * (shells - len(ONSITE[a]))
                if hamiltonian == "kinetic":
                    own = np.diag(integrals([a], [(0, 0, 0)], "int1e_kin", gaussians))
                    rows = [(own[l * l], *r[1:]) if l in shells_of[a] else r for l, r in enumerate(rows)]
                numbers = [r[0] for r in rows[::-1]] + [0.0] + [r[1] for r in rows[::-1]] + [r[2] for r in rows[::-1]]
                text.append(" ".join(f"{x:.15e}" for x in numbers))
            text.append(f"{12.0 if a == b else 0.0} 0.1 -0.02 0.003 5*0.0 4.0 10*0.0")
            text += [" ".join(f"{x:.15e}" for x in row) for row in table]
            (folder / f"{chemical_symbols[a]}-{chemical_symbols[b]}.skf").write_text("\n".join(text) + "\n")
    return folder


def flat_batch(basis, molecules):
    """Batch of keys from [(numbers, positions in Å), ...]."""
    z = torch.tensor([q for numbers, _ in molecules for q in numbers])
    counts = [int(basis.n_orbitals(numbers).sum()) for numbers, _ in molecules]
    m = max(counts)
    index = torch.full((len(z), basis.n_slots), m)
    atom = 0
    for numbers, _ in molecules:
        at = 0
        for q in numbers:
            slots = np.flatnonzero(basis.slot_mask_table[q])
            index[atom, slots] = torch.arange(at, at + len(slots))
            at, atom = at + len(slots), atom + 1
    return {
        keys.ATOMIC_NUMBERS: z,
        keys.POSITIONS: torch.tensor(np.concatenate([p for _, p in molecules])),
        keys.MOLECULE: torch.tensor([b for b, (numbers, _) in enumerate(molecules) for _ in numbers]),
        keys.ORBITAL_INDEX: index,
        keys.ORBITAL_MASK: torch.arange(m) < torch.tensor(counts).unsqueeze(-1),
    }
