"""The name, shape, unit and meaning of every tensor that crosses a room's door.

A batch is a plain ``dict[str, Tensor]``. Letters in shapes: B molecules, N atoms of all molecules, P ordered pairs
of atoms of one molecule within the cutoff, M the largest orbital count in the batch, K the basis's slots, L the
largest number of large-basis levels kept.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    shape: str
    unit: str
    meaning: str


ATOMIC_NUMBERS = "atomic_numbers"
POSITIONS = "positions"
MOLECULE = "molecule"
PAIR_INDEX = "pair_index"
PAIR_REVERSE = "pair_reverse"
PAIR_PLACE = "pair_place"
ATOM_MASK = "atom_mask"
ATOM_PLACE = "atom_place"
N_ATOMS = "n_atoms"
N_ELECTRONS = "n_electrons"
N_OCCUPIED = "n_occupied"
ORBITAL_MASK = "orbital_mask"
ORBITAL_INDEX = "orbital_index"
HAMILTONIAN = "hamiltonian"
OVERLAP = "overlap"
ORBITAL_ENERGIES = "orbital_energies"
ORBITAL_COEFFICIENTS = "orbital_coefficients"
OCCUPATIONS = "occupations"
DENSITY = "density"
CHARGES = "charges"
DIPOLE = "dipole"
LARGE_BASIS_ENERGIES = "orbital_energies_large_basis"
TOTAL_ENERGY = "total_energy"
INDEX = "index"
PRIOR_HAMILTONIAN = "prior_hamiltonian"
PRIOR_OVERLAP = "prior_overlap"
PRIOR_DENSITY = "prior_density"
MEMBER_HAMILTONIAN = "member_hamiltonian"
MEMBER_OVERLAP = "member_overlap"
HAMILTONIAN_DEVIATIONS = "hamiltonian_deviations"

KEYS: dict[str, Key] = {
    ATOMIC_NUMBERS: Key("[N] int64", "", "atomic number of each atom, molecule after molecule"),
    POSITIONS: Key("[N, 3]", "Å", "Cartesian positions"),
    MOLECULE: Key("[N] int64", "", "which molecule of the batch an atom belongs to, ascending"),
    PAIR_INDEX: Key("[2, P] int64", "", "ordered pairs (i, j), i != j; (j, i) is there whenever (i, j) is"),
    PAIR_REVERSE: Key("[P] int64", "", "place of the pair (j, i)"),
    PAIR_PLACE: Key("[P] int64", "", "place of the pair in [B, A, A] flattened, A the most atoms of a molecule"),
    ATOM_PLACE: Key("[N] int64", "", "place of the atom in [B, A] flattened"),
    ATOM_MASK: Key("[B, A] bool", "", "True where a molecule has an atom"),
    N_ATOMS: Key("[B] int64", "", "atoms per molecule"),
    N_ELECTRONS: Key("[B] int64", "", "electrons per molecule, core included"),
    N_OCCUPIED: Key("[B] int64", "", "doubly occupied orbitals per molecule"),
    ORBITAL_MASK: Key("[B, M] bool", "", "True where an orbital is real, False in padding"),
    ORBITAL_INDEX: Key("[N, K] int64", "", "place of an atom's slot in its molecule's matrix; M where unfilled"),
    HAMILTONIAN: Key("[B, M, M]", "Eh", "Hamiltonian (Kohn-Sham matrix); 0 in padding"),
    OVERLAP: Key("[B, M, M]", "", "overlap; 0 in padding"),
    ORBITAL_ENERGIES: Key("[B, M]", "Eh", "eigenvalues of (H, S), ascending; padding last"),
    ORBITAL_COEFFICIENTS: Key("[B, M, M]", "", "columns are orbitals, C^T S C = 1"),
    OCCUPATIONS: Key("[B, M]", "", "electrons per orbital, 0..2"),
    DENSITY: Key("[B, M, M]", "", "one-particle density matrix C diag(occ) C^T"),
    CHARGES: Key("[N]", "e", "partial charges"),
    DIPOLE: Key("[B, 3]", "e*Bohr", "dipole moment"),
    LARGE_BASIS_ENERGIES: Key("[B, L]", "Eh", "orbital energies of the large-basis calculation; NaN in padding"),
    TOTAL_ENERGY: Key("[B]", "Eh", "total energy of the large-basis calculation"),
    INDEX: Key("[B] int64", "", "index of the molecule in its file or list"),
    PRIOR_HAMILTONIAN: Key("[B, M, M]", "Eh", "Hamiltonian of the prior method in its own basis; 0 in padding"),
    PRIOR_OVERLAP: Key("[B, M, M]", "", "its overlap; 0 in padding"),
    PRIOR_DENSITY: Key("[B, M, M]", "", "its density matrix; 0 in padding"),
    MEMBER_HAMILTONIAN: Key("[E, B, M, M]", "Eh", "Hamiltonian of each member of an ensemble; 0 in padding"),
    MEMBER_OVERLAP: Key("[E, B, M, M]", "", "overlap of each member; 0 in padding"),
    HAMILTONIAN_DEVIATIONS: Key(
        "[E, B, M, M]", "Eh", "what draws of a model's last layer add to its learned H (``nn.doubt``); 0 in padding"
    ),
}
