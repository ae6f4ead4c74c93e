"""``python -m schnorb_t.ensemble``: the command ``schnorb_t ensemble``."""

from __future__ import annotations

from schnorb_t.commands import door, run


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments (default: the process's own).

    Raises:
        UserError: bad input.
    """
    run("ensemble", argv)


if __name__ == "__main__":
    door("ensemble")
