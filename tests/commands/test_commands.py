"""What every command promises: help, one line and exit code 2 for what a user can mend, nothing left behind."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from schnorb_t import commands
from schnorb_t.commands import COMMANDS, Command, main
from schnorb_t.errors import Terminated, UserError, run_command, uninterrupted
from tests.commands.inputs import (
    CONTINUE,
    NEEDS,
    NO_OUTPUT,
    WITH_INPUT,
    WITH_OUTPUT,
    arguments,
    first_input,
    make_full,
    make_inputs,
)

ROOT = Path(__file__).resolve().parents[2]
PARSED = [name for name in COMMANDS if name != "fit"]  # Lightning's parser has tests of its own below


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def full(inputs):
    pytest.importorskip("pyscf")
    make_full(inputs)
    return inputs


@pytest.fixture
def folder_of(request):
    """Where the inputs of a command lie; skips where something is not installed."""

    def find(name):
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        needs_full = name in ("project", "fit-contraction", "import-orca")
        return request.getfixturevalue("full" if needs_full else "inputs")

    return find


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line."""
    code = 0
    try:
        run_command(lambda: main([str(a) for a in argv]))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def fails(capsys, *argv):
    """Exit code 2 and one line, which is returned."""
    code, _, err = run(capsys, *argv)
    assert code == 2, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err, err
    return line


def process(argv, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "schnorb_t", *map(str, argv)]
    with sigint_as_usual():
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )


