"""What a user can do, one module per verb: ``schnorb_t VERB ...``, or the same function called from Python.

Each module has a function that takes plain values, works silently (progress goes to stderr) and returns a summary, and
``show``, which prints that summary. Nothing is imported before it is needed: ``schnorb_t --help`` is immediate.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from schnorb_t.errors import Terminated, UserError, run_command, system_fault


@dataclass(frozen=True)
class Command:
    """One verb.

    Attributes:
        module: in this package.
        function: of that module; its typed signature is the command line.
        summary: one line for ``schnorb_t --help``.
        interrupted: what stands after Ctrl-C, and how to go on.
        then: what to do next; names in braces are options, or entries of what the command returns.
    """

    module: str
    function: str
    summary: str
    interrupted: str = "nothing was written; start it again"
    then: str = ""

    def load(self) -> tuple[Callable[..., Any], Callable[[Any], None] | None]:
        """The function and ``show``, which prints what it returns."""
        module = import_module(f"{__name__}.{self.module}")
        return getattr(module, self.function), getattr(module, "show", None)


_LABELS = (
    "schnorb_t check {output} validates it; schnorb_t splits {output} divides it; "
    "schnorb_t fit --config sample --data.path {output} trains on it"
)
_STRUCTURES = "schnorb_t label {output} -o labels.h5 calculates labels for them"
_MODEL = "schnorb_t predict {output} molecules.xyz --html pages shows what it predicts"
_SEE = "schnorb_t predict {model} molecules.xyz --html pages shows what it predicts"
_FIT = "schnorb_t fit --config sample --data.path {file} trains on it"
_AGAIN = "the finished molecules are safe, the same command continues"

COMMANDS: dict[str, Command] = {
    "fit": Command(
        "fit",
        "main",
        "train a model by a configuration and test it",
        "the last epoch is safe: --ckpt_path runs/NAME/version_N/checkpoints/last.ckpt continues",
    ),
    "predict": Command("predict", "predict", "Hamiltonian, overlap and orbital energies of molecules"),
    "evaluate": Command("evaluate", "evaluate", "errors of a model on labelled molecules", then=_SEE),
    "md": Command(
        "md",
        "md",
        "molecular dynamics with a model of energies and forces, and its report",
        "the saved steps are safe, the same command continues",
        then="ase gui {output} plays it",
    ),
    "calibrate": Command("calibrate", "calibrate_model", "a trained model learns how sure its levels are", then=_MODEL),
    "geometries": Command(
        "geometries", "geometries", "relaxed and hot GFN2-xTB geometries from SMILES", _AGAIN, then=_STRUCTURES
    ),
    "select": Command("select", "select_molecules", "which molecules of a pool to label next", then=_STRUCTURES),
    "learn": Command(
        "learn",
        "learn",
        "select, label, train, judge: active learning until a budget or an accuracy",
        "all that is finished is safe, the same command continues",
        then=_SEE,
    ),
    "label": Command(
        "label", "label_files", "label structures by Kohn-Sham calculations with PySCF", _AGAIN, then=_LABELS
    ),
    "label-xtb": Command("label_xtb", "label_xtb", "label structures by GFN2-xTB", _AGAIN, then=_LABELS),
    "label-model": Command(
        "label_model", "label_model", "label structures by a trained model, for a cheaper one", _AGAIN, then=_LABELS
    ),
    "import-orca": Command(
        "import_orca", "import_orca", "results of ORCA into a store of checked matrices", then=_LABELS
    ),
    "import-energies": Command(
        "import_energies",
        "import_energies",
        "energies and forces from extended xyz or npz into a store",
        _AGAIN,
        then="schnorb_t fit --config forces --data.path {output} trains a model of energies and forces on it",
    ),
    "write-orca": Command(
        "write_orca",
        "write_orca",
        "inputs for ORCA that give what import-orca reads",
        then="run ORCA on them; schnorb_t import-orca {output} -o labels.h5 reads the results",
    ),
    "qm9": Command("qm9", "qm9", "QM9's published archive into extended xyz", then=_STRUCTURES),
    "project": Command("project", "project", "a store of full matrices into a minimal basis", _AGAIN, then=_LABELS),
    "convert": Command(
        "convert_labels", "convert_labels", "older files of full-basis QM9 labels into a store", _AGAIN, then=_LABELS
    ),
    "check": Command(
        "check",
        "check",
        "validate a store and print what it holds",
        then="schnorb_t splits {file} divides it, if that is not done; " + _FIT,
    ),
    "splits": Command("splits", "splits", "divide a store into training, validation and test", then=_FIT),
    "merge": Command("merge", "merge", "several stores of one kind into one", then=_LABELS),
    "fit-dftb": Command(
        "fit_dftb",
        "fit_dftb",
        "train the tables of a Slater-Koster set on labels",
        "the last epoch is safe, the same command continues",
        then="DFTB+ and schnorb_t.interfaces.ase.DFTB read {skf}",
    ),
    "subtract-dftb": Command(
        "subtract_dftb",
        "subtract_dftb",
        "energies and forces of a store less those of DFTB",
        _AGAIN,
        then="schnorb_t splits {output} divides it; schnorb_t fit --config nnrep --data.path {output} learns it",
    ),
    "export": Command("export", "export", "a model without the state of its training", then=_MODEL),
    "export-skf": Command(
        "export_skf",
        "export_skf",
        "Slater-Koster files of a model's two-centre functions",
        then="DFTB+ reads them: SlaterKosterFiles = Type2FileNames {{ Prefix = {output}/ }}, SCC = No",
    ),
    "ensemble": Command("ensemble", "ensemble", "join models of the same labels into one", then=_MODEL),
    "fit-contraction": Command("fit_contraction", "fit_contraction", "fit the way from a minimal to the large basis"),
    "sample": Command("sample", "sample", "the structures of the embedded sample", then=_STRUCTURES),
    "info": Command("info", "info", "versions, platform, threads, devices and the models that ship"),
    "completion": Command("completion", "completion", "a script by which a shell completes commands and options"),
    "selftest": Command(
        "selftest",
        "selftest",
        "whether this installation predicts and trains (half a minute)",
        then="schnorb_t predict organic molecules.xyz --html pages predicts your own molecules",
    ),
}


def run(name: str, argv: list[str] | None = None) -> None:
    """Parse the arguments of a command (default: the process's own), call its function, print what it returns.

    Raises:
        UserError: bad input.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its text tells what continues.
        SystemExit: ``--help`` (0), or arguments that cannot be parsed (2).
    """
    command = COMMANDS[name]
    argv = sys.argv[1:] if argv is None else argv
    try:
        function, show = command.load()
        if show is None:
            function(argv)
            return
        from schnorb_t.commands.parser import parse

        arguments = parse(function, f"schnorb_t {name}", argv)
        json: Path | None = arguments.pop("json")
        silent: bool = arguments.pop("quiet")
        to_stdout = json == Path("-")
        if json is not None and not to_stdout and not json.parent.is_dir():
            raise UserError(f"{json.parent}: no such folder; make it first")
        from schnorb_t.progress import quiet

        try:
            with quiet(silent):
                result = function(**arguments)
        except (OSError, RuntimeError) as error:
            if fault := system_fault(error, arguments.get("output")):
                raise UserError(fault) from error
            raise
        if json is not None:
            from schnorb_t.training.report import json_text, write_json

            summary = {key: value for key, value in result.items() if not key.startswith("_")}
            if to_stdout:
                print(json_text(summary))
            else:
                write_json(json, summary)
        if silent or to_stdout:
            with redirect_stdout(StringIO()):  # what it finds decides the exit code of some commands
                show(result)
            return
        show(result)
        if json is not None:
            print(f"numbers: {json}")
        known = {key: value for key, value in {**arguments, **result}.items() if value is not None}
        if command.then and set(re.findall(r"{(\w+)}", command.then)) <= set(known):
            print(f"next: {command.then.format(**known)}")
    except (KeyboardInterrupt, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # Lightning turns Ctrl-C into exit code 1
        if not isinstance(cause, KeyboardInterrupt):
            raise
        how = "terminated" if isinstance(cause, Terminated) else "interrupted"
        raise type(cause)(str(cause) or f"{how}; {command.interrupted}") from None


def overview() -> str:
    """The text of ``schnorb_t --help``: every command with one line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: schnorb_t COMMAND ...",
            "",
            "Hamiltonian and overlap matrices of molecules in a minimal basis.",
            "",
            *lines,
            "",
            "schnorb_t COMMAND --help explains one; schnorb_t --version tells the version.",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """``schnorb_t``, with ``sys.argv`` or these arguments.

    Raises:
        UserError: bad input.
        SystemExit: ``--help`` (0), or arguments that cannot be parsed (2).
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        if not argv:
            sys.exit(2)
        return
    name, *rest = argv
    if name == "--version":
        from schnorb_t import __version__

        print(f"schnorb_t {__version__}")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "schnorb_t --help lists all"
        raise UserError(f"{name}: no command of schnorb_t; {hint}")
    run(name, rest)


def console_script() -> None:
    """What the installed ``schnorb_t`` and ``python -m schnorb_t`` call: one line and exit code 2 for bad input."""
    run_command(main)


def door(name: str, argv: list[str] | None = None) -> None:
    """Run a command with ``sys.argv``: for scripts that stand for one command."""
    run_command(lambda: run(name, argv))
