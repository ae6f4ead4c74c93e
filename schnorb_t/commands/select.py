"""``schnorb_t select POOL MODEL -n 100 -o chosen.extxyz``: which molecules of a pool to label next."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from schnorb_t.errors import UserError

#: Molecules that are printed, the first chosen.
SHOWN = 10
#: Unsound molecules that are listed.
LISTED = 10


def select_molecules(
    pool: list[Path],
    model: str,
    *,
    output: Path,
    number: PositiveInt = 100,
    method: Literal["doubt", "fps", "cur", "fps-doubt", "cur-doubt", "random"] = "fps-doubt",
    labelled: Path | None = None,
    seed: NonNegativeInt = 0,
    skip_bad: bool = False,
    batch_size: PositiveInt | None = None,
    device: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Choose the molecules of a pool that a model has most to learn from.

        schnorb_t select pool.extxyz organic -n 100 --labelled labels.h5 -o chosen.extxyz
        schnorb_t label chosen.extxyz -o labels.h5 --target wqvo

    doubt takes what the model is least sure of, fps (farthest-point sampling) and cur what is least like the rest,
    fps-doubt and cur-doubt what is both, random whatever comes. fps and cur keep away from what is labelled already,
    and nothing in that store is chosen again. Where the pool has splits, only molecules of split train are chosen; no
    geometry of a molecule that is in val or test is.

    Args:
        pool: files with molecules (xyz, sdf, ...; any that ASE reads); names, groups and splits are kept
        model: checkpoint of ``schnorb_t fit``, or the name of a model that comes with the package
        output: extended xyz file of the chosen molecules, in the order of choice, with the model's doubt_ev
        number: how many to choose
        method: how
        labelled: store of what is labelled already
        seed: of random, and of the first molecule of fps where nothing is labelled
        skip_bad: leave out molecules that the model cannot treat
        batch_size: molecules at once (default: by their size)
        device: cpu, cuda, cuda:1, ... (default: cuda where there is one)
        force: overwrite the output

    Returns:
        ``output``, ``method``, ``chosen`` (dicts of name, formula, doubt_ev), counts ``pool`` and ``candidates``,
        ``left_out`` (reason -> count), ``bad`` (lines about molecules that the model cannot treat).

    Raises:
        UserError: no candidate, molecules that the model cannot treat (without ``skip_bad``), a model without doubt,
            scikit-matter missing.
    """
    from schnorb_t.active.methods import check_installed, needs
    from schnorb_t.active.selection import REASONS, Labelled, candidates, select, write_structures
    from schnorb_t.data.store import Store
    from schnorb_t.files import check_output
    from schnorb_t.predictor import load
    from schnorb_t.progress import progress_bar
    from schnorb_t.structures import read_for_labels, refuse_all
    from schnorb_t.training.checkpoint import find_model

    check_installed(method)
    output = check_output(output, [find_model(model), *pool, *([labelled] if labelled else [])], force)
    predictor = load(model, device)
    features, doubt = needs(method)
    if doubt and not predictor.knows_doubt:
        raise UserError(
            f"{model}: knows no doubt, which --method {method} needs; schnorb_t calibrate gives it one, "
            "or take fps, cur or random"
        )
    read = read_for_labels(pool)
    known = Labelled()
    if labelled:
        with Store(labelled) as store:
            known = Labelled.of(store)
    places, refused = candidates(read, known, predictor.basis.elements, predictor.charges)
    bad = [f"structure {k} ({read[k].name}): {why}" for k, why in refused.items() if why not in REASONS]
    if bad and not skip_bad:
        refuse_all(bad, len(read), pool[0], skippable=bool(places))
    total = len(places) * (features or doubt) + len(known.structures) * features
    with progress_bar(total, "looking", total > 0) as advance:
        chosen, _ = select(
            read,
            number,
            method=method,
            predictor=predictor,
            labelled=known,
            seed=seed,
            batch_size=batch_size,
            progress=advance,
        )
    told = [{} if math.isnan(c.doubt) else {"doubt_ev": round(c.doubt, 6)} for c in chosen]
    write_structures(output, [c.structure for c in chosen], told)
    counts = Counter(why if why in REASONS else REASONS[-1] for why in refused.values())
    return {
        "output": str(output),
        "method": method,
        "chosen": [
            {"name": c.structure.name, "formula": c.structure.formula, **t} for c, t in zip(chosen, told, strict=True)
        ],
        "pool": len(read),
        "candidates": len(places),
        "left_out": dict(counts),
        "bad": bad,
    }


def show(result: dict[str, Any]) -> None:
    """Print what was chosen from what, and the first of it."""
    chosen = result["chosen"]
    print(
        f"{result['output']}: {len(chosen):,} of {result['candidates']:,} candidates by {result['method']}; "
        f"{result['pool']:,} molecules in the pool"
    )
    for reason, count in result["left_out"].items():
        print(f"  left out: {count:,} {reason}")
    for line in result["bad"][:LISTED]:
        print(f"    {line}")
    for entry in chosen[:SHOWN]:
        doubt = f", doubt {entry['doubt_ev']:.2f} eV" if "doubt_ev" in entry else ""
        print(f"  {entry['name']}: {entry['formula']}{doubt}")
    if len(chosen) > SHOWN:
        print(f"  and {len(chosen) - SHOWN:,} more")
