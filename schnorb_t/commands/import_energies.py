"""``schnorb_t import-energies frames.xyz -o store.h5``: energies and forces from extended xyz or npz -> a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def import_energies(
    files: list[Path],
    *,
    output: Path,
    split: str = "",
    prefix: str = "",
    unit: str = "",
    level: str = "",
    energy: str = "energy",
    forces: str = "forces",
) -> dict[str, Any]:
    """Energies and forces that somebody calculated -> a store without matrices, to train a force model on.

        schnorb_t import-energies toluene.npz -o toluene.h5 --prefix train_old_ --unit kcal/mol --split train
        schnorb_t import-energies frames.xyz -o frames.h5 --level "PBE0/def2-TZVP"
        schnorb_t fit --config forces --data.path toluene.h5

    Extended xyz: ``energy`` and ``forces`` as ASE reads them (eV, eV/Å), ``name``, ``group`` and ``split`` of the
    comment line are kept. A compressed numpy file: many frames of one molecule (MD17) or padded molecules, under
    the names that MD17, rMD17 and QM7-X use (z, nuclear_charges; R, coords; E, energies; F, forces). A structure needs
    an energy or forces. Several files, or several calls of this command with other options, go into one store.

    Args:
        files: extended xyz or npz files
        output: HDF5 file to begin or to continue
        split: train, val or test, for structures that the file gives none
        prefix: begins the arrays of an npz file, for example train_old_
        unit: of energies (forces: per Å): eV, kcal/mol or Eh (default: eV of xyz; an npz file needs it)
        level: level of theory, a text for the file
        energy: name of the energy in extended xyz
        forces: name of the forces in extended xyz

    Returns:
        ``output``, ``added``, ``known``, ``with_energy`` and ``with_forces`` (counts).

    Raises:
        UserError: a file that cannot be read, a structure without labels, arrays that do not fit together.
    """
    from schnorb_t.commands.parser import check_choice
    from schnorb_t.data.store import StoreWriter
    from schnorb_t.errors import UserError
    from schnorb_t.progress import tracked
    from schnorb_t.reference.energies import UNITS, energies_header, read_energies

    if split:
        check_choice("--split", split, ("train", "val", "test"))
    if unit:
        check_choice("--unit", unit, UNITS)
    if not files:
        raise UserError("no file was given")
    records = [r for path in files for r in read_energies(path, split, prefix, unit, energy, forces)]
    elements = {int(z) for r in records for z in r.elements}
    added = known = with_energy = with_forces = 0
    with StoreWriter(output, energies_header(elements, level, output)) as writer:
        first = len(writer.known_names)
        for record in tracked(records, "energies", len(records)):
            if record.name in writer.known_names:
                known += 1
                continue
            writer.add(record.labelled(writer.header.basis, first + added))
            added += 1
            with_energy += record.energy is not None
            with_forces += record.forces is not None
    return {
        "output": str(output),
        "added": added,
        "known": known,
        "with_energy": with_energy,
        "with_forces": with_forces,
    }


def show(result: dict[str, Any]) -> None:
    """Print what ``import_energies`` returned."""
    print("{output}: {added} structures added, {known} there already".format(**result))
    print("{with_energy} with an energy, {with_forces} with forces".format(**result))
