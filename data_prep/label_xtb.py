"""Label structures by GFN2-xTB (tblite) -> one store, for pre-training: some milliseconds per molecule.

    python data_prep/label_xtb.py more.xyz -o xtb.h5
    python -m schnorb_t.fit --config configs/qm9_xtb.yaml --data.path xtb.h5

STRUCTURES is any file ASE reads (extended xyz with ``name``, ``group``, ``split`` in its comment lines keeps them),
QM9's archive or its geometry table. Killed at any moment, the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from schnorb_t.data.store import StoreWriter
from schnorb_t.errors import UserError, run_command
from schnorb_t.reference.pool import guarded
from schnorb_t.reference.structures import fault_of, read_structures
from schnorb_t.reference.xtb import XtbJob, xtb_header


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="+", type=Path, help="files with structures")
    parser.add_argument("-o", "--output", required=True, type=Path, help="HDF5 file to begin or to continue")
    parser.add_argument("--source", default="", help="where the structures come from: a text for the file")
    args = parser.parse_args()
    structures = read_structures(args.structures)
    for index, structure in enumerate(structures):
        if fault := fault_of(structure):
            raise UserError(f"structure {index} ({structure.name}) cannot be labelled: {fault}")
    header = xtb_header({int(z) for s in structures for z in s.atomic_numbers}, args.source)
    job, done = XtbJob(), 0
    with StoreWriter(args.output, header) as writer:
        known = writer.known_names
        work = [s for s in structures if s.name not in known]
        for structure in track(work, description="GFN2-xTB", console=Console(stderr=True)):
            done += writer.add_outcome(structure.name, structure.order, *guarded(job, structure))
    there = len(structures) - len(work)
    print(f"{args.output}: {done} molecules labelled, {len(work) - done} failed, {there} there already")


if __name__ == "__main__":
    run_command(main)
