"""Every option of every command is known to a test; here those that no other test gives, with what they change."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from schnorb_t.commands import COMMANDS, main
from schnorb_t.commands.parser import parser_of
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from tests.commands.inputs import arguments, make_full, make_inputs
from tests.docs_blocks import ROOT, all_blocks, command_lines

#: in which words a test, or a block of the documentation that is run, may name a command
TESTS = {path: path.read_text() for path in sorted((ROOT / "tests").glob("**/*.py"))}
#: keys of a configuration that change nothing that a test could see -> what they do
WITHOUT_EFFECT = {
    "data.keep_in_memory": "how often the file is read",
    "model.prior_memory": "how much of what the prior says is kept",
}
#: (command, option) -> where what it sets is tested, if not by the command
TESTED_BELOW = {
    **dict.fromkeys(
        [("fit-dftb", o) for o in ("--skf", "--data", "--folder", "--epochs", "--max-train")],
        "stands for a key of the configuration, which tests/training/test_tables.py gives",
    ),
    **dict.fromkeys(
        [("subtract-dftb", o) for o in ("--shell-resolved", "--smearing")],
        "an argument of schnorb_t.physics.dftb.DFTB: tests/physics/test_dftb.py",
    ),
    ("subtract-dftb", "--batch-size"): "changes memory and time alone",
    **dict.fromkeys(
        [("md", o) for o in ("--ensemble", "--equilibrate")],
        "the settings of the dynamics: tests/interfaces/test_ase_energies.py",
    ),
    ("md", "--orbitals"): "SchNOrbT(..., energies=...): tests/interfaces/test_ase_energies.py",
    ("md", "--picture"): "the test of the report finds it at its default place",
    ("label-model", "--source"): "a text for the file, as with label and label-xtb",
    ("md", "--device"): "needs a GPU to differ",
    ("label-model", "--device"): "needs a GPU to differ",
}
#: given to every command; tested for all of them together in test_commands.py
COMMON = {"help", "json", "quiet"}


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


def call(name, folder, output, *options):
    main([*arguments(name, folder, output), *map(str, options)])


# ---- none is forgotten ---------------------------------------------------------------------------------------------


def options_of_pages():
    """Command -> options in blocks that are run."""
    found: dict[str, set[str]] = {}
    for block in all_blocks():
        if block.language == "bash" and block.runs_here and block.page.endswith(".md"):
            for words in command_lines(block.text):
                if words[0] == "schnorb_t":
                    found.setdefault(words[1], set()).update(w for w in words if w.startswith("-"))
    return found


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "fit"])
def test_every_option_is_given_by_a_test_and_explained(name):
    command, in_pages = COMMANDS[name], options_of_pages().get(name, set())
    function, _ = command.load()
    about = [t for t in TESTS.values() if name in t or command.module in t or f"{command.function}(" in t]
    missing = []
    for action in parser_of(function, name)._actions:
        if not action.option_strings or action.dest in COMMON:
            continue
        assert action.help and len(action.help) > 3, action.option_strings
        pattern = "|".join(rf"{re.escape(option)}[\s\"'=,]" for option in action.option_strings)
        keyword = rf"\b{action.dest}="
        used = set(action.option_strings) & in_pages or any(
            re.search(pattern, text) or (f"{command.function}(" in text and re.search(keyword, text)) for text in about
        )
        if not used and (name, action.option_strings[-1]) not in TESTED_BELOW:
            missing.append(action.option_strings[-1])
    assert not missing, f"schnorb_t {name}: no test gives {', '.join(missing)}"


def test_every_key_of_a_configuration_is_given_by_a_test():
    """Those of this package; the trainer's are Lightning's."""
    from schnorb_t.training.configuration import make_parser

    elsewhere = (text for path, text in TESTS.items() if path != Path(__file__).resolve())
    given = "\n".join([*elsewhere, *(path.read_text() for path in (ROOT / "configs").glob("*.yaml"))])
    own = [a.dest for a in make_parser("schnorb_t fit", "")._actions if a.dest.startswith(("data.", "model."))]
    missing = {key for key in own if not re.search(rf"\b{key.rpartition('.')[2]}\b", given)}
    assert missing == set(WITHOUT_EFFECT)


# ---- the others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calibrate", "select"])
def test_force_replaces(name, inputs, tmp_path):
    if name == "select":
        pytest.importorskip("skmatter")
    out = tmp_path / "out"
    out.write_text("old")
    call(name, inputs, out, "--force", *(["--seed", "1"] if name == "select" else []))
    assert out.stat().st_size > 100


def test_geometries_hot_and_relaxed(inputs, tmp_path):
    pytest.importorskip("rdkit"), pytest.importorskip("tblite")
    (tmp_path / "list.csv").write_text("smiles,split\nO,train\nC,test\n")
    common = [tmp_path / "list.csv", "--workers", 1, "--duration", 2, "--time-step", 1, "--prefix", "mine"]
    train = [*common, "-o", tmp_path / "hot.xyz", "--only-split", "train", "--hot-fraction", 1]
    main(["geometries", *map(str, [*train, "--temperatures", 300, 301])])
    (hot,) = read(tmp_path / "hot.xyz", ":")
    assert hot.info["name"].startswith("mine") and hot.info["kind"] == "hot" and 300 <= hot.info["temperature"] <= 301
    main(["geometries", *map(str, [*train[:-1], 0, "-o", tmp_path / "relaxed.xyz"])])
    (relaxed,) = read(tmp_path / "relaxed.xyz", ":")
    assert relaxed.info["kind"] == "relaxed" and not np.allclose(relaxed.positions, hot.positions)


def test_learn_takes_folder_budget_and_accuracy_from_the_command_line(inputs, tmp_path, monkeypatch):
    pytest.importorskip("skmatter")
    import schnorb_t.active.loop

    def stop(settings, *_, **__):
        raise UserError(f"{settings.folder} {settings.budget} {settings.accuracy}")

    monkeypatch.setattr(schnorb_t.active.loop, "Loop", stop)
    config = tmp_path / "learn.yaml"
    config.write_text(f"folder: there\npool: [{inputs / 'pool.xyz'}]\nmodel: organic\nlabel: {{target: wqvo}}\n")
    with pytest.raises(UserError, match="here 7 0.5"):
        main(["learn", "--config", str(config), "--folder", "here", "--budget", "7", "--accuracy", "0.5"])


def test_ways_to_the_same_label(inputs, tmp_path):
    pytest.importorskip("pyscf")
    found = {}
    for way in (["--plain-scf"], ["--memory", "1", "--source", "tests"], ["--no-density-fitting"]):
        out = tmp_path / f"{way[0].strip('-')}.h5"
        call("label", inputs, out, *way)
        with Store(out) as store:
            found[way[0]] = store[0].hamiltonian, str(store.header)
    plain, small, exact = found.values()
    np.testing.assert_allclose(plain[0], small[0], atol=1e-6)
    assert 1e-7 < np.abs(plain[0] - exact[0]).max() < 1e-2
    assert "tests" in small[1] and "tests" not in plain[1]


def test_the_source_of_xtb_labels_stands_in_the_file(inputs, tmp_path):
    pytest.importorskip("tblite")
    call("label-xtb", inputs, tmp_path / "out.h5", "--source", "made for a test")
    assert "made for a test" in str(Store(tmp_path / "out.h5").header)


def test_h_from_orbitals_instead_of_a_given_fock_matrix(full, tmp_path, capsys):
    said = {}
    for options in ([], ["--ignore-fock"]):
        call("import-orca", full, tmp_path / f"{len(options)}.h5", *options)
        said[len(options)] = capsys.readouterr().out
    given, made = (Store(tmp_path / f"{k}.h5")[0].hamiltonian for k in (0, 1))
    np.testing.assert_allclose(given, made, atol=1e-4)


def test_the_first_of_an_archive(inputs, tmp_path):
    call("qm9", inputs, tmp_path / "one.xyz", "--limit", 1)
    assert len(read(tmp_path / "one.xyz", ":")) == 1


def test_small_molecules_that_validate(inputs, tmp_path):
    counts = {}
    for fraction in (0.2, 0.6):
        out = tmp_path / f"{fraction}.h5"
        call("splits", inputs, out, "--by", "size", "--largest-in-training", 2, "--val-fraction", fraction)
        with Store(out) as store:
            counts[fraction] = len(store.indices("val"))
    assert counts[0.2] < counts[0.6]


def test_few_molecules_for_a_contraction(full, tmp_path, capsys):
    call("fit-contraction", full, tmp_path / "way.npz", "--max-train", 1, "--max-val", 0)
    assert Path(tmp_path / "way.npz").stat().st_size > 100
