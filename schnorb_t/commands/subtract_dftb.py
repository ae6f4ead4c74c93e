"""``schnorb_t subtract-dftb labels.h5 3ob-3-1 -o differences.h5``: labels less DFTB, for learned repulsions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError


def subtract_dftb(
    labels: Path,
    skf: Path,
    *,
    output: Path,
    order: int = 3,
    part: str = "electronic",
    shell_resolved: bool = False,
    smearing: float = 0.0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Energies and forces of a store less those of DFTB -> a store to learn the difference from.

        schnorb_t subtract-dftb labels.h5 3ob-3-1 -o differences.h5

    What is left of electronic DFTB is the repulsion that DFTB lacks; what is left of all of it is its error. Killed at
    any moment, the same command continues where it stopped.

    Args:
        labels: store with total energies, forces, or both
        skf: folder of a Slater-Koster set, files A-B.skf
        output: HDF5 file to begin or to continue
        order: of DFTB, 2 or 3
        part: electronic (without the set's repulsion) or total
        shell_resolved: charges of shells, as auorg-1-1 wants
        smearing: width of Fermi-Dirac filling, Eh; energies are then free energies
        batch_size: molecules at once

    Returns:
        ``output``, ``molecules``, ``failed``, ``known`` (counts).

    Raises:
        UserError: no store, nothing to subtract from, a set without an element.
    """
    import numpy as np

    from schnorb_t.data.store import Store, StoreWriter
    from schnorb_t.interfaces.dftb_differences import PARTS, NoRepulsion, difference_header, differences
    from schnorb_t.physics.dftb import DFTB
    from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
    from schnorb_t.physics.skf import read_skf_set
    from schnorb_t.progress import tracked

    if part not in PARTS:
        raise UserError(f"--part {part}: must be one of {', '.join(PARTS)}")
    if order not in (2, 3):
        raise UserError(f"--order {order}: DFTB is there in second and third order; give 2 or 3")
    store = Store(labels)
    if not skf.is_dir():
        raise UserError(f"{skf}: no such folder; give the folder of a Slater-Koster set (files A-B.skf)")
    if output.exists() and output.samefile(labels):
        raise UserError(f"{output}: is an input of this command; name another output")
    useful = store.has("total_energy") | store.has("forces")
    if not useful.any():
        raise UserError(f"{labels}: has neither energies nor forces; label with --forces, or import energies")
    elements = {int(z) for k in np.flatnonzero(useful) for z in store[int(k)].atomic_numbers}
    model = DFTB(
        read_skf_set(skf, elements),
        order=order,
        shell_resolved=shell_resolved,
        smearing=Smearing("fermi-dirac", smearing) if smearing else ZERO_TEMPERATURE,
        repulsion=NoRepulsion() if part == "electronic" else None,
    ).requires_grad_(False)
    header, done, failed = difference_header(store.header, model, skf.resolve().name, part), 0, 0
    with StoreWriter(output, header) as writer:
        names = store.names
        todo = [k for k in np.flatnonzero(useful).tolist() if names[k] not in writer.known_names]
        todo.sort(key=lambda k: store.n_orbitals[k])
        batches = [todo[k : k + batch_size] for k in range(0, len(todo), batch_size)]
        for batch in tracked(batches, f"DFTB{order}", len(batches)):
            for record, ok, value in differences([store[k] for k in batch], model):
                writer.add_outcome(record.name, record.order, ok, value)
                done, failed = done + ok, failed + (not ok)
    return {"output": str(output), "molecules": done, "failed": failed, "known": int(useful.sum()) - done - failed}


def show(result: dict[str, Any]) -> None:
    """Print what ``subtract_dftb`` returned."""
    text = "{output}: {molecules} molecules, {failed} without a solution, {known} there already"
    print(text.format(**result))
