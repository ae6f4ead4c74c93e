"""The configuration of a training: which keys there are, of which types, and what they mean.

The sections are the arguments of the classes that they configure, so that every key has the type and the words of that
class: ``data``, ``model``, ``model.network``, ``trainer``, ``checkpoint``, ``early_stopping``, ``ema``.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as L
import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.callbacks import EarlyStopping

from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.errors import ConfigurationError, UserError, brief
from schnorb_t.nn.base import network
from schnorb_t.physics.occupations import Smearing
from schnorb_t.training.callbacks import RunCheckpoint
from schnorb_t.training.ema import ExponentialMovingAverage
from schnorb_t.training.losses import Output
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.modules import module_of
from schnorb_t.training.networks import DEFAULT

#: The package's own configurations: beside the code where it is installed, beside the package in its repository.
CONFIGURATIONS = [folder / "configs" for folder in list(Path(__file__).parents)[1:3]]
#: What the sections of a configuration are.
_SECTIONS = {
    "data": "labelled molecules, their split and their batches",
    "model": "what is learned, by which network and at which rate",
    "model.network": "the network; which keys there are depends on model.architecture",
    "trainer": "of PyTorch Lightning",
    "checkpoint": "which checkpoints are kept",
    "early_stopping": "when training ends before its last epoch",
    "ema": "the moving average of the weights, which is what a checkpoint holds",
}
#: Helps that say nothing.
_EMPTY = (argparse.SUPPRESS, "Path to a configuration file.")
#: Keys that configurations written by earlier versions have, always null.
_FORMER = ("optimizer", "lr_scheduler")


class ConfigurationParser(ArgumentParser):
    """A parser whose errors are ``ConfigurationError``s of one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the configuration.

        Raises:
            ConfigurationError: always.
        """
        text = one_line(message)
        if unknown := _unknown_key(text):
            options = [name.lstrip("-") for action in self._actions for name in action.option_strings]
            if near := difflib.get_close_matches(unknown, options, 1, 0.6):
                text += f"; did you mean {near[0]}?"
        raise ConfigurationError(f"configuration: {text} (--print_config shows all keys)") from None


def _unknown_key(text: str) -> str:
    """The key that a message of jsonargparse calls unknown, ``""`` if it says something else."""
    if found := re.search(r"nrecognized arguments: --?([^\s=]+)|Option '([^']+)' is not accepted", text):
        return found[1] or found[2]
    found = re.search(r"Group '([^']+)' does not accept option '([^']+)'", text)
    return f"{found[1]}.{found[2]}" if found else ""


class _UniqueLoader(yaml.SafeLoader):
    """YAML in which no key stands twice: of two the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                text = f"{key.value} stands twice, in lines {seen[key.value]} and {line}"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            if isinstance(key.value, str):
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def read_configuration(path: str | os.PathLike) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        ConfigurationError: not readable, no text, no YAML, empty, or a section that is none; names file and line.
    """
    where = f"configuration {os.fspath(path)}"
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        tree = yaml.load(text, _UniqueLoader)  # a SafeLoader
        json.dumps(tree, default=str)  # refuses what holds itself
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where}: is no text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{where}: cannot be read ({brief(error)})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        what = "a tab stands where YAML wants spaces" if line.startswith("\t") else error.problem
        raise ConfigurationError(f"{where}, line {mark.line + 1 if mark else '?'}: no valid YAML: {what}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: no valid YAML: {one_line(str(error))}") from None
    if not isinstance(tree, dict) or not tree:
        what = "is empty" if not tree else "holds no keys with values"
        raise ConfigurationError(f"{where}: {what}; schnorb_t fit --print_config shows one")
    if odd := [key for key in tree if not isinstance(key, str)]:
        raise ConfigurationError(f"{where}: the key {odd[0]!r} is no word")
    _check_sections(tree, where)
    return tree


def _check_sections(tree: Mapping[str, Any], where: str) -> None:
    for section in _SECTIONS:
        part: Any = tree
        for name in section.split("."):
            part = part.get(name, {}) if isinstance(part, Mapping) else {}
        if not isinstance(part, Mapping | Namespace):
            raise ConfigurationError(f"{where}: {section} is a section: give keys below it, not {part!r}")


def one_line(message: str) -> str:
    """jsonargparse's explanation of a wrong value, in short."""
    text = " ".join(str(message).split())
    text = re.sub(r'Parser key "([^"]*)"', r"\1", text)
    text = re.sub(r"Does not validate against any of the Union subtypes.*Given value: (.*)$", r"cannot be \1", text)
    return text if len(text) <= 400 else f"{text[:397]}..."


