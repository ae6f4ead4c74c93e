"""QM9's published archive, as downloaded, -> extended xyz with index, SMILES and properties.

    python data_prep/qm9.py dsgdb9nsd.xyz.tar.bz2 -o qm9.xyz --uncharacterized uncharacterized.txt

Also takes the compressed geometry table (``.npz.xz``). Properties keep the published units: rotational constants A, B,
C in GHz, mu in Debye, alpha in Bohr^3, homo, lumo, gap, zpve, U0, U, H, G in Eh, r2 in Bohr^2, Cv in cal/(mol K).
Label the result with ``data_prep/label_pyscf.py``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from ase import Atoms
from ase.io import write

from schnorb_t.errors import UserError, run_command
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="dsgdb9nsd.xyz.tar.bz2 or the geometry table")
    parser.add_argument("-o", "--output", type=Path, required=True, help="extended xyz file to write")
    parser.add_argument("--uncharacterized", type=Path, help="list of molecules to leave out")
    parser.add_argument("--skip-bad", action="store_true", help="leave malformed members out and go on")
    parser.add_argument("--limit", type=int, help="stop after so many molecules")
    parser.add_argument(
        "--ranks",
        type=parse_ranks,
        metavar="START:STOP",
        help="only these places of the fixed random order (numpy default_rng(2026).permutation), in it, with the "
        "fixed split: ranks 0-59 test, 60-99 val, 100 and up train",
    )
    args = parser.parse_args()
    left_out = read_uncharacterized(args.uncharacterized) if args.uncharacterized else set()
    bad: list[str] = []

    def skip(message: str) -> None:
        bad.append(message)
        print(f"skipped: {message}", file=sys.stderr)

    molecules, skipped = [], 0
    for molecule in read(args.archive, skip if args.skip_bad else None):
        if molecule.index in left_out:
            skipped += 1
            continue
        molecules.append(molecule)
        if args.limit and len(molecules) == args.limit:
            break
    if not molecules:
        raise UserError(f"{args.archive}: no molecule left; expected members dsgdb9nsd_NNNNNN.xyz")
    if args.ranks:
        ranks = range(args.ranks[0], min(args.ranks[1], len(molecules)))
        order = ranked(len(molecules))
        chosen = [(molecules[order[rank]], split_of_rank(rank)) for rank in ranks]
    else:
        chosen = [(molecule, "") for molecule in molecules]
    partial = args.output.with_name(args.output.name + ".part")
    try:
        with open(partial, "w") as file:
            for molecule, split in chosen:
                write(file, to_atoms(molecule, split), format="extxyz", write_results=False)
        os.replace(partial, args.output)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"{args.output}: {len(chosen)} molecules; {skipped} uncharacterised and {len(bad)} malformed left out")


if __name__ == "__main__":
    run_command(main)
