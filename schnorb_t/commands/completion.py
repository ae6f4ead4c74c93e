"""``schnorb_t completion SHELL``: a script by which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from schnorb_t.errors import UserError


def _copy(source: argparse.ArgumentParser, target: argparse.ArgumentParser, file: Any) -> None:
    """The options and arguments of a parser as plain ones: names, choices and whether a file is meant."""
    for action in source._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        switch = action.nargs == 0
        options: dict[str, Any] = {"help": (action.help or "").replace("%", "%%").split("\n")[0]}
        options |= {"action": "store_true"} if switch else {"choices": action.choices, "nargs": action.nargs}
        if action.option_strings:
            added = target.add_argument(*action.option_strings, dest=action.dest.replace(".", "_"), **options)
        elif action.dest != argparse.SUPPRESS:
            added = target.add_argument(action.dest.replace(".", "_"), **options)
        else:
            continue
        if not switch and not action.choices:
            added.complete = file  # type: ignore[attr-defined]  # shtab's way to say it


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> dict[str, Any]:
    """Print a script that makes a shell complete what follows ``schnorb_t``.

    For bash: ``schnorb_t completion bash > ~/.local/share/bash-completion/completions/schnorb_t``. It knows the
    commands and options of this version; make it again after an update.

    Args:
        shell: bash, zsh or tcsh

    Returns:
        ``script``.

    Raises:
        UserError: shtab, which writes such scripts, is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs shtab: pip install schnorb_t[completion]") from None
    from schnorb_t.commands import COMMANDS
    from schnorb_t.commands.parser import parser_of
    from schnorb_t.training.configuration import make_parser

    parser = argparse.ArgumentParser(prog="schnorb_t")
    parser.add_argument("--version", action="store_true")
    verbs = parser.add_subparsers(dest="command")
    for name, command in COMMANDS.items():
        function, show = command.load()
        own = make_parser("schnorb_t fit", "") if show is None else parser_of(function, f"schnorb_t {name}")
        _copy(own, verbs.add_parser(name, help=command.summary), shtab.FILE)
    return {"script": shtab.complete(parser, shell)}


def show(result: dict[str, Any]) -> None:
    """Print what ``completion`` returned."""
    print(result["script"])
