"""Folders of files, one or more per predicted structure, that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from schnorb_t.errors import UserError
from schnorb_t.files import write_error
from schnorb_t.interfaces.dftbplus_files import write_dftbplus
from schnorb_t.interfaces.molden import check_cube_name, write_cube, write_molden
from schnorb_t.prediction import Prediction

#: (folder, index of the structure, its prediction); one with a method ``finish(folder)`` has it called at the end.
Write = Callable[[Path, int, Prediction], None]


def molden_files(folder: Path, index: int, prediction: Prediction) -> None:
    """``000000.molden`` of one prediction; raises as ``write_molden``."""
    write_molden(folder / f"{index:06d}.molden", prediction)


def dftbplus_files(folder: Path, index: int, prediction: Prediction) -> None:
    """``000000/hamsqr1.dat``, ``000000/oversqr.dat``, ``000000/geometry.gen`` of one prediction; raises as
    ``write_dftbplus``."""
    write_dftbplus(folder / f"{index:06d}", prediction)


def cube_files(names: str) -> Write:
    """``000000_homo.cube``, ... for a list such as ``"homo,lumo,density"``.

    Raises:
        UserError: an unknown name, or PySCF, which puts functions on grids, is not installed.
    """
    from schnorb_t.reference.pyscf import versions

    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        check_cube_name(name)
    versions()  # says what to install

    def write(folder: Path, index: int, prediction: Prediction) -> None:
        for name in wanted:
            write_cube(folder / f"{index:06d}_{name}.cube", prediction, name)

    return write


def check_folder(folder: Path, force: bool) -> None:
    """Find out before any work whether files can be put there.

    Raises:
        UserError: a file has that name, its parent is missing or not writable, or it holds files (without ``force``).
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.parent}: no such folder; make it first")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise UserError(f"{folder.parent}: may not be written to; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: holds files; name another folder, or replace files with --force")


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, which takes its name, whole, when the block ends without an error.

    What else the folder held goes along. Somebody who is killed at any moment leaves the old set or the new one.
    """
    folder = Path(os.path.realpath(folder))  # a link stays a link
    temporary, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        if not folder.exists() or not any(folder.iterdir()):
            os.replace(temporary, folder)  # an empty folder is replaced by the system in one step
            return
        for old in folder.iterdir():
            if not (temporary / old.name).exists():
                _keep(old, temporary / old.name)
        shutil.copymode(folder, temporary)
        os.replace(folder, before)
        os.replace(temporary, folder)
    except OSError as error:
        if before.exists() and not folder.exists():
            os.replace(before, folder)
        raise write_error(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(before, ignore_errors=True)


def _keep(old: Path, new: Path) -> None:
    """The same files under another name: as links to them where the disk can, else as copies."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)

    if old.is_dir() and not old.is_symlink():
        shutil.copytree(old, new, symlinks=True, copy_function=link)
    else:
        link(str(old), str(new))


@contextmanager
def exporting(exports: Sequence[tuple[Path, Write]]) -> Iterator[Callable[[int, Prediction], None]]:
    """``with exporting([(folder, molden_files), ...]) as add``: call ``add(index, prediction)`` for each structure.

    Raises:
        UserError: the disk refuses, or a file cannot be made; then no folder changes.
    """
    with ExitStack() as stack:
        places = [(stack.enter_context(_folder(folder)), write) for folder, write in exports]

        def add(index: int, prediction: Prediction) -> None:
            for place, write in places:
                write(place, index, prediction)

        yield add
        for place, write in places:
            if (finish := getattr(write, "finish", None)) is not None:  # an index over the folder, for example
                finish(place)
