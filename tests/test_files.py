"""Files are whole or absent, and what the system refuses is one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write, check_output, is_system_error, write_error, write_text
from schnorb_t.hdf5 import HDF5Output


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_error_of_the_block_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    for error in (ValueError("a mistake"), RuntimeError("another mistake"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room on the disk"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "permissions"),
        (errno.EIO, "disk"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_a_remedy(tmp_path, number, remedy):
    path = tmp_path / "out.txt"
    with pytest.raises(UserError) as caught, atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and remedy in message and os.strerror(number) in message
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="No such file or directory.; make its folder first"):
        write_text(tmp_path / "no" / "out.txt", "x")


def test_errors_that_hide_in_texts():
    hdf5 = RuntimeError("Can't close file (file write failed: errno = 28, error message = 'No space left on device')")
    assert is_system_error(hdf5) and "make room on the disk" in str(write_error("f.h5", hdf5))
    assert is_system_error(RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"))
    assert not is_system_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_system_error(ValueError("errno = 28"))


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        kept = file.create_dataset("x", data=np.arange(100_000.0))
        file.flush()
        del kept


def _torch(path: Path) -> None:
    torch.save({"x": torch.arange(100_000.0)}, path)


def _text(path: Path) -> None:
    path.write_text("x" * 400_000)


@pytest.mark.parametrize("write_content", [_hdf5, _torch, _text])
def test_a_limit_on_file_sizes_leaves_nothing(tmp_path, write_content):
    """In a process of its own: the limit cannot be raised again."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            try:
                with atomic_write(tmp_path / "out.bin") as temporary:
                    write_content(temporary)
            except UserError as error:
                code = 0 if "out.bin: cannot be written" in str(error) and "\n" not in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []


def test_links_stay_links_and_devices_stay_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(UserError, match="no ordinary file"):
        check_output(tmp_path / "pipe", force=True)


