"""``python -m schnorb_t.evaluate``: the command ``schnorb_t evaluate``."""

from __future__ import annotations

from schnorb_t.commands import door, run


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments (default: the process's own).

    Raises:
        UserError: bad input.
    """
    run("evaluate", argv)


if __name__ == "__main__":
    door("evaluate")
