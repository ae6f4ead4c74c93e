"""Errors that a user caused and can mend: one line that names file, molecule and remedy, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the file, the molecule and the remedy."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``; a ``UserError`` becomes a message on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
