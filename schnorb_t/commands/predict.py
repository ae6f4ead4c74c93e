"""``schnorb_t predict MODEL STRUCTURES -o OUT.h5``: Hamiltonian, overlap, orbital energies of molecules."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from schnorb_t.errors import UserError
from schnorb_t.units import HARTREE

#: Structures whose levels are printed.
SHOWN = 5
#: Doubtful structures that are named, the worst first.
NAMED = 10


def predict(
    model: str,
    structures: Path,
    *,
    output: Path | None = None,
    html: Path | None = None,
    skip_bad: bool = False,
    batch_size: PositiveInt | None = None,
    device: str | None = None,
    molden: Path | None = None,
    cube: str | None = None,
    dftbplus: Path | None = None,
    plot: Path | None = None,
    reference: Path | None = None,
    broadening: PositiveFloat = 0.3,
    plot_limit: PositiveInt = 200,
    doubt_above: PositiveFloat = 0.15,
    shards: PositiveInt | None = None,
    workers: PositiveInt | None = None,
    scheduler: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Predict Hamiltonian, overlap and orbital energies of closed-shell molecules.

    Molecules are neutral, or have a charge that the model was trained on; the file says it (docs/molecules.md).

    Args:
        model: checkpoint of ``schnorb_t fit``, or the name of a model that comes with the package
        structures: file with molecules (xyz, sdf, ...; any that ASE reads), one or thousands
        output: HDF5 file to write; may be left out where a folder is written
        html: folder; also write a page per structure there, to look at orbitals, levels and doubt in a browser
        skip_bad: leave out structures that cannot be worked on
        batch_size: molecules at once (default: by their size)
        device: cpu, cuda, cuda:1, ... (default: cuda where there is one)
        molden: folder; also write Molden files of all orbitals there
        cube: also write cube files (homo,lumo,homo-1,density,...) to OUT_cubes
        dftbplus: folder; also write hamsqr1.dat, oversqr.dat, geometry.gen there
        plot: folder; also draw each structure's levels and density of states there (PNG)
        reference: labels of the same molecules (a store): --plot draws their levels beside the predicted ones
        broadening: width (standard deviation) of the levels in the density of states of --plot and --html, eV
        plot_limit: draw pictures of so many structures only, the first ones
        doubt_above: eV; name structures whose HOMO or LUMO has a larger standard deviation (models that know doubt);
            beyond twice that a prediction is not to be trusted
        shards: for very many structures: write so many files OUT-00000-of-N.h5 ...; killed, the same command continues,
            and ``schnorb_t merge`` joins them into the file that one run writes
        workers: with --shards: processes on this machine, one thread each (default: this process alone)
        scheduler: with --shards: address or file of a dask.distributed scheduler, whose workers make the shards
        force: overwrite the output and files in the folders

    Returns:
        ``structures`` and ``skipped`` (counts), ``seconds``, ``device``, ``levels`` of the first structures in Eh,
        of a model that knows doubt ``doubt`` (median and largest in eV, ``above``), ``doubtful`` (structures beyond the
        threshold, the worst first), ``skipped_lines``, ``folders`` and what they hold, ``open`` (the page to look at).

    Raises:
        UserError: bad input; names file, structure and remedy.
    """
    from schnorb_t.interfaces.exports import check_folder, cube_files, dftbplus_files, exporting, molden_files
    from schnorb_t.prediction_file import PredictionWriter, check_output
    from schnorb_t.predictor import load
    from schnorb_t.progress import progress_bar
    from schnorb_t.sparse_prediction import SparsePrediction
    from schnorb_t.structures import StructureFile, check_structures
    from schnorb_t.training.checkpoint import find_model

    if reference and not plot:
        raise UserError("--reference is only drawn; add --plot DIR")
    if output is None and not any((html, molden, dftbplus, plot)):
        raise UserError("nothing to write: name a file with -o OUT.h5, or a folder of pages to look at with --html DIR")
    if (workers or scheduler) and not shards:
        raise UserError("--workers and --scheduler make shards; say how many with --shards N")
    if workers and scheduler:
        raise UserError("--workers are processes of this machine, --scheduler has its own; give one of them")
    if shards:
        if output is None or any((html, molden, dftbplus, plot, cube)):
            raise UserError("--shards writes predictions alone: give -o OUT.h5 and no folder")
        from schnorb_t.commands.predict_shards import predict_shards

        return predict_shards(
            model,
            structures,
            output,
            shards,
            skip_bad=skip_bad,
            batch_size=batch_size,
            device=device,
            workers=workers,
            scheduler=scheduler,
            doubt_above=doubt_above,
            force=force,
            shown=SHOWN,
        )
    if output is None and cube:
        raise UserError("--cube writes beside the output: add -o OUT.h5")
    if output is not None:
        output = check_output(output, [find_model(model), structures, *filter(None, [reference])], force)
    exports: list[tuple[Path, Any]] = [(molden, molden_files)] if molden else []
    exports += [(dftbplus, dftbplus_files)] if dftbplus else []
    exports += [(output.with_name(f"{output.stem}_cubes"), cube_files(cube))] if output and cube else []
    folders = [folder for folder, _ in exports] + [folder for folder in (plot, html) if folder]
    for folder in folders:
        check_folder(folder, force)
    if len({folder.absolute() for folder in folders}) < len(folders):
        raise UserError("two kinds of files would go to one folder; name another one for each")
    if plot or html:
        from schnorb_t.interfaces.plots import check_width, picture_files
        from schnorb_t.interfaces.reference_levels import references

        check_width(broadening)
    predictor = load(model, device)
    read = StructureFile(structures)
    sound, bad = check_structures(read, predictor.basis.elements, structures, skip_bad, predictor.charges)
    drawn = sound[:plot_limit] if plot else []
    if plot:
        find = references(reference, dict(zip(*next(read.windows(drawn, len(drawn))), strict=True)), structures)
        exports.append((plot, picture_files(set(drawn), find, broadening)))
    pages = None
    if html:
        from schnorb_t.interfaces.viewer.folder import Pages

        pages = Pages(len(sound), structures.name, broadening, doubt_above)
        exports.append((html, pages))
    shown: dict[int, Any] = {}
    first = frozenset(sound[:SHOWN])
    doubts: dict[int, tuple[float, str]] = {}
    start = time.perf_counter()
    with (
        PredictionWriter(output, predictor.card, model, str(structures)) if output else nullcontext() as writer,
        exporting(exports) as export,
    ):
        if writer:
            writer.skipped(bad)
        batches = (
            batch
            for places, some in read.windows(sound)
            for batch in predictor.predict_batches(some, batch_size, places)
        )
        with progress_bar(len(sound), "predicting") as advance:
            for index, prediction in _named(structures, batches):
                if exports and isinstance(prediction, SparsePrediction):
                    name = f"structure {index}, {len(prediction.atomic_numbers):,} atoms"
                    raise UserError(f"{structures}, {name}: only -o OUT.h5 takes molecules this large; leave it out")
                if writer:
                    writer.add(index, prediction)
                export(index, prediction)
                if prediction.doubt is not None:
                    doubts[index] = prediction.doubt, prediction.name
                if index in first:
                    shown[index] = prediction
                advance(1)
    written = {str(folder): f"files of {len(sound):,} structures" for folder, _ in exports}
    if plot:
        some = len(drawn) < len(sound)
        of = f"the first {len(drawn):,} of {len(sound):,} structures (more with --plot-limit)"
        written[str(plot)] = f"pictures of {of if some else f'{len(drawn):,} structures'}"
    if html:
        written[str(html)] = f"pages of {len(sound):,} structures"
    return {
        "output": str(output) if output else None,
        "structures": len(sound),
        "skipped": len(bad),
        "seconds": time.perf_counter() - start,
        "device": str(predictor.device),
        "levels": [
            {
                "structure": index,
                "formula": x.formula,
                "name": x.name,
                "homo": x.homo,
                "lumo": x.lumo,
                "gap": x.gap,
                "spread": list(x.frontier_spread) if x.frontier_spread else None,
                "doubt_ev": x.doubt,
            }
            for index, x in sorted(shown.items())
        ],
        "doubt": _summary(doubts, doubt_above),
        "doubtful": [
            {"structure": index, "name": name, "doubt_ev": doubt}
            for index, (doubt, name) in sorted(doubts.items(), key=lambda x: -x[1][0])
            if doubt > doubt_above
        ],
        "skipped_lines": bad,
        "folders": written,
        "open": str(html / pages.start) if html and pages else None,
    }


