"""From a large-basis calculation to what the store holds: header and record, full basis or projected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from schnorb_t.basis import Basis, all_electrons
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.data.store import Header
from schnorb_t.errors import UserError
from schnorb_t.reference import minimal_basis
from schnorb_t.reference.pyscf import (
    FREE_ATOM_BASIS,
    LabelError,
    Level,
    basis_from_pyscf,
    diagonalise,
    label,
    overlap_integrals,
    target_basis,
    versions,
)
from schnorb_t.structures import Structure, fault_of

#: What a file's matrices may stand in: the large basis itself or one of the projected minimal bases.
TARGETS = ("full", *minimal_basis.TARGETS)


def projection_settings(target: str) -> dict:
    """What a projected target depends on, for the file's header."""
    settings: dict = {"free_atom_basis": FREE_ATOM_BASIS}
    if minimal_basis.POWERS.get(target):
        settings |= {
            "power": minimal_basis.POWERS[target],
            "reference_energy_eh": minimal_basis.REFERENCE_ENERGY,
            "pole_distance_eh": minimal_basis.POLE_DISTANCE,
        }
    return settings


def header_of(target: str, elements: Iterable[int], level: Level, programs: dict[str, str], source: str = "") -> Header:
    """Header of a file of PySCF labels; ``source`` says where the structures come from."""
    settings = asdict(level)
    if source:
        settings["structures"] = source
    if target != "full":
        settings["projection"] = projection_settings(target)
    return Header(target_basis(target, elements, level.basis), target, settings, programs)


def projected_header(full: Header, target: str) -> Header:
    """Header of the projection of a full-basis file; the same as if its molecules had been labelled so at once.

    Raises:
        UserError: ``full`` holds projected matrices, or a basis without its Gaussian functions.
    """
    if full.basis.projected or full.target in minimal_basis.TARGETS:
        raise UserError(f"it holds {full.target} matrices already; a projection starts from a full-basis file")
    if full.basis.functions is None:
        raise UserError(f"its basis {full.basis.name!r} is stored without Gaussian functions, which a projection needs")
    programs = dict(full.programs)
    if versions()["pyscf"] != programs.get("pyscf"):
        programs["pyscf (projection)"] = versions()["pyscf"]
    settings = full.level | {"projection": projection_settings(target)}
    return Header(target_basis(target, full.basis.elements, full.basis.name), target, settings, programs)


def record_of(
    target: str,
    large_basis: Basis,
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    hamiltonian: np.ndarray,
    total_energy: float | None,
    n_electrons: int,
    name: str,
    group: str,
    split: str = "",
    order: int = 0,
    keep_contraction: bool = False,
    overlap: np.ndarray | None = None,
    dipole: np.ndarray | None = None,
    forces: np.ndarray | None = None,
) -> MoleculeRecord:
    """The record of one molecule from its large-basis Hamiltonian.

    Args:
        target: one of ``TARGETS``.
        large_basis: with Gaussian functions.
        atomic_numbers: [n].
        positions: [n, 3], Å.
        hamiltonian: [m, m] in ``large_basis``, our order, Eh; its eigenvalues, less those of a core that the target
            leaves out, become ``large_basis_energies``.
        total_energy: Eh, where it is known.
        n_electrons: core included; the record counts those of the target's orbitals, and names the charge of an ion.
        name, group, split, order: as in ``MoleculeRecord``.
        keep_contraction: store A of the projection.
        overlap: [m, m] of the large basis; computed where it is not given.
        dipole: [3], e*Bohr; optional.
        forces: [n, 3], Eh/Bohr; optional.

    Raises:
        LabelError: linear dependence, open shell.
    """
    if overlap is None:
        overlap = overlap_integrals(large_basis, atomic_numbers, positions)
    contraction, charge = None, all_electrons(atomic_numbers) - int(n_electrons)
    if target == "full":
        energies, _ = diagonalise(hamiltonian, overlap)
    else:
        projection, energies = minimal_basis.project_molecule(
            target, large_basis, atomic_numbers, positions, hamiltonian, n_electrons, overlap=overlap
        )
        hamiltonian, overlap = projection.hamiltonian, projection.overlap
        n_electrons, energies = n_electrons - 2 * projection.n_core, energies[projection.n_core :]
        contraction = projection.contraction if keep_contraction else None
    return MoleculeRecord(
        atomic_numbers=np.asarray(atomic_numbers, dtype=np.int64),
        positions=np.asarray(positions, dtype=np.float64),
        hamiltonian=hamiltonian,
        overlap=overlap,
        large_basis_energies=energies,
        total_energy=None if total_energy is None else float(total_energy),
        n_electrons=int(n_electrons),
        name=name,
        group=group,
        split=split,
        order=order,
        contraction=contraction,
        charge=charge or None,
        dipole=dipole,
        forces=forces,
    )


@dataclass(frozen=True)
class LabelJob:
    """What is done to every structure; call it with one. Picklable: it travels to worker processes.

    Attributes:
        level: of theory.
        target: one of ``TARGETS``.
        keep_contraction: store A of the projection.
        max_cycle: SCF cycles before a molecule counts as not converged.
        guess: PySCF's molecule -> density matrix that the SCF begins with; None: PySCF's own.
        plain: PySCF as it is, without ``schnorb_t.reference.fast_scf``; the same labels, slower.
        max_memory: MB for orbitals on the grid that are kept between cycles; default ``fast_scf.MAX_MEMORY``.
        forces: store forces and the dipole moment too.
    """

    level: Level
    target: str
    keep_contraction: bool = False
    max_cycle: int = 100
    guess: Callable | None = None
    plain: bool = False
    max_memory: float | None = None
    forces: bool = False

    def __call__(self, structure: Structure) -> MoleculeRecord:
        """The labelled molecule.

        Raises:
            LabelError: a structure that cannot be treated (open shell, periodic ...), not converged, linearly
                dependent.
        """
        if reason := fault_of(structure, charges=None):
            raise LabelError(reason)
        # ions of charges that a guessing model does not know begin with PySCF's own guess
        guess = self.guess if getattr(self.guess, "knows", lambda charge: True)(structure.charge) else None
        result = label(
            structure.atomic_numbers,
            structure.positions,
            self.level,
            self.max_cycle,
            guess,
            self.plain,
            self.max_memory,
            self.forces,
            structure.charge,
        )
        record = record_of(
            self.target,
            basis_from_pyscf(self.level.basis, structure.atomic_numbers),
            structure.atomic_numbers,
            structure.positions,
            result.hamiltonian,
            result.total_energy,
            result.n_electrons,
            structure.name,
            structure.group,
            structure.split,
            structure.order,
            self.keep_contraction,
            result.overlap,
            result.dipole if self.forces else None,
            result.forces,
        )
        return record if structure.masses is None else replace(record, masses=structure.isotope_masses)
