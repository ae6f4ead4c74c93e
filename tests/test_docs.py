"""Everything that README, the documentation and the tutorials tell readers to type.

Each ``bash`` and ``python`` block is run, page by page and in order, in a folder with the files that the page speaks
of; or a comment above it names what runs it instead (``tests/docs_blocks.py``). Tutorials are executed by
``make docs``. Commands and options are known to their parsers wherever they stand, in running text too.
"""

import ast
import json
import os
import re
import sys
import time
import traceback
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from schnorb_t import commands
from schnorb_t.commands import COMMANDS
from schnorb_t.commands.parser import parser_of
from tests.docs_blocks import LANGUAGES, PAGES, ROOT, Block, all_blocks, blocks, command_lines, inline_code
from tests.docs_inputs import SHORTER, lay_out, spread

BLOCKS = all_blocks()
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
#: pages with blocks that run here, and whether they wait for the slow tests
RUN = sorted({(b.page, b.marker == "slow") for b in BLOCKS if b.runs_here and b.page.endswith(".md")})
#: programs that a reader has from elsewhere
OUTSIDE = {"cd", "pip", "make", "git", "dask", "srun", "sh", "pre-commit", "python", "schnorb_t"}
#: written in lines that are checked, but not typed by every reader
NOT_RUN = {"pip", "make", "cd"}


# ---- what is said about blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.where)
def test_every_block_has_a_language_and_an_owner(block):
    assert block.language in LANGUAGES, "say bash, python, yaml or text"
    if block.marker.startswith("run by "):
        test = ROOT / block.marker.removeprefix("run by ")
        assert test.is_file(), test
        text = test.read_text()
        for words in command_lines(block.text) if block.language == "bash" else ():
            name = Path(words[1]).stem if words[0] == "python" else words[1]
            if words[0] in ("python", "schnorb_t"):
                assert name in text or name.replace("-", "_") in text, f"{test.name} says nothing of {name}"
        if block.language == "python":
            assert imported(block.text) & set(re.findall(r"\w+", text))
        return
    assert block.marker in ("", "slow") or re.fullmatch(r"parsed: (needs|takes) .+", block.marker), block.marker


def imported(text):
    """Names that a block imports from the package."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes if (node.module or "").startswith("schnorb_t") for alias in node.names}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.where)
def test_python_is_python(block):
    ast.parse(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: b.where)
def test_yaml_is_a_configuration(block, tmp_path):
    from schnorb_t.training.configuration import parse_configuration

    path = tmp_path / "snippet.yaml"
    path.write_text(block.text)
    assert parse_configuration(["--config", "sample", "--config", str(path)])
    assert set(yaml.safe_load(block.text)) <= {"data", "model", "trainer", "checkpoint", "early_stopping", "ema"}


# ---- commands and options exist ------------------------------------------------------------------------------------


@lru_cache
def fit_options(architecture="matrix"):
    from schnorb_t.training.configuration import make_parser

    parser = make_parser("schnorb_t fit", "")
    return frozenset(name for action in parser._actions for name in action.option_strings)


@lru_cache
def options_of(name):
    """All options of a command, or of a script of benchmarks/."""
    if name == "fit":
        return fit_options()
    if name in COMMANDS:
        function, _ = COMMANDS[name].load()
        return frozenset(o for a in parser_of(function, name)._actions for o in a.option_strings)
    tree = ast.parse((ROOT / name).read_text())
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return frozenset({"--help"} | {t for t in texts if re.fullmatch(r"--?[a-z][\w-]*", t)})


def check_line(words):
    """A command line of a page: the program, the command and its options exist, values have the right type."""
    program, *rest = words
    assert program in OUTSIDE, f"{program}: who has it?"
    if program == "schnorb_t":
        assert rest[0] in COMMANDS or rest[0].startswith("--"), rest
        if rest[0] == "fit":
            assert {w.partition("=")[0] for w in rest if re.match(r"--[a-z]", w)} <= fit_options(), rest
        elif rest[0] in COMMANDS:
            function, _ = COMMANDS[rest[0]].load()
            parser_of(function, rest[0]).parse_args(rest[1:])
    elif program == "python" and rest[0] != "-m":
        script = rest[0]
        assert (ROOT / script).is_file(), script
        assert {w.partition("=")[0] for w in rest if re.match(r"--?[a-z]", w)} <= options_of(script), rest
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in (w for w in rest if "=" not in w):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for variable in (w.split("=")[0] for w in rest if "=" in w):
            assert f"$({variable})" in makefile, variable
    elif program == "pip":
        check_extras(" ".join(rest))


def check_extras(text):
    """Extras in brackets are those of pyproject.toml."""
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    for extras in re.findall(r"(?:schnorb_t|\.|whl)\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= declared, extras


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=lambda b: b.where)
def test_commands_and_options_of_blocks_exist(block):
    for words in command_lines(block.text):
        check_line(words)


@lru_cache
def every_option():
    """Options of all commands, of fit, of the scripts of benchmarks/ and of the tests."""
    scripts = [f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")]
    return frozenset().union(*(options_of(name) for name in [*COMMANDS, *scripts])) | {"--maxprocesses"}


@pytest.mark.parametrize("page", NAMES)
def test_commands_and_options_in_running_text_exist(page):
    for code in inline_code(ROOT / page):
        if code == "schnorb_t store":  # what a file calls its format
            continue
        if found := re.match(r"schnorb_t ([a-z][a-z0-9-]*)", code):
            assert found[1] in COMMANDS, code
            known = options_of(found[1])
        elif found := re.match(r"python ((?:benchmarks|data_prep)/\w+\.py)", code):
            assert (ROOT / found[1]).is_file(), code
            known = options_of(found[1])
        elif found := re.match(r"make ([a-z0-9-]+)", code):
            check_line(code.split())
            continue
        elif code.startswith("--"):
            known = every_option()
        else:
            check_extras(code)
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code):
            if option.startswith("--model.network."):
                continue  # keys of a network depend on the architecture
            assert option in known, f"{option} of: {code}"


# ---- blocks run ----------------------------------------------------------------------------------------------------


def run_page(page, slow):
    """Run a page's blocks in the current folder."""
    names = {"__name__": "__main__"}
    for block in blocks(ROOT / page):
        if not block.runs_here or (block.marker == "slow") != slow:
            continue
        print(f"---- {block.where}", flush=True)
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
            continue
        for words in command_lines(block.text):
            if words[0] in NOT_RUN:
                continue
            run_command(page, words)


