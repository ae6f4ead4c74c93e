"""``schnorb_t label-model MODEL more.xyz -o soft.h5``: what a trained model says of molecules, as labels of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt


def label_model(
    model: str,
    structures: list[Path],
    *,
    output: Path,
    doubt_below: PositiveFloat | None = None,
    batch_size: PositiveInt = 32,
    device: str | None = None,
    source: str = "",
) -> dict[str, Any]:
    """Label structures by a trained model -> one store, from which a cheaper network learns what the model knows.

        schnorb_t label-model organic more.xyz -o soft.h5
        schnorb_t fit --config organic_light --data.path soft.h5

    Training on the labels of many molecules first and on Kohn-Sham labels afterwards (``--model.start_from``) gives a
    quick network what few labels could not. STRUCTURES is any file with molecules, as for ``label-xtb``. Killed at any
    moment, the same command continues where it stopped.

    Args:
        model: checkpoint, or the name of a model that comes with the package
        structures: files with structures
        output: HDF5 file to begin or to continue
        doubt_below: eV; leave out structures of which HOMO or LUMO has a larger standard deviation (models that know
            doubt)
        batch_size: molecules at once
        device: cpu, cuda, cuda:1, ... (default: cuda where there is one)
        source: where the structures come from; a text for the file

    Returns:
        ``output``, ``labelled``, ``failed``, ``doubtful`` (left out) and ``known`` (counts).

    Raises:
        UserError: a broken structure, a model that does not know its elements or doubt, an output of other labels.
    """
    from itertools import islice

    from ase.data import chemical_symbols

    from schnorb_t import __version__
    from schnorb_t.data.header import Header
    from schnorb_t.data.records import MoleculeRecord
    from schnorb_t.data.store import StoreWriter
    from schnorb_t.errors import UserError
    from schnorb_t.predictor import load
    from schnorb_t.progress import progress_bar
    from schnorb_t.structures import LabelFiles, sort_out

    teacher = load(model, device=device)
    if doubt_below is not None and not teacher.knows_doubt:
        raise UserError(f"--doubt-below: {model} does not tell doubt; leave it out, or calibrate the model first")
    read = LabelFiles(structures)
    refused = sort_out(read.without_groups(), skippable=False, charges=teacher.charges)
    elements = sorted({z for name, found in read.elements.items() if name not in refused for z in found})
    if missing := [chemical_symbols[z] for z in elements if z not in teacher.basis.elements]:
        raise UserError(f"{read.path}: {model} does not know {', '.join(missing)}; leave these structures out")
    level = {**teacher.card.level, "predicted_by": Path(model).stem}
    if source:
        level["structures"] = source
    basis = teacher.basis.restricted([z for z in teacher.basis.elements if z in elements])
    header = Header(basis, teacher.card.target, level, {"schnorb_t": __version__})
    done = doubtful = failed = 0
    with StoreWriter(output, header) as writer:
        wanted = frozenset(name for name in read.orders if name not in writer.known_names)
        waiting = (s for s in read if s.name in wanted)
        with progress_bar(len(wanted), "labelling") as advance:
            while part := list(islice(waiting, batch_size)):
                good = [s for s in part if s.name not in refused]
                for s in part:
                    if s.name in refused:
                        failed += not writer.add_outcome(s.name, s.order, False, refused[s.name])
                for s, found in zip(good, teacher.predict(good), strict=True):
                    if doubt_below is not None and found.doubt > doubt_below:
                        doubtful += 1
                        continue
                    record = MoleculeRecord(
                        atomic_numbers=found.atomic_numbers,
                        positions=found.positions,
                        hamiltonian=found.hamiltonian,
                        overlap=found.overlap,
                        n_electrons=found.n_electrons,
                        charge=found.charge or None,
                        name=s.name,
                        group=s.group,
                        split=s.split,
                        order=s.order,
                        masses=s.isotope_masses,
                    )
                    writer.add(record)
                    done += 1
                advance(len(part))
    return {
        "output": str(output),
        "labelled": done,
        "failed": failed,
        "doubtful": doubtful,
        "known": len(read) - len(wanted),
    }


def show(result: dict[str, Any]) -> None:
    """Print what ``label_model`` returned."""
    text = "{output}: {labelled} molecules labelled, {failed} failed, {doubtful} left out, {known} there already"
    print(text.format(**result))