def read_mapping(path: Path, named: object, what: str, see: str) -> dict[str, Any]:
    """A YAML file that must hold keys.

    Args:
        path: of the file.
        named: what messages call it.
        what: whose configuration it should be, for the message where it is none.
        see: remedy at the end of every message.

    Raises:
        UserError: it cannot be read, is no YAML, or holds no keys.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{named}: cannot be read ({error.strerror}); {see}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{named}: no YAML ({one_line(str(error))}); {see}") from None
    if not isinstance(content, dict):
        raise UserError(f"{named}: no configuration of {what}; {see}")
    return content


def shipped_configurations() -> dict[str, Path]:
    """Configurations of trainings that come with the package, by name: ``sample``, ``qm9``, ...

    Those of other commands (``learn``) have no section ``data`` and are left out.
    """
    folder = next((folder for folder in CONFIGURATIONS if (folder / "sample.yaml").is_file()), None)
    found = sorted(folder.glob("*.yaml")) if folder else []
    return {path.stem: path for path in found if re.search(r"^data:\s*(#.*)?$", path.read_text(encoding="utf-8"), re.M)}


def find_configuration(config: str | os.PathLike) -> str:
    """A configuration's path from itself, or from the name of one that comes with the package.

    Raises:
        ConfigurationError: no such file and no such name; lists those there are.
    """
    text = os.fspath(config)
    if os.path.exists(text):
        return text
    shipped = shipped_configurations()
    if text in shipped:
        return str(shipped[text])
    if Path(text).name == text and not Path(text).suffix:
        raise ConfigurationError(
            f"configuration {text}: no such file; the package has {', '.join(shipped)}; or give the path of one"
        )
    same = Path(text).stem in shipped
    hint = f"; --config {Path(text).stem} is the one that comes with the package" if same else ""
    raise ConfigurationError(f"configuration {text}: no such file{hint}")


def _readable(path: str) -> str:
    read_configuration(path)
    return path


def _with_found_configurations(argv: Sequence[str]) -> list[str]:
    """Arguments in which every ``--config NAME`` is a path."""
    out = list(argv)
    for k, word in enumerate(out):
        option, equals, value = word.partition("=")
        if option not in ("-c", "--config"):
            continue
        if equals:
            out[k] = f"{option}={_readable(find_configuration(value))}"
        elif k + 1 < len(out):
            out[k + 1] = _readable(find_configuration(out[k + 1]))
    return out


def asked_architecture(config: str | os.PathLike | Mapping[str, Any] | Sequence[str]) -> str:
    """``model.architecture`` of a configuration that is not parsed yet, which tells the keys of ``model.network``."""
    if isinstance(config, Mapping):
        if isinstance(config.get("config"), str | os.PathLike):
            below = asked_architecture(config["config"])
        else:
            below = DEFAULT
        model = config.get("model")
        nested = model.get("architecture") if isinstance(model, Mapping) else None
        return str(config.get("model.architecture", nested) or below)
    if isinstance(config, str | os.PathLike):
        try:
            tree = yaml.safe_load(Path(find_configuration(config)).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return DEFAULT  # parsing will tell
        return asked_architecture(tree) if isinstance(tree, dict) else DEFAULT
    found, words = DEFAULT, iter(config)
    for word in words:
        option, has_value, value = word.partition("=")
        if option in ("--model.architecture", "--config", "-c"):
            value = value if has_value else next(words, "")
            found = value if option == "--model.architecture" else asked_architecture(value)
    return found


def make_parser(
    prog: str | None = None, description: str | None = None, architecture: str = DEFAULT
) -> ConfigurationParser:
    """The parser of configurations: of a command line, of YAML, of a dict.

    Args:
        prog, description: for its help.
        architecture: whose arguments stand under ``model.network``.

    Raises:
        ConfigurationError: unknown architecture.
    """
    try:
        kind = network(architecture)
    except ValueError as error:
        raise ConfigurationError(f"model.architecture: {error}") from None
    parser = ConfigurationParser(
        prog=prog,
        description=description,
        parser_mode="yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="config", help="configuration in YAML, or the name of one that ships")
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration, all keys with their meaning, and stop"
    )
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="of weights and of everything random; true: a random one"
    )
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to go on from")
    parser.add_argument("--name", type=str, default="fit", help="runs/NAME/version_N holds what this run leaves")
    parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads per process; the tensors are too small to share out"
    )
    parser.add_class_arguments(MatrixDataModule, "data", instantiate=False, sub_configs=True)
    module = module_of(architecture)
    parser.add_class_arguments(
        module, "model", skip={"basis", "cutoff", "network"}, instantiate=False, sub_configs=True
    )
    parser.add_class_arguments(
        kind,
        "model.network",
        skip={"basis", "cutoff", "prior", "constants", "density"},
        instantiate=False,
        sub_configs=True,
    )
    if "prior" in kind.defaults():
        parser.add_argument(
            "--model.network.prior",
            type=str | None,
            default=None,
            help="checkpoint, or name of a model of the package, of a cheaper method, whose electronic structure the "
            "network takes as input; becomes part of the model",
        )
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False, fail_untyped=False, sub_configs=True)
    for key, kind in (
        ("checkpoint", RunCheckpoint),
        ("early_stopping", EarlyStopping),
        ("ema", ExponentialMovingAverage),
    ):
        parser.add_class_arguments(kind, key, instantiate=False, fail_untyped=False, sub_configs=True)
    for key in _FORMER:
        parser.add_argument(f"--{key}", type=str | None, default=None, help=argparse.SUPPRESS)
    parser.set_defaults(
        {
            "checkpoint.monitor": "val/loss",
            "checkpoint.filename": "best",
            "checkpoint.enable_version_counter": False,
            "early_stopping.monitor": "val/loss",
            "early_stopping.patience": 1000,
            "trainer.use_distributed_sampler": False,  # the size-bucketed sampler shares out the batches itself
            "trainer.num_sanity_val_steps": 0,
            "model.outputs": [asdict(output) for output in module.DEFAULT_OUTPUTS],
        }
    )
    return parser


def parse_configuration(
    config: str | os.PathLike | Mapping[str, Any] | Sequence[str], parser: ConfigurationParser | None = None
) -> Namespace:
    """A checked configuration with all defaults.

    Args:
        config: a YAML file, or the name of one that comes with the package; its content as a dict, nested or with
            dotted keys (``{"data.batch_size": 8}``); or the arguments of a command line (``["--config",
            "configs/qm9.yaml", "--data.batch_size", "8"]``).
        parser: to use instead of a new one.

    Raises:
        ConfigurationError: an unknown key, or a value of the wrong type.
    """
    parser = parser or make_parser(architecture=asked_architecture(config))
    if isinstance(config, str | os.PathLike):
        config = ["--config", os.fspath(config)]
    if isinstance(config, Mapping):
        tree: dict[str, Any] = {}
        for key, value in config.items():
            if key == "config":
                tree = _merged(read_configuration(find_configuration(value)), tree)
                continue
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = _merged(tree, value)
        found = parser.parse_object(tree)
    else:
        found = parser.parse_args(_with_found_configurations(config))
    for section in _SECTIONS:
        if not isinstance(found.get(section), Namespace):
            raise ConfigurationError(
                f"configuration: {section} is a section: give keys below it, not {found[section]!r}"
            )
    if found.pop("print_config"):
        print(explained(found, parser), end="")
        sys.exit(0)
    return found


def explained(config: Namespace, parser: ConfigurationParser) -> str:
    """A configuration as YAML, above every key a comment that tells what it means."""
    meaning = {a.dest: a.help for a in parser._actions if a.help and a.help not in _EMPTY}
    meaning |= {f"model.outputs.{k}": text for k, text in _documented(Output).items()}
    meaning |= _SECTIONS | {"model.smearing": _documented(MatrixModule)["smearing"]}
    meaning |= {f"model.smearing.{k}": text for k, text in _documented(Smearing).items()}
    lines: list[str] = []

    def say(key: str, depth: int) -> None:
        text = " ".join((meaning.get(key) or "").split())
        text = re.sub(r" ?\((?:required, )?type: .*\)$", "", text)
        if text:
            indent = "  " * depth
            lines.extend(textwrap.wrap(text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   "))

    def write(tree: Mapping[str, Any], prefix: str, depth: int) -> None:
        for name, value in tree.items():
            key, indent = f"{prefix}{name}", "  " * depth
            say(key, depth)
            if isinstance(value, Mapping) and value:
                lines.append(f"{indent}{name}:")
                write(value, f"{key}.", depth + 1)
            elif key == "model.outputs" and value:
                lines.append(f"{indent}{name}:")
                for k, text in _documented(Output).items():
                    lines.extend(
                        textwrap.wrap(
                            f"{k}: {text}", 118, initial_indent=f"{indent}  # ", subsequent_indent=f"{indent}  #   "
                        )
                    )
                lines.extend(f"{indent}- {_flow(item)}" for item in value)
            else:
                lines.append(f"{indent}{name}: {_flow(value)}")

    tree = yaml.safe_load(parser.dump(config, skip_none=False))
    write({name: value for name, value in tree.items() if name not in _FORMER}, "", 0)
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).strip()
    return text.removesuffix("...").strip()


def _documented(kind: type) -> dict[str, str]:
    """Attribute -> its description in the docstring of a class."""
    doc = parse_docstring(inspect.getdoc(kind) or "")
    return {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}


def _merged(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out
