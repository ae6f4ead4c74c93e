"""What all molecules of a file share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..basis import Basis

#: What a level says of the choice of molecules rather than of the calculation.
_NOT_THEORY = "structures"


def theory(level: Mapping[str, Any]) -> dict[str, Any]:
    """What a level of theory says of the calculation alone, so that two of them can be compared."""
    return {name: value for name, value in level.items() if name != _NOT_THEORY}


@dataclass(frozen=True)
class Header:
    """What all molecules of a file share; a writer continues a file only if this is equal.

    Attributes:
        basis: of the stored matrices.
        target: ``"wqao"``, ``"vqao"``, ``"iao"``, ``"quambo"``, ``"full"`` or the name of an AO basis.
        level: level of theory, JSON-able: functional, basis, density_fitting, grid_level, conv_tol, ...
        programs: program -> version.
    """

    basis: Basis
    target: str
    level: dict
    programs: dict[str, str]

    def __post_init__(self):
        # tuples become lists, so that a header equals itself after a round trip through a file
        object.__setattr__(self, "level", json.loads(json.dumps(self.level)))
        object.__setattr__(self, "programs", json.loads(json.dumps(self.programs)))

    def to_dict(self) -> dict:
        """For JSON; ``from_dict`` reads it."""
        return {
            "basis": self.basis.to_json(),
            "target": self.target,
            "level": self.level,
            "programs": self.programs,
        }

    @classmethod
    def from_dict(cls, data: dict) -> Header:
        """The inverse of ``to_dict``."""
        return cls(Basis.from_json(data["basis"]), data["target"], data["level"], data["programs"])

    def difference(self, other: Header) -> str:
        """The differences in words, ``""`` if there is none."""
        out = []
        if self.basis != other.basis:
            same = str(self.basis) == str(other.basis)
            out.append(f"basis: {self.basis} | {other.basis}" + (" (their functions differ)" if same else ""))
        if self.target != other.target:
            out.append(f"target: {self.target} | {other.target}")
        for what in ("level", "programs"):
            mine, theirs = getattr(self, what), getattr(other, what)
            out += [
                f"{what} {key}: {mine.get(key, 'none')} | {theirs.get(key, 'none')}"
                for key in sorted({*mine, *theirs})
                if mine.get(key) != theirs.get(key)
            ]
        return "; ".join(out)
