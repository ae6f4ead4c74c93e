"""``schnorb_t convert labels.h5 -o store.h5``: full-basis labels (one HDF5 group per molecule) -> the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import all_electrons
from schnorb_t.commands.parser import check_choice
from schnorb_t.conventions import reorder_from
from schnorb_t.data.store import StoreWriter
from schnorb_t.errors import UserError, brief
from schnorb_t.files import wrong_file
from schnorb_t.progress import tracked
from schnorb_t.reference.labels import TARGETS, header_of, record_of
from schnorb_t.reference.pyscf import LabelError, Level, basis_from_pyscf, versions
from schnorb_t.reference.qm9 import split_of_rank

#: What is said where something else is given.
OLD_LABELS = "give full-basis labels in HDF5, one group per molecule"


def triangle_to_matrix(triangle: np.ndarray) -> np.ndarray:
    """Lower triangle row by row [m(m+1)/2] -> symmetric [m, m].

    Raises:
        ValueError: not a triangle number.
    """
    m = int(round((np.sqrt(8 * len(triangle) + 1) - 1) / 2))
    out = np.zeros((m, m))
    out[np.tril_indices(m)] = triangle
    return out + np.tril(out, -1).T


def level_of(path: Path, text: str) -> tuple[Level, str]:
    """Level of theory and PySCF version from the file's ``level`` attribute.

    Raises:
        UserError: it says something else than this script understands.
    """
    pattern = r"(\w+)/([\w+*()-]+), PySCF ([\d.]+), density fitting, grid level (\d), conv_tol (\S+)"
    match = re.fullmatch(pattern, text)
    if match is None:
        raise UserError(
            f"{path}: level of theory {text!r} not understood; expected e.g. 'B3LYP/def2-SVP, PySCF 2.14.0, "
            "density fitting, grid level 1, conv_tol 1e-9'"
        )
    functional, basis, version, grid, tol = match.groups()
    return Level(functional, basis, True, int(grid), float(tol)), version


def identity_of(key: str, attributes: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Name, group, split and order of a molecule from its HDF5 group's name and attributes (QM9's have a ``rank``)."""
    if "rank" in attributes:
        rank = int(attributes["rank"])
        name = f"qm9:{attributes['qm9_index']}"
        return name, name, split_of_rank(rank), rank
    return key, str(attributes["group"]), str(attributes["split"]), int(attributes["order"])


def convert_labels(
    labels: Path,
    *,
    output: Path,
    target: str = "wqao",
    keep_contraction: bool = False,
) -> dict[str, Any]:
    """Full-basis labels (one HDF5 group per molecule, lower triangles in PySCF order) -> the store.

        schnorb_t convert labels_b3lyp_def2svp.h5 -o qm9_wqao.h5 --target wqao

    Of QM9's molecules ``rank`` decides their split: 0-59 test, 60-99 val, 100 and up train; others have ``split``,
    ``group`` and ``order`` among their attributes. No SCF is run; the overlap and the projection need PySCF's
    integrals.

    Args:
        labels: HDF5 file with one group per molecule
        output: HDF5 file to begin or to continue
        target: what H and S shall stand in: full or a minimal basis (wqao, ...)
        keep_contraction: store the projection A beside H and S

    Returns:
        ``output``, ``molecules`` added and ``failed`` (counts).

    Raises:
        UserError: the source is no such file.
    """
    check_choice("--target", target, TARGETS)
    try:
        file = h5py.File(labels, "r")
    except OSError as error:
        wrong = wrong_file(labels, OLD_LABELS)
        reason = wrong if wrong and "HDF5" not in wrong else f"cannot be read as HDF5 ({brief(error)}); {OLD_LABELS}"
        raise UserError(f"{labels}: {reason}") from None
    with file:
        if "schema_version" in file.attrs:
            raise UserError(f"{labels}: is a store already; bring it into a minimal basis with schnorb_t project")
        level, version = level_of(labels, str(file.attrs.get("level", "")))
        elements = sorted({int(z) for g in file.values() for z in np.unique(g["atomic_numbers"])})
        large = basis_from_pyscf(level.basis, elements)
        programs = {"pyscf": version}
        if versions() != programs and target != "full":
            programs["pyscf (projection)"] = versions()["pyscf"]
        done = failed = 0
        with StoreWriter(output, header_of(target, elements, level, programs)) as writer:
            known = writer.known_names
            for key in tracked(sorted(file), target):
                group = file[key]
                name, identity, split, rank = identity_of(key, group.attrs)
                if name in known:
                    continue
                z = group["atomic_numbers"][:].astype(np.int64)
                try:
                    order = reorder_from("pyscf", [large.shells[q] for q in z])
                    fock = triangle_to_matrix(group["fock_tril"][:])
                    if len(fock) != len(order.index):
                        symbols = "".join(chemical_symbols[q] for q in z)
                        raise LabelError(f"Fock matrix of size {len(fock)}, {len(order.index)} expected for {symbols}")
                    record = record_of(
                        target,
                        large,
                        z,
                        group["positions"][:],
                        order.matrix(fock),
                        group.attrs["energy"],
                        all_electrons(z),
                        name,
                        identity,
                        split,
                        rank,
                        keep_contraction,
                    )
                    stored = group["mo_energy"][:][-len(record.large_basis_energies) :]  # a core may be left out
                    difference = np.abs(record.large_basis_energies - stored).max()
                    if difference > 1e-8:
                        raise LabelError(f"orbital energies differ by {difference:.1e} Eh from the stored ones")
                except LabelError as error:
                    writer.add_failure(name, str(error), rank)
                    failed += 1
                else:
                    writer.add(record)
                    done += 1
    return {"output": str(output), "molecules": done, "failed": failed}


def show(result: dict[str, Any]) -> None:
    """Print what ``convert_labels`` returned."""
    print("{output}: {molecules} molecules added, {failed} failed".format(**result))
