"""``python -m schnorb_t.predict MODEL STRUCTURES -o OUT.h5``: Hamiltonian, overlap, orbital energies of molecules."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from schnorb_t.errors import UserError, run_command
from schnorb_t.prediction import Prediction
from schnorb_t.units import HARTREE

#: Structures whose levels are printed.
SHOWN = 5
#: Eh; structures on whose HOMO or LUMO an ensemble's members differ by more (standard deviation) are named.
DOUBTFUL = 0.2 / HARTREE


def positive(text: str) -> int:
    """An argument that counts."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def positive_number(text: str) -> float:
    """An argument that measures."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def print_levels(shown: dict[int, Prediction], total: int, console: Console) -> None:
    """Frontier levels of the first structures: in eV and Eh, or in eV with the spread of an ensemble's members."""
    table = Table(title=f"the first {len(shown)} of {total:,}" if total > len(shown) else None, title_justify="left")
    for heading in ("structure", "formula", "name"):
        table.add_column(heading)
    spread = any(x.frontier_spread for x in shown.values())
    for unit in ("eV",) if spread else ("eV", "Eh"):  # no room for both
        for level in ("HOMO", "LUMO", "gap"):
            table.add_column(f"{level}\n{unit}", justify="right", no_wrap=True)
    if spread:
        table.add_column("HOMO, LUMO\nspread, eV", justify="right", no_wrap=True)
    for index, x in sorted(shown.items()):
        levels = (x.homo, x.lumo, x.gap)
        numbers = [f"{e * HARTREE:.3f}" for e in levels]
        if spread:
            numbers.append(", ".join(f"{e * HARTREE:.3f}" for e in x.frontier_spread))
        else:
            numbers += [f"{e:.5f}" for e in levels]
        table.add_row(str(index), x.formula, x.name, *numbers)
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m schnorb_t.predict",
        description="Predict Hamiltonian, overlap and orbital energies of neutral closed-shell molecules.",
    )
    parser.add_argument("model", help="checkpoint of schnorb_t.fit, or the name of a model that comes with the package")
    parser.add_argument("structures", type=Path, help="any file that ASE reads, with one structure or thousands")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.h5")
    parser.add_argument("--skip-bad", action="store_true", help="leave out structures that cannot be worked on")
    parser.add_argument("--batch-size", type=positive, help="molecules at once (default: by their size)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    parser.add_argument("--molden", type=Path, metavar="DIR", help="also write Molden files of all orbitals there")
    parser.add_argument(
        "--cube",
        metavar="NAMES",
        help="also write cube files (homo,lumo,homo-1,density,...) to OUT_cubes",
    )
    parser.add_argument(
        "--dftbplus", type=Path, metavar="DIR", help="also write hamsqr1.dat, oversqr.dat, geometry.gen there"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="also draw each structure's levels and density of states there (PNG)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="LABELS.h5",
        help="labels of the same molecules: --plot draws their levels beside the predicted ones",
    )
    parser.add_argument(
        "--broadening",
        type=positive_number,
        default=0.3,
        metavar="EV",
        help="width (standard deviation) of the levels in the density of states, eV (default: %(default)s)",
    )
    parser.add_argument(
        "--plot-limit",
        type=positive,
        default=200,
        metavar="N",
        help="draw the first N structures only (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT.h5 and files in the folders")
    arguments = parser.parse_args(argv)

    from schnorb_t.interfaces.exports import check_folder, cube_files, dftbplus_files, exporting, molden_files
    from schnorb_t.prediction_file import PredictionWriter, check_output
    from schnorb_t.predictor import load, progress_bar
    from schnorb_t.structures import check_structures, read_structures
    from schnorb_t.training.checkpoint import find_model

    console = Console()
    if arguments.reference and not arguments.plot:
        raise UserError("--reference is only drawn; add --plot DIR")
    inputs = [find_model(arguments.model), arguments.structures, *filter(None, [arguments.reference])]
    output = check_output(arguments.output, inputs, arguments.force)
    exports = [(arguments.molden, molden_files)] if arguments.molden else []
    exports += [(arguments.dftbplus, dftbplus_files)] if arguments.dftbplus else []
    exports += [(output.with_name(f"{output.stem}_cubes"), cube_files(arguments.cube))] if arguments.cube else []
    for folder in [folder for folder, _ in exports] + ([arguments.plot] if arguments.plot else []):
        check_folder(folder, arguments.force)
    if arguments.plot:
        from schnorb_t.interfaces.plots import check_width, picture_files
        from schnorb_t.interfaces.reference_levels import references

        check_width(arguments.broadening)
    predictor = load(arguments.model, arguments.device)
    structures = read_structures(arguments.structures)
    elements = predictor.basis.elements
    sound, bad = check_structures(structures, elements, arguments.structures, arguments.skip_bad)
    chosen = [structures[i] for i in sound]
    drawn = sound[: arguments.plot_limit] if arguments.plot else []
    if arguments.plot:
        find = references(arguments.reference, {i: structures[i] for i in drawn}, arguments.structures)
        exports.append((arguments.plot, picture_files(set(drawn), find, arguments.broadening)))
    shown: dict[int, Prediction] = {}
    doubtful: list[int] = []
    start = time.perf_counter()
    with (
        PredictionWriter(output, predictor.card, arguments.model, str(arguments.structures)) as writer,
        exporting(exports) as export,
    ):
        writer.skipped(bad)
        with progress_bar(len(chosen)) as advance:
            try:
                for batch in predictor.predict_batches(chosen, arguments.batch_size, sound):
                    for index, prediction in batch:
                        writer.add(index, prediction)
                        export(index, prediction)
                        if prediction.frontier_spread and np.nanmax(prediction.frontier_spread) > DOUBTFUL:
                            doubtful.append(index)
                        if index in sound[:SHOWN]:
                            shown[index] = prediction
                        advance(1)
            except UserError as error:
                raise UserError(f"{arguments.structures}, {error}") from None
    seconds = time.perf_counter() - start
    for line in bad:
        console.print(f"skipped {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    print_levels(shown, len(sound), console)
    if doubtful:
        few = ", ".join(map(str, sorted(doubtful)[:SHOWN])) + (", ..." if len(doubtful) > SHOWN else "")
        text = f"unlike what the model learned from: {len(doubtful):,} of {len(sound):,} structures ({few}); "
        text += f"its members differ by more than {DOUBTFUL * HARTREE:.1f} eV in HOMO or LUMO "
        text += f"(orbital_energy_spread in {output})"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for folder, _ in exports:
        what = f"files of {len(sound):,} structures"
        if folder == arguments.plot:
            what = f"pictures of {len(drawn):,} structures"
            if len(drawn) < len(sound):
                what = f"pictures of the first {len(drawn):,} of {len(sound):,} structures (more with --plot-limit)"
        console.print(f"{folder}: {what}", markup=False, highlight=False, soft_wrap=True)
    skipped = f", {len(bad):,} skipped" if bad else ""
    console.print(
        f"{output}: {len(sound):,} structures{skipped}, {1e3 * seconds / len(sound):.1f} ms each on {predictor.device}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main)
