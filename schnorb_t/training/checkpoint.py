"""Checkpoints: everything a model needs to be built again, loadable without executing pickled code.

A checkpoint is Lightning's file with one more entry, ``"schnorb_t"``: format version, basis, the model's arguments and
the level of theory it learned. ``state_dict`` holds the averaged weights (see ``training.ema``).
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write, wrong_file
from schnorb_t.nn.base import MatrixNetwork, Network
from schnorb_t.nn.ensemble import EnsembleModel
from schnorb_t.training.networks import DEFAULT, build_network

#: Raised whenever an old file would be read wrongly; ``_MIGRATIONS[n]`` turns an entry of format n into n + 1.
FORMAT = 4


def _without_long_range(entry: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """1 -> 2: models of format 1 have no electrostatics and no chains, which models have by default since."""
    absent = {"charge_channels": 0, "chain_channels": 0}
    return {**entry, "format": 2, "arguments": {**absent, **entry["arguments"]}}


def _without_members(entry: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """2 -> 3: no ensembles before."""
    return {**entry, "format": 3, "members": []}


def _without_envelope(entry: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """3 -> 4: blocks of pairs ended at the cutoff with a step; such a model goes on doing so."""

    def stepped(arguments: dict[str, Any]) -> dict[str, Any]:
        prior = arguments.get("prior")
        if isinstance(prior, dict):
            prior = {**prior, "arguments": stepped(prior["arguments"])}
        return {**arguments, "envelope": 0.0, **({"prior": prior} if prior else {})}

    arguments = stepped(entry["arguments"]) if entry["arguments"] else {}
    return {**entry, "format": 4, "arguments": arguments, "members": [stepped(m) for m in entry["members"]]}


#: Constants (``nn.constants``) of all models whose checkpoints do not name them.
_UNNAMED_CONSTANTS = {
    "limit_atoms": [4.0, 8.0],
    "limit_pairs": [16.0, 32.0],
    "cutoff_power": 6,
    "filter_channels": 16,
    "product_l_max": 2,
    "neighbours": 10.0,
    "triangle_l_max": 2,
    "charge_widths": [0.8, 3.0],
    "response_potential": 20.0,
    "response_field": 40.0,
    "charge_per_electrons": 8.0,
    "charge_least_share": 1e-3,
    "two_centre_shortest": 0.7,
    "two_centre_width": 1.3,
    "two_centre_decay": 1.0,
    "two_centre_ridge": 1e-4,
    "scale_floor": 1e-5,
    "overlap_scale_floor": 1e-6,
    "scale_bins": 24,
    "scale_bin_width": 0.5,
    "scale_steepest": 3.0,
    "scale_spread": 0.1,
    "overlap_step": 0.02,
    "shrink": [0.9, 0.995],
    "shrink_orthogonal": [0.98, 0.999],
    "prior_temperature": 300.0,
    "prior_widths": [0.8, 1.5, 3.0],
    "prior_ranges": [1.0, 2.0],
    "prior_softening": 1e-6,
    "prior_narrowest": 1e-3,
    "prior_limit": 8.0,
}


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with all constants, those of the prior too."""
    out = {**arguments, "constants": {**_UNNAMED_CONSTANTS, **(arguments.get("constants") or {})}}
    if isinstance(prior := arguments.get("prior"), dict):
        out["prior"] = {**prior, "arguments": _named(prior["arguments"])}
    return out


