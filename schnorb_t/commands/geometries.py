"""``schnorb_t geometries molecules.csv -o geometries.xyz``: SMILES -> relaxed and hot GFN2-xTB geometries to label."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError

#: Failures listed at the end of a run; the file beside the output holds all.
LISTED = 50


def geometries(
    smiles: Path,
    *,
    output: Path,
    prefix: str = "",
    split: str = "",
    hot_fraction: float = 0.6,
    temperatures: tuple[float, float] = (200.0, 800.0),
    test_temperature: float = 500.0,
    duration: float = 80.0,
    time_step: float = 0.5,
    orders: tuple[int, int] | None = None,
    only_split: str = "",
    max_heavy_atoms: int | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Geometries to label from SMILES: relaxed by GFN2-xTB, or hot, out of a short GFN2-xTB dynamics.

        schnorb_t geometries molecules.csv -o geometries.xyz --workers 4
        schnorb_t label geometries.xyz -o labels.h5

    SMILES is a CSV file with a column ``smiles`` (and, if there are, ``name``, ``split``, ``order``) or a text file
    with a SMILES and perhaps a name per line. RDKit embeds, GFN2-xTB relaxes, Langevin dynamics heats. A training
    molecule gets one geometry, hot or relaxed; a test or validation molecule one of both. A molecule whose bonds break
    or form (many zwitterions) is tried again and then listed with the reason in OUTPUT.failed.csv. The same name gives
    the same geometries always. Killed at any moment, the same command continues where it stopped.

    Args:
        smiles: CSV or SMILES file
        output: extended xyz file to begin or to continue, molecules in the order they are finished
        prefix: begins names that the file does not give (default: its own name)
        split: train, val or test, for molecules that the file gives none
        hot_fraction: of training molecules; the rest is relaxed
        temperatures: lowest and highest of hot training molecules, K
        test_temperature: of test and validation molecules, K
        duration: of the dynamics, fs
        time_step: of the dynamics, fs
        orders: first order and the one after the last (default: all)
        only_split: only molecules of this split
        max_heavy_atoms: only molecules with at most so many atoms other than hydrogen
        workers: processes (default: all cores)
        retry_failed: try molecules again that failed before

    Returns:
        ``output``, ``geometries`` (count in the file), ``added`` (count), ``failures`` ([name, reason]).

    Raises:
        UserError: broken list or options, RDKit or tblite missing.
    """
    from schnorb_t.commands.parser import check_choice
    from schnorb_t.progress import messages, tracked
    from schnorb_t.reference import geometries as library
    from schnorb_t.reference.geometry_file import GeometryFile
    from schnorb_t.reference.pool import run_processes

    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least one process is needed")
    for option, value in (("--split", split), ("--only-split", only_split)):
        if value:
            check_choice(option, value, ("train", "val", "test"))
    policy = library.Policy(hot_fraction, (temperatures[0], temperatures[1]), test_temperature, duration, time_step)
    library.require_programs()
    molecules = library.read_molecules(smiles, prefix, split)
    wanted = library.selected(
        molecules, (orders[0], orders[1]) if orders else None, [only_split] if only_split else [], max_heavy_atoms
    )
    if not wanted:
        raise UserError(f"{smiles}: none of its {len(molecules)} molecules is wanted by these options")
    file = GeometryFile(output)
    if retry_failed:
        file.forget_failures()
    before = len(file.names)

    def finished(molecule: library.Molecule) -> bool:
        return all(library.frame_name(molecule, kind) in file.names for kind in policy.plan(molecule))

    work = [m for m in wanted if m.name not in file.failures and not finished(m)]
    console = messages()
    if len(work) < len(wanted):
        console.print(f"{output}: {len(wanted) - len(work)} molecules are there already")
    outcomes = run_processes(library.GeometryJob(policy), work, workers or os.cpu_count() or 1)
    for molecule, ok, value in tracked(outcomes, "geometries", len(work)):
        if ok:
            file.add(value)
        else:
            file.add_failure(molecule, value)
    return {
        "output": str(output),
        "geometries": len(file.names),
        "added": len(file.names) - before,
        "failures": [[name, reason] for name, reason in file.failures.items()],
    }


def show(result: dict[str, Any]) -> None:
    """Print what the file holds and what failed, with the reasons."""
    failures = result["failures"]
    text = "{output}: {geometries} geometries, {added} of them new"
    print(f"{text.format(**result)}; {len(failures)} molecules failed")
    for name, reason in failures[:LISTED]:
        print(f"  failed: {name}: {reason}")
    if len(failures) > LISTED:
        print(f"  and {len(failures) - LISTED} more, see {result['output']}.failed.csv")
