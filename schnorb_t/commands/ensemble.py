"""``schnorb_t ensemble A.ckpt B.ckpt -o BOTH.ckpt``: one model out of several that learned the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError


def ensemble(models: list[str], *, output: Path, force: bool = False) -> dict[str, Any]:
    """Join models of the same basis and labels into one that predicts their mean.

    Their spread comes with every prediction. Train the members from different starts
    (``--seed_everything 1 --data.seed 1``).

    Args:
        models: two or more checkpoints of ``schnorb_t fit``
        output: checkpoint to write
        force: overwrite the output

    Returns:
        ``output``, ``members`` and ``parameters`` (counts), ``shares_prior``.

    Raises:
        UserError: fewer than two, or models that did not learn the same thing.
    """
    from schnorb_t.files import check_output
    from schnorb_t.nn.ensemble import EnsembleModel
    from schnorb_t.training.checkpoint import KEY, ModelCard, find_model, load_single, read_checkpoint, write_checkpoint

    if len(models) < 2:
        raise UserError(f"{models[0]}: one model is no ensemble; give two or more")
    paths = [find_model(m) for m in models]
    output = check_output(output, paths, force)
    members, cards = zip(*map(load_single, paths), strict=True)
    for path, card in zip(paths[1:], cards[1:], strict=True):
        for name in ("basis", "level", "target"):
            if getattr(card, name) != getattr(cards[0], name):
                raise UserError(f"{path}: its {name} is not that of {paths[0]}; members learn the same thing")
    try:
        model = EnsembleModel(members)
    except ValueError as error:
        raise UserError(f"{', '.join(map(str, paths))}: {error}") from None
    groups = sorted({group for card in cards for group in card.training_groups})
    first = cards[0]
    charges = tuple(sorted({*first.charges}.intersection(*(c.charges for c in cards[1:]))))
    card = ModelCard(
        {}, first.basis, first.level, first.target, tuple(groups), tuple(c.arguments for c in cards), charges=charges
    )
    configs = [read_checkpoint(path)[KEY].get("config", "") for path in paths]
    write_checkpoint(output, model, card, "\n---\n".join(configs))
    return {
        "output": str(output),
        "members": len(members),
        "parameters": model.n_parameters(),
        "shares_prior": bool(model.shares_prior),
    }


def show(result: dict[str, Any]) -> None:
    """Print what ``ensemble`` returned."""
    prior = ", one prior for all" if result["shares_prior"] else ""
    print(f"{result['output']}: {result['members']} members{prior}; {result['parameters']:,} parameters")
