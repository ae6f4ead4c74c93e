"""``python -m schnorb_t.export runs/.../best.ckpt -o model.ckpt``: a model without the state of its training.

A quarter of the size; predicts, evaluates and exports as before, but a training cannot be continued from it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.training.checkpoint import KEY, read_checkpoint


def export(source: str | Path, target: str | Path) -> None:
    """Write averaged weights and description of a checkpoint to a file of their own, whole or not at all.

    Raises:
        UserError: ``source`` is no checkpoint of this package, or ``target`` exists or cannot be written.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: exists; remove it or choose another name")
    content = read_checkpoint(source)
    weights = {name: value for name, value in content["state_dict"].items() if name.startswith("model.")}
    with atomic_write(target) as temporary:
        torch.save({"state_dict": weights, KEY: content[KEY]}, temporary)


def main(argv: list[str] | None = None) -> None:
    """Run the command ``schnorb_t export`` with these arguments (default: the process's own).

    Raises:
        UserError: bad input.
    """
    from schnorb_t.commands import run

    run("export", argv)


if __name__ == "__main__":
    from schnorb_t.commands import door

    door("export")
