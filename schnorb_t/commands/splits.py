"""``schnorb_t splits FILE``: divide a store into training, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from schnorb_t.errors import UserError


def splits(
    file: Path,
    *,
    by: Literal["group", "size", "scaffold"] = "group",
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    largest_in_training: int | None = None,
    val_fraction: float = 0.1,
) -> dict[str, Any]:
    """Divide a file into training, validation and test.

    Args:
        file: the store
        by: group: at random, all geometries of a molecule together; size: large molecules test; scaffold: ring systems
            stay together (the groups must be SMILES; needs RDKit)
        fractions: of the groups in training, validation, test
        seed: another seed, another division
        largest_in_training: most heavy atoms of a training molecule, with --by size
        val_fraction: of the small molecules, with --by size

    Returns:
        ``file``, ``by``, ``seed``, and per split ``molecules``, ``groups`` and ``heavy_atoms`` (least, most).

    Raises:
        UserError: no molecules, or a division that leaves a split empty.
    """
    import numpy as np

    from schnorb_t.data.reader import Store
    from schnorb_t.data.records import SPLITS
    from schnorb_t.data.splits import link_duplicates, split_by_group, split_by_scaffold, split_by_size
    from schnorb_t.data.writer import set_splits

    if by == "size" and largest_in_training is None:
        raise UserError("--by size needs --largest-in-training N, the most heavy atoms of a training molecule")
    with Store(file) as store:
        names = store.names.tolist()
        n_heavy = np.array([int((store.atomic_numbers_of(i) > 1).sum()) for i in range(len(store))])
        groups = link_duplicates(store, store.groups.tolist())
    if not names:
        raise UserError(f"{file}: holds no molecule")
    if largest_in_training is not None and by == "size":
        chosen = split_by_size(n_heavy, groups, largest_in_training, val_fraction, seed)
    elif by == "scaffold":
        chosen = split_by_scaffold(groups, fractions, seed)
    else:
        chosen = split_by_group(groups, fractions, seed)
    set_splits(file, dict(zip(names, chosen.tolist(), strict=True)))
    counts = {}
    for split in SPLITS:
        rows = chosen == split
        if rows.any():
            counts[split] = {
                "molecules": int(rows.sum()),
                "groups": len(np.unique(groups[rows])),
                "heavy_atoms": [int(n_heavy[rows].min()), int(n_heavy[rows].max())],
            }
    return {"file": str(file), "by": by, "seed": seed, "splits": counts}


def show(result: dict[str, Any]) -> None:
    """Print what ``splits`` returned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="{file}, by {by}, seed {seed}".format(**result))
    for heading in ("split", "molecules", "groups", "heavy atoms, min / max"):
        table.add_column(heading)
    for split, counts in result["splits"].items():
        least, most = counts["heavy_atoms"]
        table.add_row(split, f"{counts['molecules']:,}", f"{counts['groups']:,}", f"{least} / {most}")
    Console().print(table)