def test_check_output(tmp_path):
    there = tmp_path / "there"
    there.write_text("x")
    for path, inputs, words in (
        (there, [], "exists; name another file, or overwrite"),
        (there, [there], "is an input"),
        (tmp_path, [], "is a folder"),
        (tmp_path / "no" / "out", [], "make it first"),
    ):
        with pytest.raises(UserError, match=words):
            check_output(path, inputs)
    assert check_output(there, force=True) == there


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    code = (
        "import os, signal\nfrom schnorb_t.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as t:\n t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_prediction_on_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """HDF5 cannot close a file whose disk is full: it must not crash the process at its end."""
    write(tmp_path / "in.xyz", [molecule("C6H6")] * 12)
    command = [sys.executable, "-m", "schnorb_t.predict", "hcnof", "in.xyz", "-o", "out.h5"]
    limit = (20_000, 20_000)
    process = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    errors = process.stderr.strip().splitlines()
    assert process.returncode == 2, process.stderr
    assert errors[-1].startswith("error: ") and "out.h5: cannot be written (File too large)" in errors[-1]
    assert "ulimit -f" in errors[-1] and "Traceback" not in process.stderr and "h5py" not in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.xyz"]


@pytest.mark.parametrize("limit", [0, 3_000, 60_000])
def test_hdf5_output_is_whole_or_absent(tmp_path, limit):
    path = tmp_path / "out.h5"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                with HDF5Output(path) as output:
                    for k in range(20):
                        output.file.create_dataset(f"group {k}/x", data=np.arange(1000.0))
            except UserError as error:
                code = 0 if "out.h5: cannot be written (File too large)" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"
    with HDF5Output(path) as output:
        output.file["x"] = np.arange(1000.0)
    with h5py.File(path) as file:
        assert (file["x"][:] == np.arange(1000.0)).all()
    with pytest.raises(ValueError, match="a mistake"), HDF5Output(path) as output:
        output.file["y"] = 1
        raise ValueError("a mistake")
    assert list(tmp_path.iterdir()) == [path] and "x" in h5py.File(path)


# ---- files of another kind, and folders that appear whole -----------------------------------------------------------

WRONG = {
    "empty": (b"", "is empty"),
    "page": (b"<!DOCTYPE html>\n<html>404</html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "is a pointer of git-lfs"),
    "pickle": (b"\x80\x04\x95\x10\x00", "is a pickle"),
    "text": (b"hello\n", "give "),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_model_and_no_store_is_called_by_its_name(tmp_path, kind):
    from schnorb_t.data.store import Store
    from schnorb_t.training.checkpoint import read_checkpoint

    content, message = WRONG[kind]
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    for read in (read_checkpoint, Store):
        with pytest.raises(UserError, match=message):
            read(path)


def test_folders_and_damaged_models_and_stores(tmp_path):
    import torch

    from schnorb_t.data.datamodule import SAMPLE
    from schnorb_t.data.store import Store
    from schnorb_t.training.checkpoint import KEY, MODELS, find_model, read_checkpoint

    (tmp_path / "version_0").mkdir()
    whole = (MODELS / "hcnof.ckpt").read_bytes()
    (tmp_path / "version_0" / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is a folder; give a .ckpt file in it: .*version_0/best.ckpt"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match="damaged, or was not copied whole"):
        read_checkpoint(tmp_path / "version_0" / "best.ckpt")
    for k, entry in enumerate((5, {}, {"format": "x"}, {"format": 4})):
        torch.save({KEY: entry, "state_dict": {}}, tmp_path / f"{k}.ckpt")
        with pytest.raises(UserError, match="what it says of its model is damaged"):
            read_checkpoint(tmp_path / f"{k}.ckpt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.ckpt")
    with pytest.raises(UserError, match="holds objects of Python"):
        read_checkpoint(tmp_path / "module.ckpt")
    with pytest.raises(UserError, match="the model that comes with the package is called hcnof"):
        find_model("hcnof.ckpt")
    with pytest.raises(UserError, match="is a folder; give a store"):
        Store(tmp_path)
    with pytest.raises(UserError, match="is a zip archive, as PyTorch's checkpoints are; give a store"):
        Store(MODELS / "hcnof.ckpt")
    (tmp_path / "t.h5").write_bytes(SAMPLE.read_bytes()[:100_000])
    with pytest.raises(UserError, match="copy it again"):
        Store(tmp_path / "t.h5")


def test_a_folder_of_exports_is_never_half_of_one_set(tmp_path, monkeypatch):
    """Killed at any of the system's steps, the old set or the new one is there."""
    from schnorb_t.interfaces import exports

    def put(name):
        return lambda folder, index, prediction: (folder / f"{index}.txt").write_text(name)

    def export(folder, name):
        with exports.exporting([(folder, put(name))]) as add:
            for index in range(3):
                add(index, None)

    def found(folder):
        return {p.name: p.read_text() for p in folder.iterdir()}

    folder = tmp_path / "set"
    export(folder, "old")
    (folder / "own.md").write_text("mine")
    before = found(folder)
    replace, failed = os.replace, []
    for step in range(2):

        def fails(a, b, step=step):
            failed.append(1)
            if len(failed) == step + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(a, b)

        failed.clear()
        monkeypatch.setattr(exports.os, "replace", fails)
        with pytest.raises(UserError, match="make room"):
            export(folder, "new")
        assert found(folder) == before and [p.name for p in tmp_path.iterdir()] == ["set"]
    monkeypatch.setattr(exports.os, "replace", replace)
    export(folder, "new")
    assert found(folder) == {f"{k}.txt": "new" for k in range(3)} | {"own.md": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_limit_on_the_size_of_files_is_no_full_disk(tmp_path, monkeypatch):
    remedy = "make room; go on with --ckpt_path last.ckpt"
    told = str(write_error(tmp_path / "a", OSError(errno.EFBIG, "File too large"), remedy))
    assert "ulimit -f" in told and "make room" not in told and told.endswith("--ckpt_path last.ckpt")
    assert "make room" in str(write_error(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"), remedy))
    torch_says = RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed")
    assert "make room" in str(write_error(tmp_path / "a", torch_says, remedy))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3000, 3000))
    assert "ulimit -f" in str(write_error(tmp_path / "a", torch_says, remedy))
