"""``schnorb_t write-orca molecules.xyz -o runs``: inputs for ORCA that give what ``schnorb_t import-orca`` reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError


def write_orca(
    structures: list[Path],
    *,
    output: Path,
    method: str = "B3LYP",
    basis: str = "def2-SVP",
    keywords: str = "TightSCF",
    text: bool = False,
    fock: bool = False,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Structures -> ORCA inputs that give exactly what ``schnorb_t import-orca`` reads.

        schnorb_t write-orca molecules.xyz -o runs --method B3LYP --basis def2-SVP
        cd runs && sh run.sh            # where ORCA is; or one `sh run.sh NAME` per cluster job
        schnorb_t import-orca runs -o orca.h5

    For every structure NAME: ``NAME.inp``, a closed-shell single point without symmetry, and ``NAME.json.conf``, which
    makes ``orca_2json`` write orbitals, basis and the matrices H (core), S and T. ``run.sh`` runs what is not done yet.

    Args:
        structures: files with structures
        output: folder to write to
        method: HF or a functional, as ORCA names it
        basis: as ORCA names it
        keywords: more simple keywords
        text: print S and orbitals in the output too (6 decimals)
        fock: also export the two-electron part of the Fock matrix, which is then checked (needs the .densities file)
        skip_bad: leave out structures that cannot be calculated

    Returns:
        ``output``, ``inputs`` (count), ``left_out`` (name -> reason).

    Raises:
        UserError: a structure cannot be calculated, or a keyword is none.
    """
    from schnorb_t.files import write_text
    from schnorb_t.reference.orca_input import RUN, configuration, file_names, input_text
    from schnorb_t.structures import LabelFiles, fault_of

    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; name a folder")
    if re.search(r"[\n%*]", " ".join((method, basis, keywords))):
        raise UserError("--method, --basis and --keywords take simple keywords, no % blocks and no line breaks")
    read = LabelFiles(structures)
    faults = {s.name: fault for s in read.without_groups() if (fault := fault_of(s, charges=None))}
    listed = "".join(f"\n  {name}: {fault}" for name, fault in faults.items())
    good = {name: order for name, order in read.orders.items() if name not in faults}
    if not good or (faults and not skip_bad):
        raise UserError(
            f"{len(faults)} of {len(read)} structures cannot be calculated; mend them, or leave them out with "
            f"--skip-bad{listed}"
        )
    names = file_names(good)
    output.mkdir(parents=True, exist_ok=True)
    for structure in read.without_groups():
        if structure.name not in names:
            continue
        name = names[structure.name]
        write_text(output / f"{name}.inp", input_text(structure, method, basis, keywords, text))
        write_text(output / f"{name}.json.conf", configuration(fock))
    write_text(output / "run.sh", RUN)
    return {"output": str(output), "inputs": len(good), "left_out": faults}


def show(result: dict[str, Any]) -> None:
    """Print what ``write_orca`` returned."""
    left_out = result["left_out"]
    listed = "".join(f"\n  {name}: {fault}" for name, fault in left_out.items())
    print(f"{result['output']}: {result['inputs']} inputs{f', {len(left_out)} left out' + listed if left_out else ''}")
