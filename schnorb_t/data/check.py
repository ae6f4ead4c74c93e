"""``python -m schnorb_t.data.check FILE``: the command ``schnorb_t check``."""

from __future__ import annotations

from .validation import Report, check

__all__ = ["Report", "check", "main"]


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments (default: the process's own).

    Raises:
        UserError: bad input, or something in the file would poison training.
    """
    from schnorb_t.commands import run  # a door stands on the ground floor and leads to the top one

    run("check", argv)


if __name__ == "__main__":
    from schnorb_t.commands import door

    door("check")