def run_command(page, words):
    assert words[0] == "schnorb_t", f"{words}: mark the block; only commands of the package are run"
    words = words[1:]
    for command, having, old, new in SHORTER:
        if words[0] == command and having <= set(words):
            words = [new[0] if word == old else word for word in words] if old else [*words, *new]
    started = time.perf_counter()
    commands.main(words)
    print(f"[{time.perf_counter() - started:.1f} s] {' '.join(words)}", flush=True)
    if words[0] == "splits" and "labels.h5" in words:
        spread(Path("labels.h5"))


def forked(function, *arguments, log):
    """Run a function in a copy of this process, which keeps what it changes to itself; what it prints is in a file."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                function(*arguments)
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, Path(log).read_text()[-3000:]


@pytest.mark.timeout(1800)  # half a minute; a busy machine takes long
@pytest.mark.parametrize(
    ("page", "slow"), [pytest.param(*row, marks=[pytest.mark.slow] if row[1] else [], id=row[0]) for row in RUN]
)
def test_the_blocks_of_a_page_run(page, slow, tmp_path, monkeypatch):
    for needed in ("pyscf", "tblite", "rdkit", "skmatter", "shtab"):
        pytest.importorskip(needed)
    folder = tmp_path / "reader"
    folder.mkdir()
    lay_out(page, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    forked(run_page, page, slow, log=tmp_path / "log")
    check = CHECKS.get(page)
    if check and not slow:
        check(folder)


def readme_left(folder):
    for name in ("out.h5", "mine.h5", "labels.h5", "out_cubes", "acetaldehyde.html"):
        assert (folder / name).exists()
    assert len(list((folder / "pages").glob("*.html"))) == 5  # four molecules and the index


def getting_started_left(folder):
    for name in ("out.h5", "errors.json", "labels.h5", "skf", "dftb"):
        assert (folder / name).exists()
    assert json.loads((folder / "errors.json").read_text())["n_molecules"] > 0


#: what must be there afterwards
CHECKS = {"README.md": readme_left, "docs/getting_started.md": getting_started_left}


# ---- README --------------------------------------------------------------------------------------------------------


def test_the_two_commands_are_those_of_the_makefile():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for command in ("fit", "test"):
        assert f"make {command} " in readme and re.search(rf"^{command}:", makefile, re.M)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_pictures_exist(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_a_wrong_page_would_be_found(tmp_path):
    """The checks above can fail."""
    page = tmp_path / "page.md"
    page.write_text("<!-- run by tests/test_nothing.py -->\n```bash\nschnorb_t predict a b --outptu c\n```\n")
    text = page.read_text()
    assert command_lines(text.split("```bash\n")[1].split("```")[0]) == [
        ["schnorb_t", "predict", "a", "b", "--outptu", "c"]
    ]
    with pytest.raises(SystemExit):
        check_line(["schnorb_t", "predict", "a", "b", "--outptu", "c"])
    with pytest.raises(AssertionError):
        check_line(["schnorb_t", "fit", "--data.pth", "x"])
    with pytest.raises(AssertionError):
        check_line(["make", "nothing"])
    with pytest.raises(AssertionError):
        test_every_block_has_a_language_and_an_owner(Block("x", 1, "bash", "schnorb_t info\n", "run by tests/no.py"))
