"""``schnorb_t sample -o sample_structures.xyz``: the structures of the sample that comes with the package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


def sample(*, output: Path, displaced: int = 3) -> dict[str, Any]:
    """The structures of the embedded sample: small molecules, each at one given and several thermal geometries.

        schnorb_t sample -o sample_structures.xyz
        schnorb_t label sample_structures.xyz -o schnorb_t/data/sample/sample.h5 --target wqao

    Needs RDKit and tblite (``pip install "schnorb_t[sample,xtb]"``). Sources: ``schnorb_t/reference/sample.py``.

    Args:
        output: extended xyz file to write
        displaced: displaced geometries per molecule

    Returns:
        ``output``, ``geometries`` and ``molecules`` (counts), ``splits`` (molecules of each), ``source`` (a text).

    Raises:
        UserError: RDKit or tblite is missing.
    """
    from collections import Counter

    from ase.io import write

    from schnorb_t.files import atomic_write, check_output
    from schnorb_t.reference.sample import source, structures

    check_output(output, [], force=True)
    out = structures(displaced)
    with atomic_write(output) as temporary:
        write(temporary, out, format="extxyz", write_results=False)
    splits = Counter(atoms.info["split"] for atoms in out if atoms.info["name"].endswith("/0"))
    return {
        "output": str(output),
        "geometries": len(out),
        "molecules": sum(splits.values()),
        "splits": dict(splits),
        "source": source(),
    }


def show(result: dict[str, Any]) -> None:
    """Print what ``sample`` returned, and what to do with it."""
    output = result["output"]
    print(f"{output}: {result['geometries']} geometries of {result['molecules']} molecules, {result['splits']}")
    print(f"label it with: schnorb_t label {output} -o sample.h5 --source {shlex.quote(result['source'])}")
