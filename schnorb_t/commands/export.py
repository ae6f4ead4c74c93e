"""``schnorb_t export runs/.../best.ckpt -o model.ckpt``: a model without the state of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def export(model: str, *, output: Path) -> dict[str, Any]:
    """Write a model without the state of its training.

    A quarter of the size; predicts, evaluates and exports as before, but a training cannot be continued from it.

    Args:
        model: checkpoint of ``schnorb_t fit``
        output: checkpoint to write

    Returns:
        ``output`` and ``bytes``.

    Raises:
        UserError: no such checkpoint, or the output exists.
    """
    from schnorb_t.export import export as write
    from schnorb_t.files import check_output
    from schnorb_t.training.checkpoint import find_model

    source = find_model(model)
    check_output(output, [source], force=False)
    write(source, output)
    return {"output": str(output), "bytes": output.stat().st_size}


def show(result: dict[str, Any]) -> None:
    """Print what ``export`` returned."""
    print(f"{result['output']}: {result['bytes'] / 1e6:.1f} MB")