_MIGRATIONS: dict[int, Any] = {1: _without_long_range, 2: _without_members, 3: _without_envelope}
KEY = "schnorb_t"
#: What is said where something else than a model is given.
GIVE = "give the .ckpt file that schnorb_t fit wrote (runs/*/version_*/checkpoints/best.ckpt)"
#: Models that come with the package.
MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of its model.

    Attributes:
        arguments: of the network besides the basis.
        basis: shells and functions of the elements it knows.
        level: level of theory of the labels.
        target: ``"wqao"``, ``"full"``, ...
        training_groups: identities of the molecules in training or validation (``group`` in the store).
        network: name of the architecture (``nn.base``).
        charges: total charges (e) of the molecules in training, ascending.
        members: of an ensemble, the arguments of each network; ``arguments`` is empty then.
    """

    arguments: dict[str, Any]
    basis: Basis
    level: dict[str, Any]
    target: str
    training_groups: tuple[str, ...] = ()
    members: tuple[dict[str, Any], ...] = ()
    network: str = DEFAULT
    charges: tuple[int, ...] = (0,)

    @property
    def method(self) -> str:
        """Level of theory in short: ``B3LYP/def2-SVP``, or the name of a semi-empirical method."""
        functional, basis = (str(self.level.get(key, "")) for key in ("functional", "basis"))
        return functional if not basis or " " in basis else f"{functional}/{basis}" if functional else basis

    def to_entry(self) -> dict[str, Any]:
        """What a checkpoint holds of it under ``KEY``, without the configuration."""
        return {
            "format": FORMAT,
            "network": self.network,
            "basis": self.basis.to_json(),
            "arguments": self.arguments,
            "level": self.level,
            "target": self.target,
            "training_groups": list(self.training_groups),
            "members": list(self.members),
            "charges": list(self.charges),
        }


def find_model(model: str | Path) -> Path:
    """A checkpoint's path from itself, or from the name of a model that comes with the package.

    Raises:
        UserError: an unknown name; lists those there are.
    """
    path = Path(model)
    if path.is_file():
        return path
    shipped = MODELS / f"{model}.ckpt"
    if path.name == str(model) and shipped.is_file():
        return shipped
    if path.suffix == ".ckpt" and (MODELS / path.name).is_file() and not path.exists():
        raise UserError(f"{path}: no such file; the model that comes with the package is called {path.stem}")
    if path.suffix == ".ckpt" or path.name != str(model) or path.exists():
        return path  # reading it tells what is wrong
    names = sorted(p.stem for p in MODELS.glob("*.ckpt"))
    there = f"the package has {', '.join(names)}" if names else "the package comes without models"
    raise UserError(f"no model {str(model)!r}; {there}; or give the path of a .ckpt file that schnorb_t fit wrote")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; no code in it is run.

    Raises:
        UserError: not there, not a checkpoint of this package, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        there = sorted(path.rglob("*.ckpt"), key=lambda p: (p.name != "best.ckpt", p))[:3] if path.is_dir() else []
        if path.is_dir():
            found = f"give a .ckpt file in it: {', '.join(map(str, there))}" if there else GIVE
            raise UserError(f"{path}: is a folder; {found}")
        raise UserError(f"{path}: no such model; {GIVE}")
    wrong = wrong_file(path, GIVE)
    if "zip archive" not in wrong:  # as all checkpoints are
        wrong = wrong or f"its first bytes are those of something else; {GIVE}"
        raise UserError(f"{path}: not a readable checkpoint: {wrong}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        objects = "it holds objects of Python, which could run anything and are not opened"
        raise UserError(f"{path}: not a readable checkpoint: {objects}; {GIVE}") from None
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error):
        damage = "it is damaged, or was not copied whole; copy it again"
        raise UserError(f"{path}: not a readable checkpoint: {damage}") from None
    if not isinstance(content, dict) or KEY not in content:
        raise UserError(f"{path}: no model of schnorb_t in this file; give a .ckpt file that schnorb_t fit wrote")
    try:
        entry = content[KEY]
        if entry["format"] > FORMAT:
            raise UserError(f"{path}: format {entry['format']} is newer than this package's {FORMAT}; update schnorb_t")
        while entry["format"] < FORMAT:
            entry = _MIGRATIONS[entry["format"]](entry, content["state_dict"])
        arguments = entry["arguments"] if entry["members"] else _named(entry["arguments"])
        content[KEY] = {"network": DEFAULT} | entry
        content[KEY] |= {"arguments": arguments, "members": [_named(m) for m in entry["members"]]}
        for part in ("basis", "level", "target", "training_groups"):
            entry[part]
        content["state_dict"].items()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: what it says of its model is damaged ({error}); copy it again, or {GIVE}") from None
    return content


def load_network(path: str | Path) -> tuple[Network, ModelCard]:
    """Model of any kind (in eval mode, averaged weights, CPU) and card from a checkpoint.

    Raises:
        UserError: see ``read_checkpoint``.
    """
    content = read_checkpoint(path)
    entry = content[KEY]
    card = ModelCard(
        entry["arguments"],
        Basis.from_json(entry["basis"]),
        entry["level"],
        entry["target"],
        tuple(entry["training_groups"]),
        tuple(entry["members"]),
        entry["network"],
        tuple(entry.get("charges", (0,))),
    )

    def built(arguments: dict[str, Any], prefix: str) -> Network:
        try:
            model = build_network(card.network, card.basis, arguments)
        except ValueError as error:
            raise UserError(f"{path}: {error}; was it written by a newer version? Update schnorb_t") from None
        weights = {k[len(prefix) :]: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path}: the weights do not fit the model described beside them: {error}") from None
        return model

    model: Network
    if card.members:
        model = EnsembleModel([built(a, f"model.members.{k}.") for k, a in enumerate(card.members)])
    else:
        model = built(card.arguments, "model.")
    return model.eval(), card


def load_model(path: str | Path) -> tuple[MatrixNetwork, ModelCard]:
    """As ``load_network``, of a model that predicts matrices.

    Raises:
        UserError: a model of energies and forces; see ``read_checkpoint``.
    """
    model, card = load_network(path)
    if not isinstance(model, MatrixNetwork):
        raise UserError(
            f"{path}: a model of energies and forces, which predicts no matrices; "
            "use it by schnorb_t md or schnorb_t.interfaces.ase.SchNOrbT, or give a model of matrices"
        )
    return model, card


def load_single(path: str | Path) -> tuple[MatrixNetwork, ModelCard]:
    """As ``load_model``, where an ensemble is of no use.

    Raises:
        UserError: an ensemble; see ``read_checkpoint``.
    """
    model, card = load_model(path)
    if isinstance(model, EnsembleModel):
        raise UserError(f"{path}: an ensemble of {len(card.members)} models; give one that schnorb_t fit wrote")
    return model, card


def write_checkpoint(path: str | Path, model: Network, card: ModelCard, config: str) -> None:
    """A checkpoint without the state of a training; the file appears whole.

    Args:
        config: what the model was trained with, YAML.

    Raises:
        UserError: the system refuses.
    """
    if card.arguments and not card.arguments.get("constants"):
        card = replace(card, arguments={**card.arguments, "constants": model.constants.to_dict()})
    content = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        KEY: {**card.to_entry(), "config": config},
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
