"""``python -m schnorb_t.export runs/.../best.ckpt -o model.ckpt``: a model without the state of its training.

A quarter of the size; predicts, evaluates and exports as before, but a training cannot be continued from it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from schnorb_t.errors import UserError, run_command
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="checkpoint that schnorb_t.fit wrote")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    export(arguments.model, arguments.output)
    print(f"{arguments.output}: {os.path.getsize(arguments.output) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