def _summary(doubts: Mapping[int, tuple[float, str]], above: float) -> dict[str, float] | None:
    """Median and largest doubt, eV, and the threshold; ``None`` of a model that knows none."""
    if not doubts:
        return None
    values = [doubt for doubt, _ in doubts.values()]
    return {"median_ev": median(values), "largest_ev": max(values), "above_ev": above}


def _named(file: Path, batches: Iterable[Iterable[tuple[int, Any]]]) -> Iterator[tuple[int, Any]]:
    """Predictions one by one; an error of theirs names the file too."""
    try:
        for batch in batches:
            yield from batch
    except UserError as error:
        raise UserError(f"{file}, {error}") from None


def print_levels(levels: list[dict[str, Any]], total: int) -> None:
    """Frontier levels of the first structures: in eV and Eh, or in eV with the doubt of a model that knows it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"the first {len(levels)} of {total:,}" if total > len(levels) else None, title_justify="left")
    for heading in ("structure", "formula", "name"):
        table.add_column(heading)
    doubt = any(x["doubt_ev"] is not None for x in levels)
    for unit in ("eV",) if doubt else ("eV", "Eh"):  # no room for both
        for level in ("HOMO", "LUMO", "gap"):
            table.add_column(f"{level}\n{unit}", justify="right", no_wrap=True)
    if doubt:
        table.add_column("doubt\neV", justify="right", no_wrap=True)
    for x in levels:
        energies = [x[key] for key in ("homo", "lumo", "gap")]
        numbers = [f"{e * HARTREE:.3f}" for e in energies]
        if doubt:
            numbers.append(f"{x['doubt_ev']:.3f}")
        else:
            numbers += [f"{e:.5f}" for e in energies]
        table.add_row(str(x["structure"]), x["formula"], x["name"], *numbers)
    Console().print(table)


def show(result: dict[str, Any]) -> None:
    """Print what ``predict`` returned."""
    from rich.console import Console

    console, n = Console(), result["structures"]

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for text in result["skipped_lines"]:
        line(f"skipped {text}", "yellow")
    print_levels(result["levels"], n)
    if doubt := result["doubt"]:
        line(
            f"doubt (standard deviation of the worse of HOMO and LUMO): median {doubt['median_ev']:.3f} eV, "
            f"largest {doubt['largest_ev']:.3f} eV" + (f" (doubt_ev in {result['output']})" if result["output"] else "")
        )
    if doubtful := result["doubtful"]:
        line(
            f"not to be trusted, doubt above {doubt['above_ev']:g} eV: {len(doubtful):,} of {n:,} structures, "
            "unlike what the model learned from:",
            "yellow",
        )
        for x in doubtful[:NAMED]:
            name = f" ({x['name']})" if x["name"] else ""
            line(f"  structure {x['structure']}{name}: {x['doubt_ev']:.3f} eV", "yellow")
        if len(doubtful) > NAMED:
            line(f"  and {len(doubtful) - NAMED:,} more; all with --json FILE", "yellow")
    for folder, what in result["folders"].items():
        line(f"{folder}: {what}")
    skipped = f", {result['skipped']:,} skipped" if result["skipped"] else ""
    milliseconds = 1e3 * result["seconds"] / n
    what = result["output"] or "predicted"
    if shards := result.get("shards"):
        what = f"{shards[0]} and {len(shards) - 1:,} more" if len(shards) > 1 else shards[0]
    line(f"{what}: {n:,} structures{skipped}, {milliseconds:.1f} ms each on {result['device']}")
    if shards:
        files = f"{Path(result['output']).with_suffix('')}-*-of-{len(shards):05d}.h5"
        line(f"schnorb_t merge {files} -o {result['output']} joins them")
    if result["open"]:
        line(f"open {result['open']} in a browser")
    else:
        line("next: the same command with --html pages draws orbitals, levels and charges to look at")
