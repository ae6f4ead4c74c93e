"""A thin parser: a typed function becomes a command line, its docstring the help.

Parameters without default become positional arguments (a list takes one or more), the others options with dashes for
underscores; ``False`` becomes a switch. Keyword-only parameters without default are required options.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from schnorb_t.errors import UserError

#: Options that also have a short name.
SHORT = {"output": "-o", "number": "-n"}


#: What stands for a value of a type in the usage.
METAVARS = {Path: "PATH", str: "TEXT", int: "N", float: "X"}


#: jsonargparse's wording of a wrong value, and what is said instead.
WORDING = (
    (r"Not of type PositiveInt: (\S+) does not conform to restriction v>0", r"must be 1 or more, got \1"),
    (r"Not of type PositiveFloat: (\S+) does not conform to restriction v>0", r"must be above 0, got \1"),
    (r"Not of type \w+: ", ""),
    (r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number"),
    (r"could not convert string to float: (.*)", r"\1 is not a number"),
    (r"Expected a typing\.Literal\[(.*?)\]\. Got value: (\S+)", r"must be one of \1, got \2"),
    (r"Expected a <class 'float'>. Got value: (\S+)", r"\1 is not a number"),
    (r"Expected a <class 'int'>. Got value: (\S+)", r"\1 is not a whole number"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
)


class OneLineErrors(ArgumentParser):
    """A parser whose errors are one line that names the option as it is typed, and that suggests the nearest one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and leave with exit code 2."""
        print(f"error: {self._one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)

    def _one_line(self, message: str) -> str:
        message = re.sub(r'Parser key "([^"]*)"(?: element \d+)?:', lambda m: f"{self._option_of(m[1])}:", message)
        for pattern, words in WORDING:
            message = re.sub(pattern, words, message)
        unknown = re.search(r"[Uu]nrecognized arguments: (--?[^\s=]+)", message)
        if unknown and (near := difflib.get_close_matches(unknown[1], self._options(), 1, 0.7)):
            message += f"; did you mean {near[0]}?"
        return " ".join(message.split())

    def _options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def _option_of(self, key: str) -> str:
        for action in self._actions:
            if action.dest == key:
                return action.option_strings[-1] if action.option_strings else key
        return key


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of those there are.

    Raises:
        UserError: lists them.
    """
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(value, choices, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{option} {value}: must be one of {', '.join(choices)}{hint}")


def positive(text: str) -> int:
    """An argument that counts, for parsers of the standard library."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [t for t in get_args(hint) if t is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return hint


class CommandParser(OneLineErrors):
    """The parser of a command, with plain help."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=True, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)


def add_function(parser: ArgumentParser, function: Callable[..., Any]) -> None:
    """One argument for each parameter of a function, typed by its hints and explained by its docstring.

    Args:
        parser: gets them.
        function: with type hints that can be evaluated, and a docstring with ``Args``.
    """
    hints = get_type_hints(function)
    texts = {
        p.arg_name: " ".join((p.description or "").split()) for p in parse_docstring(function.__doc__ or "").params
    }
    for name, parameter in inspect.signature(function).parameters.items():
        hint, text = _without_none(hints[name]), texts.get(name, "").replace("%", "%%")
        required = parameter.default is inspect.Parameter.empty
        flag = f"--{name.replace('_', '-')}"
        if hint is bool and parameter.default is False:
            parser.add_argument(flag, action="store_true", help=text)
            continue
        options: dict[str, Any] = {"help": text, "type": hint}
        if get_origin(hint) is list:
            options.update(type=get_args(hint)[0], nargs="+")
        elif get_origin(hint) is tuple:
            options.update(type=get_args(hint)[0], nargs=len(get_args(hint)))
        if required and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            parser.add_argument(name, **options)
            continue
        if get_origin(hint) is not Literal:
            kind = options["type"]
            options["metavar"] = next((text for t, text in METAVARS.items() if issubclass(kind, t)), "VALUE")
        if required:
            options["required"] = True
        else:
            default = parameter.default
            options["default"] = list(default) if isinstance(default, tuple) else default
            if default not in (None, "", ()):
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                options["help"] = f"{text} (default: {shown})".strip()
        parser.add_argument(*([SHORT[name]] if name in SHORT else []), flag, **options)


def description_of(function: Callable[..., Any]) -> str:
    """A function's docstring up to its first section (``Args``, ``Returns``, ``Raises``)."""
    return re.split(r"\n(?:Args|Returns|Raises|Yields):\n", inspect.getdoc(function) or "", maxsplit=1)[0].strip()


def parse(function: Callable[..., Any], prog: str, argv: list[str]) -> dict[str, Any]:
    """Keyword arguments for a function from a command line.

    Besides the function's own: ``--json FILE`` and ``--quiet``, returned under ``json`` and ``quiet``.
    """
    return vars(parser_of(function, prog).parse_args(argv))


def parser_of(function: Callable[..., Any], prog: str) -> CommandParser:
    """The parser that ``parse`` uses."""
    parser = CommandParser(prog=prog, description=description_of(function))
    add_function(parser, function)
    text = "also write what is printed there, as JSON; - writes it to stdout, and nothing else"
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary; errors are told all the same")
    return parser
