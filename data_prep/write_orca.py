"""Structures -> ORCA inputs that give exactly what ``data_prep/import_orca.py`` reads.

    python data_prep/write_orca.py molecules.xyz -o runs --method B3LYP --basis def2-SVP
    cd runs && sh run.sh            # where ORCA is; or one `sh run.sh NAME` per cluster job
    python data_prep/import_orca.py runs -o orca.h5

For every structure NAME: ``NAME.inp``, a closed-shell single point without symmetry, and ``NAME.json.conf``, which
makes ``orca_2json`` write orbitals, basis and the matrices H (core), S and T. ``run.sh`` runs what is not done yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from pathlib import Path

from ase.data import chemical_symbols

from schnorb_t.errors import UserError, run_command
from schnorb_t.reference.structures import Structure, fault_of, open_shell, read_structures

RUN = """#!/bin/sh
# Runs every input here (or those named: sh run.sh NAME ...) that has no NAME.json yet.
# ORCA wants its full path for parallel runs: ORCA=/path/to/orca sh run.sh
cd "$(dirname "$0")" || exit 1
ORCA=${ORCA:-$(command -v orca)}
[ -x "$ORCA" ] || { echo "no ORCA: set ORCA=/path/to/orca" >&2; exit 1; }
[ $# -gt 0 ] || set -- $(ls -- *.inp | sed 's/\\.inp$//')
failed=0
for name in "$@"; do
    [ -s "$name.json" ] && continue
    "$ORCA" "$name.inp" > "$name.out" 2>&1 || true
    if grep -q 'ORCA TERMINATED NORMALLY' "$name.out"; then
        "$(dirname "$ORCA")/orca_2json" "$name.gbw" -json > "$name.2json.txt" 2>&1 || failed=1
    else
        echo "$name: ORCA did not finish, see $name.out" >&2
        failed=1
    fi
done
exit $failed
"""


def configuration(fock: bool) -> str:
    """The ``.json.conf``: what ``orca_2json`` writes (key names: ORCA manual, section orca_2json)."""
    conf = {"MOCoefficients": True, "Basisset": True, "1elIntegrals": ["H", "S", "T"], "JSONFormats": ["json"]}
    if fock:
        conf["FockMatrix"] = ["F"]
    return json.dumps(conf, indent=2) + "\n"


def input_text(structure: Structure, method: str, basis: str, keywords: str, text: bool) -> str:
    """One ORCA input. Restricted, no symmetry (which would turn the molecule), coordinates in Å with 10 decimals.

    ``HF`` becomes ``RHF``, a functional ``RKS``, so that ORCA can never switch to an open shell by itself.
    """
    restricted = "RHF" if method.upper() in ("HF", "RHF") else f"RKS {method}"
    words = " ".join(f"{restricted} {basis} NoUseSym {keywords}".split())
    lines = [f"# {structure.name}", f"! {words}"]
    if text:
        lines += ["%output", "  Print[P_Basis] 2", "  Print[P_MOs] 1", "  Print[P_Overlap] 1", "end"]
    lines.append(f"* xyz {structure.charge} 1")
    for z, (x, y, w) in zip(structure.atomic_numbers, structure.positions, strict=True):
        lines.append(f"{chemical_symbols[z]:<2} {x:18.10f} {y:18.10f} {w:18.10f}")
    return "\n".join([*lines, "*", ""])


def file_names(structures: list[Structure]) -> list[str]:
    """A name that any file system and shell takes for each structure.

    Raises:
        UserError: two structures would share one.
    """
    names = [re.sub(r"[^A-Za-z0-9_+-]+", "_", s.name).strip("_-") or f"molecule_{s.order}" for s in structures]
    name, times = Counter(n.lower() for n in names).most_common(1)[0]
    if times > 1:
        which = [s.name for s, n in zip(structures, names, strict=True) if n.lower() == name]
        raise UserError(f"structures {which[0]!r} and {which[1]!r} would both be written to {name}.inp; rename one")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="+", type=Path, help="files with structures")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--method", default="B3LYP", help="HF or a functional, as ORCA names it (default B3LYP)")
    parser.add_argument("--basis", default="def2-SVP", help="as ORCA names it (default def2-SVP)")
    parser.add_argument("--keywords", default="TightSCF", help="more simple keywords (default TightSCF)")
    parser.add_argument("--text", action="store_true", help="print S and orbitals in the output too (6 decimals)")
    parser.add_argument(
        "--fock",
        action="store_true",
        help="also export the two-electron part of the Fock matrix, which is then checked (needs the .densities file)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out structures that cannot be calculated")
    args = parser.parse_args()
    if re.search(r"[\n%*]", " ".join((args.method, args.basis, args.keywords))):
        raise UserError("--method, --basis and --keywords take simple keywords, no % blocks and no line breaks")
    structures = read_structures(args.structures)
    faults = {s.name: fault for s in structures if (fault := fault_of(s) or open_shell(s))}
    listed = "".join(f"\n  {name}: {fault}" for name, fault in faults.items())
    good = [s for s in structures if s.name not in faults]
    if not good or (faults and not args.skip_bad):
        raise UserError(
            f"{len(faults)} of {len(structures)} structures cannot be calculated; mend them, or leave them out with "
            f"--skip-bad{listed}"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    for structure, name in zip(good, file_names(good), strict=True):
        write(args.output / f"{name}.inp", input_text(structure, args.method, args.basis, args.keywords, args.text))
        write(args.output / f"{name}.json.conf", configuration(args.fock))
    write(args.output / "run.sh", RUN)
    print(f"{args.output}: {len(good)} inputs{f', {len(faults)} left out' + listed if faults else ''}")


def write(path: Path, text: str) -> None:
    """A whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    run_command(main)
