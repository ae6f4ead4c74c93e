"""The configuration of a loop of active learning: YAML -> ``Settings``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from schnorb_t.active.loop import Settings
from schnorb_t.active.methods import METHODS
from schnorb_t.errors import ConfigurationError
from schnorb_t.training.configuration import find_configuration, one_line, read_mapping

#: The least that a number may be.
LEAST = {"start": 1, "number": 1, "val": 1, "test": 0, "budget": 1, "seed": 0}
_SEE = "see configs/learn.yaml"


def read_settings(config: Path, label_options: Collection[str], changes: Mapping[str, Any]) -> Settings:
    """Checked settings of a YAML file.

    Args:
        config: with the keys of ``Settings``.
        label_options: what its section ``label`` may hold.
        changes: values in place of the file's, where they are not None.

    Raises:
        UserError: no such file, an unknown key, a value that cannot be.
    """
    content = read_mapping(config, config, "schnorb_t learn", _SEE)
    content |= {key: value for key, value in changes.items() if value is not None}

    def refuse(what: str) -> NoReturn:
        raise ConfigurationError(f"{config}: {what}")

    def check_known(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
        if unknown := sorted(set(map(str, given)) - set(known)):
            refuse(f"{where} {', '.join(unknown)}; known: {', '.join(sorted(known))}")

    check_known("no key", content, {f.name for f in fields(Settings)})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Settings)
    try:
        settings = Settings(**vars(parser.parse_object(content)))
    except Exception as error:  # all that it is given is the user's
        refuse(one_line(str(error)))
    if not settings.pool:
        refuse("pool: name one file with molecules or more")
    if settings.method not in METHODS:
        refuse(f"method: must be one of {', '.join(METHODS)}, got {settings.method}")
    for key, least in LEAST.items():
        if getattr(settings, key) < least:
            refuse(f"{key}: must be {least} or more, got {getattr(settings, key)}")
    check_known("label: no option", settings.label, label_options)
    try:
        find_configuration(settings.fit)
    except ConfigurationError as error:
        refuse(f"fit: {error}; name a configuration of schnorb_t fit")
    return settings
