"""``schnorb_t qm9 dsgdb9nsd.xyz.tar.bz2 -o qm9.xyz``: QM9's published archive -> extended xyz."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.reference.qm9 import QM9Molecule, ranked, read, read_uncharacterized, split_of_rank


def to_atoms(molecule: QM9Molecule, split: str) -> Atoms:
    """ASE atoms with everything that QM9 says of the molecule in ``info``."""
    info: dict = {"name": molecule.name, "group": molecule.name, "qm9_index": molecule.index}
    if split:
        info["split"] = split
    if molecule.smiles:
        # extended xyz takes a backslash for an escape, and ASE's writer leaves it bare
        info["smiles"] = molecule.smiles.replace("\\", "\\\\")
        info["smiles_relaxed"] = molecule.smiles_relaxed.replace("\\", "\\\\")
    atoms = Atoms(molecule.atomic_numbers, molecule.positions, info=info | molecule.properties)
    if molecule.charges is not None:
        atoms.set_array("mulliken_charges", molecule.charges)
    return atoms


def parse_ranks(text: str) -> tuple[int, int]:
    """``"100:200"`` -> (100, 200).

    Raises:
        UserError: something else.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--ranks {text}: expected START:STOP, e.g. 100:200")
    return int(match[1]), int(match[2])


def qm9(
    archive: Path,
    *,
    output: Path,
    uncharacterized: Path | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    ranks: str | None = None,
) -> dict[str, Any]:
    """QM9's published archive, as downloaded, -> extended xyz with index, SMILES and properties.

        schnorb_t qm9 dsgdb9nsd.xyz.tar.bz2 -o qm9.xyz --uncharacterized uncharacterized.txt

    Also takes the folder that it was unpacked to, or the compressed geometry table (``.npz.xz``). Properties
    keep the published units: rotational constants A,
    B, C in GHz, mu in Debye, alpha in Bohr^3, homo, lumo, gap, zpve, U0, U, H, G in Eh, r2 in Bohr^2, Cv in
    cal/(mol K). Label the result with ``schnorb_t label``.

    Args:
        archive: dsgdb9nsd.xyz.tar.bz2, a folder of its members, or the geometry table
        output: extended xyz file to write
        uncharacterized: list of molecules to leave out
        skip_bad: leave malformed members out and go on
        limit: stop after so many molecules
        ranks: START:STOP; only these places of the fixed random order (numpy default_rng(2026).permutation), in it,
            with the fixed split: ranks 0-59 test, 60-99 val, 100 and up train

    Returns:
        ``output``, ``molecules``, ``uncharacterized`` (counts), ``malformed`` (messages).

    Raises:
        UserError: the archive cannot be read or holds no molecule, or the output cannot be written.
    """
    places = parse_ranks(ranks) if ranks else None
    left_out = read_uncharacterized(uncharacterized) if uncharacterized else set()
    bad: list[str] = []

    def skip(message: str) -> None:
        bad.append(message)
        print(f"skipped: {message}", file=sys.stderr)

    molecules, skipped = [], 0
    for molecule in read(archive, skip if skip_bad else None):
        if molecule.index in left_out:
            skipped += 1
            continue
        molecules.append(molecule)
        if limit and len(molecules) == limit:
            break
    if not molecules:
        raise UserError(f"{archive}: no molecule left; expected members dsgdb9nsd_NNNNNN.xyz")
    if places:
        order = ranked(len(molecules))
        chosen = [
            (molecules[order[rank]], split_of_rank(rank)) for rank in range(places[0], min(places[1], len(molecules)))
        ]
    else:
        chosen = [(molecule, "") for molecule in molecules]
    with atomic_write(output) as temporary, open(temporary, "w") as file:
        for molecule, split in chosen:
            write(file, to_atoms(molecule, split), format="extxyz", write_results=False)
    return {"output": str(output), "molecules": len(chosen), "uncharacterized": skipped, "malformed": bad}


def show(result: dict[str, Any]) -> None:
    """Print what ``qm9`` returned."""
    n, bad = result["molecules"], len(result["malformed"])
    print(
        f"{result['output']}: {n} molecules; {result['uncharacterized']} uncharacterised and {bad} malformed left out"
    )
