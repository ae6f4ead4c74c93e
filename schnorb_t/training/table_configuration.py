"""The configuration of a training of tables: YAML -> ``TableSettings``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from schnorb_t.errors import ConfigurationError
from schnorb_t.physics.trainable_dftb import FEEDS
from schnorb_t.training.configuration import CONFIGURATIONS, one_line, read_mapping
from schnorb_t.training.table_targets import TableTarget
from schnorb_t.training.tables import TableSettings

_SEE = "see configs/dftb.yaml"
#: The least that a number may be, and what it must exceed.
_LEAST = {"smearing": 0, "smooth_tables": 0, "smooth_repulsion": 0, "convex": 0, "epochs": 0, "batch_size": 1}
_LEAST |= {"threads": 1, "max_train": 1, "band_pass_below": 0, "band_pass_above": 0, "seed": 0}
_ABOVE_ZERO = ("table_spacing", "repulsion_spacing", "repulsion_cutoff", "learning_rate")


def read_table_settings(config: str | Path, changes: Mapping[str, Any]) -> TableSettings:
    """Checked settings of a YAML file, or of a configuration that comes with the package.

    Args:
        config: with the keys of ``TableSettings``.
        changes: values in place of the file's, where they are not None.

    Raises:
        UserError: no such file, an unknown key, a value that cannot be.
    """
    shipped = [folder / "dftb.yaml" for folder in CONFIGURATIONS if (folder / "dftb.yaml").is_file()]
    path = shipped[0] if str(config) == "dftb" and shipped and not Path(config).exists() else Path(config)
    content = read_mapping(path, config, "schnorb_t fit-dftb", _SEE)
    content |= {key: value for key, value in changes.items() if value is not None}

    def refuse(what: str) -> NoReturn:
        raise ConfigurationError(f"{config}: {what}")

    known = {f.name for f in fields(TableSettings)}
    if unknown := sorted(set(map(str, content)) - known):
        refuse(f"no key {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if missing := [key for key in ("skf", "data") if not content.get(key)]:
        refuse(f"{missing[0]}: must be given")
    targets = content.pop("targets", [{"name": "energy"}])
    if not isinstance(targets, list) or not targets or not all(isinstance(t, dict) for t in targets):
        refuse("targets: must be a list of {name: ..., weight: ...}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TableSettings, skip={"targets"})
    try:
        chosen = [TableTarget(**t) for t in targets]
        settings = TableSettings(**vars(parser.parse_object(content)), targets=chosen)
    except Exception as error:  # all that it is given is the user's
        refuse(one_line(str(error)))
    if len({t.name for t in chosen}) < len(chosen):
        refuse("targets: each may stand once")
    if not settings.train or (wrong := [f for f in settings.train if f not in FEEDS]):
        refuse(f"train: {wrong[0] + ': ' if settings.train else ''}must be some of {', '.join(FEEDS)}")
    if settings.order not in (2, 3):
        refuse(f"order: must be 2 or 3, got {settings.order}")
    if settings.band_pass_below + settings.band_pass_above < 1:
        refuse("band_pass_below, band_pass_above: no level would count; make one of them 1 or more")
    for key, least in _LEAST.items():
        value = getattr(settings, key)
        if value is not None and not value >= least:
            refuse(f"{key}: must be {least} or more, got {value}")
    for key in _ABOVE_ZERO:
        value = getattr(settings, key)
        if value is not None and not 0 < value < float("inf"):
            refuse(f"{key}: must be above 0, got {value}")
    for feed, rate in settings.rates.items():
        if feed not in FEEDS or not 0 < rate < float("inf"):
            refuse(f"rates: {feed}: {rate}: must be a rate above 0 of one of {', '.join(FEEDS)}")
    return settings
