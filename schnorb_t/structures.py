"""Structures of molecules: read from any file ASE reads, and checked before any work is done on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from scipy.spatial import cKDTree

from schnorb_t.errors import UserError

#: Atoms closer than this part of the sum of their covalent radii overlap. A triple bond squeezed by 30 % has 0.54.
OVERLAP = 0.4
#: Bad structures that a message lists before it only counts.
MAX_LISTED = 10


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file, one or thousands, in any format ASE knows.

    Raises:
        UserError: no such file, empty, or not readable; names the file and how far it could be read.
    """
    from ase.io import iread

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file with structures in a format that ASE reads (xyz, cif, ...)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give one that holds at least one structure")
    out: list[Atoms] = []
    try:
        for atoms in iread(path, index=":"):
            atoms.calc = None  # energies and forces of the file are not needed, and take memory
            out.append(atoms)
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        where = f"structure {len(out)} cannot be read" if out else "ASE cannot read structures from it"
        raise UserError(f"{path}: {where} ({reason}); mend it, or convert it to extended xyz") from None
    if not out:
        raise UserError(f"{path}: holds no structure; give a file that holds at least one")
    return out


def name_of(atoms: Atoms) -> str:
    """``info["name"]``, empty where there is none."""
    return str(atoms.info.get("name", ""))


def describe(index: int, atoms: Atoms) -> str:
    """How messages call a structure: 0-based index and its name, if it has one."""
    name = name_of(atoms)
    return f"structure {index} ({name})" if name else f"structure {index}"


def _charge_fault(atoms: Atoms) -> str:
    try:
        charge = float(atoms.info.get("charge", 0))
        multiplicity = int(atoms.info.get("multiplicity", 1) or 1)
    except (TypeError, ValueError):
        return f"charge {atoms.info.get('charge')!r} or multiplicity {atoms.info.get('multiplicity')!r} is no number"
    if charge != 0:
        return f"has charge {charge:+g}, and the models are for neutral molecules; leave it out or neutralise it"
    n_electrons = int(atoms.numbers.sum())
    if n_electrons % 2:
        return (
            f"has an odd number of electrons ({n_electrons}), and the models are for closed shells; "
            "is a hydrogen missing?"
        )
    if multiplicity != 1 or np.abs(atoms.get_initial_magnetic_moments()).sum() > 0.1:
        return "is an open shell by its multiplicity or magnetic moments, and the models are for closed shells"
    return ""


def fault_of(atoms: Atoms, elements: Sequence[int]) -> str:
    """Why a structure cannot be worked on, with the remedy; ``""`` if it can.

    Args:
        atoms: positions in Å; ``info["charge"]`` and ``info["multiplicity"]`` are heeded.
        elements: atomic numbers that a model or basis knows.
    """
    z, x = atoms.numbers, atoms.positions
    if len(z) == 0:
        return "has no atoms; remove it"
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        return f"position of atom {bad[0]} ({chemical_symbols[z[bad[0]]]}) is NaN or infinite; mend or remove it"
    unknown = sorted(set(z.tolist()) - set(elements))
    if unknown:
        known = ", ".join(chemical_symbols[q] for q in sorted(elements))
        return (
            f"holds {', '.join(chemical_symbols[q] for q in unknown)}, and the model knows only {known}; "
            "leave it out or train a model on such molecules"
        )
    radii = covalent_radii[z]
    pairs = cKDTree(x).query_pairs(2 * OVERLAP * radii.max(), output_type="ndarray")
    if len(pairs):
        distance = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
        closeness = distance / (radii[pairs[:, 0]] + radii[pairs[:, 1]])
        k = int(closeness.argmin())
        if closeness[k] < OVERLAP:
            i, j = sorted(pairs[k].tolist())
            return (
                f"atoms {i} ({chemical_symbols[z[i]]}) and {j} ({chemical_symbols[z[j]]}) overlap: {distance[k]:.3f} Å "
                "apart; is an atom there twice, or are the positions not in Å?"
            )
    if atoms.pbc.any():
        return "is periodic, and the models are for molecules; switch periodicity off (pbc) if it is one in a box"
    return _charge_fault(atoms)


def check_structure(atoms: Atoms, elements: Sequence[int], index: int = 0, file: str | Path | None = None) -> None:
    """Refuse a structure that cannot be worked on.

    Raises:
        UserError: names file, structure, fault and remedy.
    """
    fault = fault_of(atoms, elements)
    if fault:
        raise UserError(f"{f'{file}, ' if file else ''}{describe(index, atoms)}: {fault}")


def check_structures(
    structures: Sequence[Atoms], elements: Sequence[int], file: str | Path | None = None, skip_bad: bool = False
) -> tuple[list[int], list[str]]:
    """Check all structures before any work.

    Args:
        structures: to check.
        elements: atomic numbers that a model or basis knows.
        file: where they come from, for messages.
        skip_bad: do not raise for bad structures as long as one is sound.

    Returns:
        indices of the sound ones, and a line for each of the others.

    Raises:
        UserError: some are bad (with ``skip_bad``: all are); names each, up to ``MAX_LISTED``.
    """
    sound, bad = [], []
    for index, atoms in enumerate(structures):
        fault = fault_of(atoms, elements)
        if fault:
            bad.append(f"{describe(index, atoms)}: {fault}")
        else:
            sound.append(index)
    if bad and (not skip_bad or not sound):
        where = f"{file}, " if file else ""
        if len(bad) == 1 and len(structures) == 1:
            raise UserError(where + bad[0])
        more = [f"... and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
        rest = "" if skip_bad or not sound or not file else "; mend them, or skip them with --skip-bad"
        listing = "\n  ".join(bad[:MAX_LISTED] + more)
        raise UserError(f"{where}{len(bad)} of {len(structures)} structures cannot be worked on{rest}\n  {listing}")
    return sound, bad
