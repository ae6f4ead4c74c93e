"""``schnorb_t project full.h5 -o minimal.h5``: a full-basis store -> the same molecules in a minimal basis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from schnorb_t.commands.parser import check_choice
from schnorb_t.errors import UserError


def project(full: Path, *, output: Path, target: str = "wqao", keep_contraction: bool = False) -> dict[str, Any]:
    """A full-basis file -> the same molecules in a minimal basis, without any new calculation.

        schnorb_t project full.h5 -o minimal.h5 --target wqao

    Works for every file that holds Gaussian functions with its basis: PySCF labels (``--target full``) and imported
    ORCA data. Occupied orbital energies survive exactly. Continues where it was interrupted.

    Args:
        full: file with full-basis matrices
        output: HDF5 file to begin or to continue
        target: the minimal basis: wqao, wqvo, iao, ...
        keep_contraction: store the projection A beside H and S

    Returns:
        ``output``, ``molecules`` and ``failed`` (counts).

    Raises:
        UserError: the file cannot be projected, or is the output itself.
    """
    from schnorb_t import keys
    from schnorb_t.data.store import Store, StoreWriter
    from schnorb_t.progress import tracked
    from schnorb_t.reference.labels import projected_header, record_of
    from schnorb_t.reference.minimal_basis import TARGETS
    from schnorb_t.reference.pyscf import LabelError

    check_choice("--target", target, TARGETS)
    of_orbitals = {keys.ORBITALS, keys.LEVELS, keys.LARGE_ORBITALS}
    carried = [q.field for q in keys.stored() if q.optional and not of_orbitals & set(q.record_axes)]
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
            for index in tracked(range(len(store)), target):
                if names[index] in known:
                    continue
                r = store[index]
                try:
                    if r.hamiltonian is None:
                        raise LabelError("has no Hamiltonian to project")
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
                    # what does not speak of orbitals stays: forces, dipole moment, charges, masses ...
                    kept = {f: v for f in carried if (v := getattr(r, f)) is not None and getattr(record, f) is None}
                    writer.add(replace(record, **kept))
    with Store(output) as store:
        return {"output": str(output), "molecules": len(store), "failed": len(store.failures)}


def show(result: dict[str, Any]) -> None:
    """Print what ``project`` returned."""
    print("{output}: {molecules} molecules, {failed} failed".format(**result))
