"""``python -m schnorb_t.ensemble A.ckpt B.ckpt -o BOTH.ckpt``: one model out of several that learned the same thing.

Its matrices are the members' mean; their spread comes with every prediction. Train the members from different starts
(``--seed_everything 1 --data.seed 1``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from schnorb_t.errors import UserError, run_command


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m schnorb_t.ensemble",
        description="Join models of the same basis and labels into one that predicts their mean.",
    )
    parser.add_argument("models", nargs="+", help="two or more checkpoints of schnorb_t.fit")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.ckpt")
    parser.add_argument("--force", action="store_true", help="overwrite OUT.ckpt")
    arguments = parser.parse_args(argv)

    from schnorb_t.nn.ensemble import EnsembleModel
    from schnorb_t.prediction_file import check_output
    from schnorb_t.training.checkpoint import KEY, ModelCard, find_model, load_single, read_checkpoint, write_checkpoint

    if len(arguments.models) < 2:
        raise UserError(f"{arguments.models[0]}: one model is no ensemble; give two or more")
    paths = [find_model(m) for m in arguments.models]
    output = check_output(arguments.output, paths, arguments.force)
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
    card = ModelCard({}, first.basis, first.level, first.target, tuple(groups), tuple(c.arguments for c in cards))
    configs = [read_checkpoint(path)[KEY].get("config", "") for path in paths]
    write_checkpoint(output, model, card, "\n---\n".join(configs))
    prior = ", one prior for all" if model.shares_prior else ""
    Console().print(
        f"{output}: {len(members)} members{prior}; {model.n_parameters():,} parameters",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main)
