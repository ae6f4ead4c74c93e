"""A full-basis file -> the same molecules in a minimal basis, without any new calculation.

    python data_prep/project.py full.h5 -o minimal.h5 --target wqao

Works for every file that holds Gaussian functions with its basis: PySCF labels (``--target full``) and imported ORCA
data. Occupied orbital energies survive exactly. Continues where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from schnorb_t.data.store import Store, StoreWriter
from schnorb_t.errors import UserError, run_command
from schnorb_t.reference.labels import projected_header, record_of
from schnorb_t.reference.minimal_basis import TARGETS
from schnorb_t.reference.pyscf import LabelError


def project_file(full: Path, output: Path, target: str, keep_contraction: bool) -> tuple[int, int]:
    """Write the projected file; returns how many molecules and failures it holds.

    Raises:
        UserError: the file cannot be projected, or is the output itself.
    """
    if full.resolve() == output.resolve():
        raise UserError(f"{full}: input and output are the same file")
    with Store(full) as store:
        try:
            header = projected_header(store.header, target)
        except UserError as error:
            raise UserError(f"{full}: {error}") from None
        with StoreWriter(output, header) as writer:
            known = writer.known_names
            for name, reason, order in store.failures:
                if name not in known:
                    writer.add_failure(name, reason, order)
            names = store.names.tolist()
            for index in track(range(len(store)), description=target, console=Console(stderr=True)):
                if names[index] in known:
                    continue
                r = store[index]
                try:
                    record = record_of(
                        target,
                        store.basis,
                        r.atomic_numbers,
                        r.positions,
                        r.hamiltonian,
                        r.total_energy,
                        r.n_electrons,
                        r.name,
                        r.group,
                        r.split,
                        r.order,
                        keep_contraction,
                        r.overlap,
                    )
                except LabelError as error:
                    writer.add_failure(r.name, str(error), r.order)
                else:
                    writer.add(record)
    with Store(output) as store:
        return len(store), len(store.failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="file with full-basis matrices")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--target", choices=TARGETS, default="wqao")
    parser.add_argument("--keep-contraction", action="store_true", help="store the projection A beside H and S")
    args = parser.parse_args()
    done, failed = project_file(args.full, args.output, args.target, args.keep_contraction)
    print(f"{args.output}: {done} molecules, {failed} failed")


if __name__ == "__main__":
    run_command(main)
