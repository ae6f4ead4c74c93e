"""A file of geometries that grows molecule by molecule and survives being killed at any moment.

Extended xyz, whole frames only; molecules that got no geometry stand in ``OUTPUT.failed.csv`` with the reason.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.io import write

from schnorb_t.errors import UserError
from schnorb_t.reference.geometries import Molecule


def frame_text(atoms: Atoms) -> str:
    """One frame of extended xyz; backslashes (in SMILES) are doubled, as ASE's reader takes one for an escape."""
    copy = atoms.copy()
    copy.info = {k: v.replace("\\", "\\\\") if isinstance(v, str) else v for k, v in atoms.info.items()}
    text = io.StringIO()
    write(text, copy, format="extxyz", write_results=False)
    return text.getvalue()


def complete_frames(path: Path) -> tuple[list[str], int]:
    """Names of the whole frames of an extended xyz file, and the byte where they end.

    Raises:
        UserError: it is another kind of file.
    """
    names: list[str] = []
    end = 0
    with path.open("rb") as file:
        while head := file.readline():
            if not head.endswith(b"\n"):
                break
            try:
                n = int(head)
            except ValueError:
                raise UserError(f"{path}: is no extended xyz file of this command; choose another output") from None
            lines = [file.readline() for _ in range(n + 1)]
            if not lines[-1].endswith(b"\n"):
                break
            words = lines[0].decode("utf-8", "replace").split(" name=", 1)
            if len(words) < 2:
                raise UserError(f"{path}: has a frame without a name; choose another output")
            rest = words[1]
            names.append(rest[1:].split('"', 1)[0] if rest.startswith('"') else rest.split(maxsplit=1)[0])
            end = file.tell()
    return names, end


class GeometryFile:
    """Appends whole molecules to an extended xyz file, and reasons to the list of failures beside it.

    Args:
        path: of the file, to begin or to continue; what a killed run left of its last frame is cut off.

    Raises:
        UserError: the file is another kind of file, or its folder is missing.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.failed_path = self.path.with_name(f"{self.path.name}.failed.csv")
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path.parent}: no such folder; make it first")
        self.names: set[str] = set()
        if self.path.exists():
            names, end = complete_frames(self.path)
            self.names = set(names)
            with self.path.open("r+b") as file:
                file.truncate(end)
        self.failures: dict[str, str] = {}
        if self.failed_path.exists():
            with self.failed_path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.failures = {row["name"]: row["reason"] for row in rows if row.get("reason")}

    def _append(self, path: Path, text: str) -> None:
        data = text.encode("utf-8")
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:  # a full disk leaves no half frame behind
                os.truncate(path, before)
                raise

    def add(self, frames: Sequence[Atoms]) -> None:
        """Append the geometries of one molecule that are not there yet."""
        new = [atoms for atoms in frames if atoms.info["name"] not in self.names]
        self._append(self.path, "".join(map(frame_text, new)))
        self.names.update(atoms.info["name"] for atoms in new)

    def add_failure(self, molecule: Molecule, reason: str) -> None:
        """Note why a molecule has no geometry."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.failed_path.exists():
            writer.writerow(["order", "name", "smiles", "reason"])
        else:
            with self.failed_path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed run's half line
                    text.write("\n")
        writer.writerow([molecule.order, molecule.name, molecule.smiles, " ".join(reason.split())])
        self._append(self.failed_path, text.getvalue())
        self.failures[molecule.name] = reason

    def forget_failures(self) -> None:
        """Empty the list of failures, so that they are tried again."""
        self.failed_path.unlink(missing_ok=True)
        self.failures = {}
