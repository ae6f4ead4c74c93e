"""``schnorb_t label-xtb more.xyz -o xtb.h5``: GFN2-xTB labels (tblite) -> one store, for pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def label_xtb(structures: list[Path], *, output: Path, target: str = "GFN2-xTB", source: str = "") -> dict[str, Any]:
    """Label structures by GFN2-xTB (tblite) -> one store, for pre-training: some milliseconds per molecule.

        schnorb_t label-xtb more.xyz -o xtb.h5
        schnorb_t fit --config configs/qm9_xtb.yaml --data.path xtb.h5

    STRUCTURES is any file with molecules (extended xyz with ``name``, ``group``, ``split`` in its comment lines keeps
    them), QM9's archive, the folder it was unpacked to, or its geometry table. Killed at any
    moment, the same command continues where it stopped.

    Args:
        structures: files with structures
        output: HDF5 file to begin or to continue
        target: ``GFN2-xTB`` for its own s, p and d shells, ``wqvo`` for valence s and p alone, which start a model of
            DFT labels in ``wqvo``; molecules without a d shell get the same matrices
        source: where the structures come from; a text for the file

    Returns:
        ``output``, ``labelled``, ``failed`` and ``known`` (counts).

    Raises:
        UserError: a broken structure, or tblite is missing.
    """
    from schnorb_t.data.store import StoreWriter
    from schnorb_t.progress import tracked
    from schnorb_t.reference.pool import failure_log, guarded, log_traceback
    from schnorb_t.reference.xtb import XtbJob, xtb_header
    from schnorb_t.structures import LabelFiles, sort_out

    read = LabelFiles(structures)
    refused = sort_out(read.without_groups(), skippable=False)
    elements = {z for name, found in read.elements.items() if name not in refused for z in found}
    header = xtb_header(elements, source, target)
    job, done = XtbJob(target), 0
    with StoreWriter(output, header) as writer:
        known = writer.known_names
        wanted = frozenset(name for name in read.orders if name not in known)
        for structure in tracked((s for s in read if s.name in wanted), "GFN2-xTB", len(wanted)):
            ok, value = guarded(job, structure)
            done += writer.add_outcome(structure.name, structure.order, ok, value)
            log_traceback(failure_log(output), structure.name, value)
    return {"output": str(output), "labelled": done, "failed": len(wanted) - done, "known": len(read) - len(wanted)}


def show(result: dict[str, Any]) -> None:
    """Print what ``label_xtb`` returned."""
    text = "{output}: {labelled} molecules labelled, {failed} failed, {known} there already"
    print(text.format(**result))
