"""``python -m schnorb_t.predict``: the command ``schnorb_t predict``."""

from __future__ import annotations

from schnorb_t.commands import door, run


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments (default: the process's own).

    Raises:
        UserError: bad input.
    """
    run("predict", argv)


if __name__ == "__main__":
    door("predict")