@contextmanager
def sigint_as_usual():
    """Ctrl-C raises KeyboardInterrupt, here and in children, even where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".") or p.suffix in (".tmp", ".part"))


# ---- help ----------------------------------------------------------------------------------------------------------


def test_the_overview_has_a_line_for_each_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.M)
    assert run(capsys)[0] == 2
    assert run(capsys, "--version")[1].startswith("schnorb_t ")


def test_help_imports_no_numerical_library():
    code = (
        "import sys; from schnorb_t.commands import main; main(['--help']); "
        "assert not {'torch', 'numpy', 'ase', 'rich', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0 and f"usage: schnorb_t {name}" in out
    if name == "fit":
        return
    function, show = COMMANDS[name].load()
    assert show is not None
    from schnorb_t.commands.parser import parse_docstring

    documented = {p.arg_name for p in parse_docstring(function.__doc__).params}
    parameters = set(function.__annotations__) - {"return"}
    assert parameters == documented  # every option has its help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_named_and_the_nearest_suggested(name, capsys):
    line = fails(capsys, name, *first_input(name, Path("x")), "--bogus-option", "1")
    assert "--bogus-option" in line or "required" in line
    line = fails(capsys, name, *first_input(name, Path("x")), "-o", "y", "--jsn", "z") if name in WITH_OUTPUT else ""
    assert not line or "did you mean --json?" in line


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert "did you mean predict?" in fails(capsys, "predcit")
    assert "--help lists all" in fails(capsys, "xyzzy")


# ---- what is wrong with files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in WITH_INPUT if n != "fit"])
def test_an_absent_input_is_named(name, folder_of, tmp_path, capsys):
    folder_of(name)
    words = arguments(name, tmp_path / "nowhere", tmp_path / "out") if name != "splits" else ["splits", "nowhere.h5"]
    line = fails(capsys, *words)
    assert "nowhere" in line
    assert not left_behind(tmp_path) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [n for n in WITH_INPUT if n not in ("fit", "import-orca")])
def test_a_folder_is_no_input(name, folder_of, tmp_path, capsys):
    folder_of(name)
    (tmp_path / "folder.h5").mkdir()
    n = len(first_input(name, tmp_path))
    words = [name, *[tmp_path / "folder.h5"] * n, *([] if name in NO_OUTPUT else ["-o", tmp_path / "out"])]
    assert "folder.h5" in fails(capsys, *words)
    assert not left_behind(tmp_path) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [n for n in WITH_INPUT if n not in ("fit", "import-orca")])
def test_garbage_is_no_input(name, folder_of, tmp_path, capsys):
    folder_of(name)
    (tmp_path / "garbage.h5").write_bytes(bytes(range(256)) * 8)
    n = len(first_input(name, tmp_path))
    words = [name, *[tmp_path / "garbage.h5"] * n, *([] if name in NO_OUTPUT else ["-o", tmp_path / "out"])]
    assert "garbage.h5" in fails(capsys, *words)
    assert not left_behind(tmp_path) and not (tmp_path / "out").exists()


#: write a folder, which they make
FOLDERS = ("write-orca", "export-skf")


@pytest.mark.parametrize("name", [n for n in WITH_OUTPUT if n not in FOLDERS and n != "convert"])
def test_the_folder_of_the_output_must_be_there(name, folder_of, tmp_path, capsys):
    words = arguments(name, folder_of(name), tmp_path / "absent" / "out")
    assert "absent" in fails(capsys, *words)


@pytest.mark.parametrize("name", [n for n in WITH_OUTPUT if n not in FOLDERS and n != "convert"])
def test_a_folder_is_no_output(name, folder_of, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert "out" in fails(capsys, *arguments(name, folder_of(name), tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir()) and not left_behind(tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_is_no_folder(name, folder_of, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert "out" in fails(capsys, *arguments(name, folder_of(name), tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", [n for n in WITH_OUTPUT if n not in CONTINUE])
def test_an_existing_output_is_kept(name, folder_of, tmp_path, capsys):
    out = tmp_path / "out"
    if name in FOLDERS:
        out.mkdir()
        (out / "H-H.skf").write_text("mine")
    else:
        out.write_text("mine")
    assert "out" in fails(capsys, *arguments(name, folder_of(name), out))
    assert (out / "H-H.skf" if out.is_dir() else out).read_text() == "mine"


WRITING = [*(n for n in WITH_OUTPUT if n != "convert"), "check", "splits"]


@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_refuses_is_one_line(name, folder_of, tmp_path):
    """A limit on the size of files stands for a full disk: the system refuses in the same place."""
    folder = tmp_path / "made"
    folder.mkdir()
    words = arguments(name, folder_of(name), folder / "out")
    before = {p.name for p in folder.iterdir()}
    done = process(words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)))
    out, err = done.communicate(timeout=300)
    assert done.returncode == 2, out + err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "out" in lines[0] and "Traceback" not in err and "Exception ignored" not in err, err
    assert not [n for n in left_behind(folder) if n not in before]


# ---- signals and pipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("kind", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_tells_what_continues(name, kind, code, monkeypatch, capsys):
    def stopped(self):
        raise kind

    monkeypatch.setattr(Command, "load", stopped)
    found, _, err = run(capsys, name)
    assert found == code and len(err.strip().splitlines()) == 1
    assert COMMANDS[name].interrupted in err and ("terminated" if kind is Terminated else "interrupted") in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_prediction_and_removes_what_it_made(number, code, inputs, tmp_path):
    from ase.build import molecule
    from ase.io import write

    write(tmp_path / "many.xyz", [molecule("C6H6")] * 6000)
    child = process(["predict", inputs / "a.ckpt", tmp_path / "many.xyz", "-o", tmp_path / "out.h5"])
    deadline = time.monotonic() + 300  # a busy machine takes long to read so many
    while not left_behind(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_behind(tmp_path) and child.poll() is None
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code and "Traceback" not in err and "nothing was written" in err
    assert not left_behind(tmp_path) and not (tmp_path / "out.h5").exists()


def test_a_signal_waits_for_the_end_of_a_block():
    done = []
    with sigint_as_usual():
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")
        assert done == ["whole"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_reader_that_has_gone_is_no_error():
    child = process(["--help"])
    child.stdout.close()
    assert child.wait(timeout=60) == 141 and child.stderr.read() == ""


# ---- what is printed, as JSON --------------------------------------------------------------------------------------


def test_every_summary_can_be_written_as_json(inputs, tmp_path, capsys):
    for name in ("merge", "export-skf", "ensemble", "check", "predict", "evaluate", "qm9", "write-orca", "info"):
        path = tmp_path / f"{name}.json"
        code, out, err = run(capsys, *arguments(name, inputs, tmp_path / f"out-{name}"), "--json", path)
        assert code == 0 and f"{path}" in out, err
        assert isinstance(json.loads(path.read_text()), dict)
    assert json.loads((tmp_path / "merge.json").read_text())["molecules"] == 2
    assert json.loads((tmp_path / "qm9.json").read_text())["molecules"] == 2
    assert json.loads((tmp_path / "predict.json").read_text())["levels"][0]["formula"] == "H2O"
    line = fails(capsys, "info", "--json", tmp_path / "absent" / "x.json")
    assert "no such folder" in line


def test_json_to_stdout_stands_there_alone(inputs, tmp_path, capsys):
    out = tmp_path / "out.h5"
    code, text, _ = run(capsys, *arguments("predict", inputs, out), "--json", "-")
    assert code == 0 and json.loads(text)["levels"][0]["formula"] == "H2O" and out.exists()
    assert not (tmp_path / "-").exists() and not Path("-").exists()


def test_quiet_commands_say_nothing(inputs, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    for name in ("predict", "check", "evaluate", "merge"):
        words = [*arguments(name, inputs, tmp_path / f"out-{name}"), "--quiet", "--json", numbers]
        assert run(capsys, *words) == (0, "", "")
        assert numbers.exists()
        numbers.unlink()
    assert "no such file" in fails(
        capsys, "predict", inputs / "a.ckpt", tmp_path / "absent.xyz", "--quiet", "-o", "x.h5"
    )


def test_a_summary_ends_with_what_to_do_next(inputs, tmp_path, capsys):
    for name, words in (("merge", "schnorb_t check {}"), ("export", "schnorb_t predict {}"), ("qm9", "label {} -o")):
        out = tmp_path / f"out-{name}"
        printed = run(capsys, *arguments(name, inputs, out))[1]
        assert printed.strip().splitlines()[-1].startswith("next: ") and words.format(out) in printed
    for command in COMMANDS.values():  # what is advised exists
        for verb in re.findall(r"schnorb_t ([a-z-]+)", command.then):
            assert verb in COMMANDS


def test_everything_that_ends_well_says_what_is_next(inputs, tmp_path, capsys):
    for name in ("predict", "evaluate", "check", "splits", "export-skf"):
        printed = run(capsys, *arguments(name, inputs, tmp_path / f"out-{name}"))[1]
        assert printed.strip().splitlines()[-1].startswith("next: "), printed
        assert "{" not in printed.strip().splitlines()[-1].replace("{ Prefix", "")
    without = {name for name, command in COMMANDS.items() if not command.then}
    # fit and predict say it themselves; what completion prints is a script
    assert without == {"fit", "predict", "fit-contraction", "info", "completion"}


def test_bars_tell_rate_and_remaining_time():
    from io import StringIO

    from rich.console import Console

    from schnorb_t import progress

    assert [progress.rate_text(x) for x in (None, 0.25, 1, 12.34)] == ["", "4 s each", "1/s", "12.3/s"]
    screen = Console(file=StringIO(), force_terminal=True, width=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "messages", lambda: screen)
        assert list(progress.tracked((time.sleep(0.03) or k for k in range(6)), "counting", 6)) == list(range(6))
    shown = screen.file.getvalue()
    assert "counting" in shown and "6/6" in shown and "/s" in shown and "left" in shown
    with progress.quiet():
        assert progress.messages().quiet
    assert not progress.messages().quiet


def test_shells_complete_commands_and_options(tmp_path, capsys):
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    script = tmp_path / "script"
    script.write_text(run(capsys, "completion", "bash")[1])
    ask = (
        f"source {script}; f=$(complete -p schnorb_t | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        "COMP_WORDS=(schnorb_t predict --ht); COMP_CWORD=2; $f; echo ${COMPREPLY[@]}; "
        "COMP_WORDS=(schnorb_t ens); COMP_CWORD=1; $f; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run([bash, "--norc", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--html", "ensemble"]
    assert "#compdef schnorb_t" in run(capsys, "completion", "zsh")[1]


# ---- errors of the program keep their traceback --------------------------------------------------------------------


def test_a_bug_is_not_called_bad_input():
    def broken():
        raise OSError("no errno: a bug, or a lost connection")

    with pytest.raises(OSError, match="no errno"):
        run_command(broken)

    def user():
        raise UserError("x: y")

    with pytest.raises(SystemExit) as stop:
        run_command(user)
    assert stop.value.code == 2


def test_memory_is_a_line(capsys):
    def hungry():
        raise MemoryError

    with pytest.raises(SystemExit) as stop:
        run_command(hungry)
    assert stop.value.code == 2 and "smaller batches" in capsys.readouterr().err


# ---- doors ---------------------------------------------------------------------------------------------------------

DOORS = {
    "fit": "schnorb_t.fit",
    "predict": "schnorb_t.predict",
    "evaluate": "schnorb_t.evaluate",
    "export-skf": "schnorb_t.export_skf",
    "ensemble": "schnorb_t.ensemble",
    "export": "schnorb_t.export",
    "check": "schnorb_t.data.check",
    "splits": "schnorb_t.data.splits",
    "geometries": "data_prep/geometries.py",
    "label": "data_prep/label_pyscf.py",
    "convert": "data_prep/convert_labels.py",
    "import-orca": "data_prep/import_orca.py",
    "label-xtb": "data_prep/label_xtb.py",
    "write-orca": "data_prep/write_orca.py",
    "fit-contraction": "data_prep/fit_contraction.py",
    "merge": "data_prep/merge.py",
    "project": "data_prep/project.py",
    "qm9": "data_prep/qm9.py",
    "sample": "data_prep/sample.py",
}


@pytest.mark.parametrize("name", DOORS)
def test_old_names_lead_to_the_same_command(name, tmp_path):
    door = DOORS[name]
    call = [str(ROOT / door)] if "/" in door else ["-m", door]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *call, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and f"usage: schnorb_t {name}" in done.stdout, done.stderr


def test_every_command_can_be_called_from_python():
    for name in PARSED:
        function, show = COMMANDS[name].load()
        assert callable(function) and callable(show) and function.__module__.startswith(commands.__name__)
