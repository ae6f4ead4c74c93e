"""Input files for ORCA calculations that give exactly what ``schnorb_t import-orca`` reads.

For every structure NAME: ``NAME.inp``, a closed-shell single point without symmetry, and ``NAME.json.conf``, which
makes ``orca_2json`` write orbitals, basis and the matrices H (core), S and T. ``run.sh`` runs what is not done yet.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.errors import UserError
from schnorb_t.structures import Structure

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
    masses = np.full(len(structure), np.nan) if structure.masses is None else structure.masses
    for z, (x, y, w), mass in zip(structure.atomic_numbers, structure.positions, masses, strict=True):
        isotope = "" if np.isnan(mass) else f"   M={mass:g}"
        lines.append(f"{chemical_symbols[z]:<2} {x:18.10f} {y:18.10f} {w:18.10f}{isotope}")
    return "\n".join([*lines, "*", ""])


def file_names(orders: Mapping[str, int]) -> dict[str, str]:
    """A name that any file system and shell takes for each structure.

    Args:
        orders: name of a structure -> its place.

    Returns:
        name of the structure -> name of its files.

    Raises:
        UserError: two structures would share one.
    """
    names = {
        name: re.sub(r"[^A-Za-z0-9_+-]+", "_", name).strip("_-") or f"molecule_{order}"
        for name, order in orders.items()
    }
    name, times = Counter(n.lower() for n in names.values()).most_common(1)[0]
    if times > 1:
        which = [of for of, n in names.items() if n.lower() == name]
        raise UserError(f"structures {which[0]!r} and {which[1]!r} would both be written to {name}.inp; rename one")
    return names
