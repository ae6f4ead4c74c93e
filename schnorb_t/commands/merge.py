"""``schnorb_t merge a.h5 b.h5 -o both.h5``: several stores of one target and level, or shards of predictions -> one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.data.duplicates import N_INVARIANTS, composition_code, find_duplicates, geometry_invariants
from schnorb_t.data.header import theory
from schnorb_t.data.store import Header, MoleculeRecord, Store, StoreWriter, journal_path
from schnorb_t.data.validation import ENERGY_TOLERANCE
from schnorb_t.errors import UserError
from schnorb_t.files import removed_at_the_end
from schnorb_t.prediction_file import is_predictions
from schnorb_t.progress import tracked
from schnorb_t.structures import graph_key


def merged_header(stores: list[Store]) -> Header:
    """The header of the merged file.

    Raises:
        UserError: target, level, programs or an element's functions differ.
    """
    first = stores[0]
    shells: dict[int, tuple[int, ...]] = {}
    functions: dict[int, tuple[GaussianShell, ...] | None] = {}
    core: dict[int, int] = {}
    for store in stores:
        plain = dataclasses.replace(store.header, basis=first.basis, level=theory(store.level))
        wanted = dataclasses.replace(first.header, level=theory(first.level))
        if plain != wanted:
            raise UserError(f"{store.path} and {first.path} do not fit: {wanted.difference(plain)}")
        for z in store.basis.elements:
            theirs = store.basis.functions[z] if store.basis.functions else None
            mine = store.basis.shells[z], theirs, store.basis.core.get(z, 0)
            if z in shells and mine != (shells[z], functions[z], core.get(z, 0)):
                raise UserError(f"{store.path}: its functions of element {z} are not those of {first.path}")
            shells[z], functions[z] = store.basis.shells[z], theirs
            if store.basis.core.get(z):
                core[z] = store.basis.core[z]
    known = {z: shells_of for z, shells_of in functions.items() if shells_of is not None}
    complete = known if len(known) == len(functions) else None
    basis = Basis(first.basis.name, shells, complete, first.basis.projected, core=core)
    return Header(basis, first.target, theory(first.level), first.programs)


def _identity(record: MoleculeRecord) -> set[tuple[str, str]]:
    """What tells that two records are of one molecule: the name of its group, its elements and bonds."""
    return {("group", record.group), ("graph", graph_key(record.atomic_numbers, record.positions))}


def _identities(store: Store, split: str) -> set[tuple[str, str]]:
    return set().union(*(_identity(store[i]) for i in store.indices(split)))


def _refuse_contradictions(stores: list[Store]) -> None:
    """Refuse one geometry with two energies: labels of two methods, whatever the headers say."""
    places = [(store, i) for store in stores for i in range(len(store))]
    geometries = ((p.atomic_numbers, p.positions) for p in (store.packed(i) for store, i in places))
    charges = (store.total_charges[i] for store, i in places)
    codes, invariants = np.zeros(len(places), dtype=np.int64), np.zeros((len(places), N_INVARIANTS))
    for k, ((z, x), charge) in enumerate(zip(geometries, charges, strict=True)):
        codes[k], invariants[k] = composition_code(z, charge), geometry_invariants(z, x)

    def load(k: int):
        store, i = places[k]
        packed = store.packed(i)
        return packed.atomic_numbers, packed.positions

    for a, b in find_duplicates(codes, invariants, load):
        (first, i), (second, j) = places[a], places[b]
        apart = abs(float(first.total_energies[i] - second.total_energies[j]))
        if apart > ENERGY_TOLERANCE:
            raise UserError(
                f"molecules {first.name_of(i)!r} of {first.path} and {second.name_of(j)!r} of {second.path} have the "
                f"same geometry and total energies {apart:.1e} Eh apart: labels of two methods; leave one out"
            )


def merge(files: list[Path], *, output: Path) -> dict[str, Any]:
    """Several files of one target and level -> one, for training on all of them; or shards of predictions -> one file.

        schnorb_t merge data/qm9_wqao.h5 schnorb_t/data/sample/sample.h5 -o data/merged.h5
        schnorb_t merge out-*-of-00016.h5 -o out.h5

    Shards of ``schnorb_t predict --shards N`` become the file that a run without ``--shards`` writes.

    The basis becomes that of all elements together. Splits are kept, but a molecule (equal group, or equal elements and
    bonds) that stands in another file's test split is left out of training and validation, and one of another file's
    validation out of training: it would spoil them.

    Args:
        files: the stores, or all shards of a run, to merge
        output: HDF5 file to write

    Returns:
        ``output``, ``molecules`` (count), ``left_out`` (names), ``predictions`` (whether they were shards).

    Raises:
        UserError: see ``merged_header``; a name twice; a geometry with two energies; a shard is missing or of another
            run; the output exists.
    """
    if output.exists() or journal_path(output).exists():
        raise UserError(f"{output}: exists; remove it or choose another name")
    if any(is_predictions(path) for path in files):
        from schnorb_t.files import check_output
        from schnorb_t.shards import merge_shards

        count = merge_shards(files, check_output(output, files))
        return {"output": str(output), "molecules": count, "left_out": [], "predictions": True}
    stores = [Store(path) for path in files]
    header = merged_header(stores)
    names = [str(name) for store in stores for name in store.names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{output}: molecule {twice!r} stands in two of the files; leave one of them out")
    _refuse_contradictions(stores)
    kept_for = [{split: _identities(store, split) for split in ("val", "test")} for store in stores]
    left_out, order = [], 0
    with removed_at_the_end(journal_path(output)), StoreWriter(output, header, append=False) as writer:
        for k, store in enumerate(stores):
            elsewhere = {
                split: set().union(*(theirs[split] for j, theirs in enumerate(kept_for) if j != k))
                for split in ("val", "test")
            }
            spoils = {"train": elsewhere["val"] | elsewhere["test"], "val": elsewhere["test"]}
            for i in tracked(range(len(store)), store.path.name):
                record = store[i]
                if spoils.get(record.split) and _identity(record) & spoils[record.split]:
                    left_out.append(record.name)
                    continue
                writer.add(MoleculeRecord(**{**record.values, "order": order}))
                order += 1
    return {"output": str(output), "molecules": order, "left_out": left_out, "predictions": False}


def show(result: dict[str, Any]) -> None:
    """Print what ``merge`` returned."""
    what = "predicted structures" if result["predictions"] else "molecules"
    print(f"{result['output']}: {result['molecules']} {what}")
    if left_out := result["left_out"]:
        print(f"left out, because another file tests or validates with the same molecule: {', '.join(left_out)}")
