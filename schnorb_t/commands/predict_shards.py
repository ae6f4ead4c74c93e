"""``schnorb_t predict ... --shards N``: predictions of very many structures in N files (``schnorb_t.shards``)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from schnorb_t.errors import Terminated, UserError

#: Failed shards that are named.
NAMED = 3


def predict_shards(
    model: str,
    structures: Path,
    output: Path,
    shards: int,
    *,
    skip_bad: bool,
    batch_size: int | None,
    device: str | None,
    workers: int | None,
    scheduler: str | None,
    doubt_above: float,
    force: bool,
    shown: int,
) -> dict[str, Any]:
    """What ``commands.predict.predict`` does with ``shards``; arguments and result as there.

    Raises:
        UserError: bad input, files of another run in the way, or shards that could not be made.
    """
    from schnorb_t.files import check_output
    from schnorb_t.predictor import choose_device
    from schnorb_t.progress import messages, progress_bar
    from schnorb_t.reference.pool import run_dask, run_processes
    from schnorb_t.shards import Job, Run, Summary, digest, remove_leftovers, tasks
    from schnorb_t.structures import StructureFile, check_structures
    from schnorb_t.training.checkpoint import find_model, load_model

    path = find_model(model)
    check_output(output, [path, structures], force=True)
    # workers of a cluster may have a GPU where this machine has none
    chosen = device if scheduler and device else str(choose_device(device))
    network, card = load_model(path)
    charges = card.charges if network.knows_charge else (0,)
    read = StructureFile(structures)
    sound, bad = check_structures(read, card.basis.elements, structures, skip_bad, charges)
    run = Run(digest(path), digest(structures), len(sound), shards, batch_size, chosen.split(":")[0])
    finished = []
    for number in range(shards):
        there = run.path(output, number)
        if not there.exists():
            continue
        if not (other := run.other(there)):
            finished.append(number)
        elif not force:
            raise UserError(
                f"{there}: belongs to another run ({other}); name another output, or write anew with --force"
            )
    left = sorted(set(range(shards)) - set(finished))
    if finished:
        messages().print(
            f"{output}: {len(finished)} of {shards} shards are there already", highlight=False, soft_wrap=True
        )
    named = str(path.absolute()) if Path(model).is_file() else model
    first = frozenset(sound[:shown])
    job = Job(run, named, str(structures), output.absolute(), chosen, first, doubt_above, tuple(bad))
    start = time.perf_counter()
    found: list[Summary] = [job.summary_of(number) for number in finished]
    failed: list[tuple[int, str]] = []
    work = tasks(run, read, sound, left)
    done: Iterable
    if scheduler:
        done = run_dask(job, work, scheduler)
    elif workers:
        done = run_processes(job, work, min(workers, len(left)))
    else:
        done = ((task, True, job(task)) for task in work)
    try:
        with progress_bar(len(sound), "predicting") as advance:
            advance(sum(x.count for x in found))
            for task, ok, value in done:
                if ok:
                    found.append(value)
                    advance(value.count)
                else:
                    failed.append((task.number, value))
        remove_leftovers(run, output)
    except KeyboardInterrupt as error:
        how = "terminated" if isinstance(error, Terminated) else "interrupted"
        raise type(error)(f"{how}; finished shards are safe, the same command continues") from None
    if failed:
        reasons = "; ".join(f"{run.path(output, number).name}: {reason}" for number, reason in sorted(failed)[:NAMED])
        raise UserError(f"{len(failed)} of {shards} shards failed ({reasons}); the same command tries them again")
    doubts = [float(x) for summary in found for x in summary.doubts]
    doubtful = sorted((x for summary in found for x in summary.doubtful), key=lambda x: -x[2])
    fields = ("structure", "formula", "name", "homo", "lumo", "gap", "spread", "doubt_ev")
    levels = sorted((x for summary in found for x in summary.first), key=lambda x: x[0])
    known = {"median_ev": median(doubts), "largest_ev": max(doubts), "above_ev": doubt_above} if doubts else None
    return {
        "output": str(output),
        "shards": [str(run.path(output, number)) for number in range(shards)],
        "structures": len(sound),
        "skipped": len(bad),
        "seconds": time.perf_counter() - start,
        "device": chosen,
        "levels": [dict(zip(fields, x, strict=True)) for x in levels],
        "doubt": known,
        "doubtful": [{"structure": index, "name": name, "doubt_ev": doubt} for index, name, doubt in doubtful],
        "skipped_lines": bad,
        "folders": {},
        "open": None,
    }
