"""Write a store: add molecules, finish an interrupted file, change its splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from . import journal as j
from .header import Header
from .merge import READABLE_VERSIONS, SCHEMA_VERSION, merge, rewrite_splits
from .reader import finish_hint, journal_path, quiet_store
from .records import SPLITS, MoleculeRecord, pack


class StoreWriter:
    """Adds molecules to a file, crash safe; use as a context manager.

    Args:
        path: the HDF5 file to begin or, if it exists, to continue.
        header: what all molecules share.
        append: continue an existing or interrupted file; ``False`` refuses one.

    Attributes:
        known_names: names of the molecules and failures that are already there.

    Raises:
        UserError: the file exists with another header, somebody else writes it, or it cannot be written.
    """

    def __init__(self, path: str | Path, header: Header, *, append: bool = True):
        self.path = Path(path)
        self.header = header
        if not append and (self.path.exists() or journal_path(self.path).exists()):
            raise UserError(f"{self.path}: exists already; remove it or choose another name")
        self._pid = os.getpid()
        self._journal = j.Journal(journal_path(self.path))
        self._closed = False
        try:
            self._begin()
        except BaseException:
            if not self._journal.frames:
                self._journal.remove()
            self.abandon()
            raise

    def _begin(self):
        self.known_names: set[str] = set()
        self._failed: set[str] = set()
        if self.path.exists():
            with quiet_store(self.path) as store:
                self._refuse_other(store.header)
                if store.unknown:
                    raise UserError(
                        f"{self.path}: holds {', '.join(store.unknown)}, which this schnorb_t does not know and would "
                        "lose; continue it with a version that does, or write another file"
                    )
                self.known_names.update(store.names.tolist())
                self._failed.update(name for name, _, _ in store.failures)
        frames = self._journal.frames
        if not frames:
            head = {"schema_version": SCHEMA_VERSION, **self.header.to_dict()}
            self._journal.append(j.HEADER, j.encode_text(head))
        else:
            self._refuse_other(journal_header(self._journal))
        for frame in frames:
            if frame.kind == j.MOLECULE:
                self.known_names.add(frame.name)
                self._failed.discard(frame.name)
            elif frame.kind == j.FAILURE and frame.name not in self.known_names:
                self._failed.add(frame.name)
        self.known_names |= self._failed

    def _refuse_other(self, there: Header):
        difference = there.difference(self.header)
        if difference:
            raise UserError(
                f"{self.path}: holds molecules of another kind (file | now): {difference}; "
                "choose the same settings or another file"
            )

    def _refuse_closed(self):
        if self._closed or os.getpid() != self._pid:
            raise ValueError(f"{self.path}: the writer is closed, or belongs to another process")

    def _holds(self, name: str) -> bool:
        return name in self.known_names and name not in self._failed

    def add(self, record: MoleculeRecord) -> None:
        """Store a molecule; when this returns, a killed process cannot lose it. A failure of that name is lifted.

        Raises:
            UserError: the name is there already, or shapes, numbers or symmetry are wrong.
        """
        self._refuse_closed()
        if self._holds(record.name):
            raise UserError(f"{self.path}: there is already a molecule {record.name!r}; names must be unique")
        packed = pack(record, self.header.basis)
        self._journal.append(j.MOLECULE, j.encode_molecule(packed), packed.name, packed.order)
        self.known_names.add(packed.name)
        self._failed.discard(packed.name)

    def add_outcome(self, name: str, order: int, ok: bool, value) -> bool:
        """``add(value)`` of a molecule that was labelled, ``add_failure`` with ``value`` as the reason of another.

        Returns:
            ok.

        Raises:
            UserError: see both.
        """
        if ok:
            self.add(value)
        else:
            self.add_failure(name, value, order)
        return ok

    def add_failure(self, name: str, reason: str, order: int) -> None:
        """Record that a molecule was tried in vain, and why. The last reason given for a name counts.

        Raises:
            UserError: the molecule is there.
        """
        self._refuse_closed()
        if self._holds(name):
            raise UserError(f"{self.path}: molecule {name!r} is there already, it cannot have failed")
        meta = {"name": name, "reason": str(reason).replace("\0", ""), "order": int(order)}
        self._journal.append(j.FAILURE, j.encode_text(meta), name, int(order))
        self.known_names.add(name)
        self._failed.add(name)

    def close(self) -> None:
        """Merge the journal into the file, sorted by ``order`` and then name, and remove the journal."""
        if self._closed or os.getpid() != self._pid:
            return
        if len(self._journal.frames) > 1 or not self.path.exists():
            self._journal.sync()
            old = quiet_store(self.path) if self.path.exists() else None
            try:
                merge(self.path, self.header.to_dict(), self._journal, old)
            finally:
                if old is not None:
                    old.close()
        self._journal.remove()
        self.abandon()

    def abandon(self) -> None:
        """Give the file back without merging; the journal keeps everything for the next writer."""
        self._closed = True
        self._journal.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.close()
        finally:  # also where the disk refused: whoever writes next continues
            if os.getpid() == self._pid and not self._closed:
                self.abandon()


def journal_header(journal: j.Journal) -> Header:
    """The header that a journal begins with.

    Raises:
        UserError: there is none, or it is of another version.
    """
    frame = journal.frames[0]
    if frame.kind != j.HEADER:
        raise UserError(f"{journal.path}: does not begin with a header, so it is damaged; move it away")
    data, _ = j.decode_meta(journal.payload(frame))
    if data["schema_version"] not in READABLE_VERSIONS:
        raise UserError(
            f"{journal.path}: has schema version {data['schema_version']}, this schnorb_t reads up to version "
            f"{SCHEMA_VERSION}; finish it with the version that began it"
        )
    return Header.from_dict(data)


def finish(path: str | Path) -> int:
    """Merge what an interrupted writer left; returns how many molecules and failures waited.

    Raises:
        UserError: nothing waits, or a writer is still at work.
    """
    path = Path(path)
    if not journal_path(path).exists():
        raise UserError(f"{path}: nothing to finish, there is no {journal_path(path)}")
    journal = j.Journal(journal_path(path))
    try:
        if not journal.frames:  # killed before its first write
            journal.remove()
            return 0
        header, waiting = journal_header(journal), len(journal.frames) - 1
    finally:
        journal.release()
    with StoreWriter(path, header):
        pass
    return waiting


def set_splits(path: str | Path, splits: Mapping[str, str]) -> None:
    """Give molecules, by name, another split; the others keep theirs. The file is replaced in one step.

    Raises:
        UserError: an unknown molecule or split, or a writer is at work.
    """
    path = Path(path)
    bad = sorted({s for s in splits.values() if s not in (*SPLITS, "")})
    if bad:
        raise UserError(f"{path}: no split {bad[0]!r}; there are {', '.join(SPLITS)}")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    journal = j.Journal(journal_path(path))  # for its lock
    try:
        if journal.frames:
            raise UserError(f"{path}: is not finished; {finish_hint(path)}")
        with quiet_store(path) as store:
            names, now = store.names.tolist(), store.splits.tolist()
        unknown = sorted(set(splits) - set(names))
        if unknown:
            raise UserError(f"{path}: holds no molecule {unknown[0]!r} ({len(unknown)} unknown in all)")
        rewrite_splits(path, [splits.get(name, old) for name, old in zip(names, now, strict=True)])
    finally:
        if not journal.frames:
            journal.remove()
        journal.release()
