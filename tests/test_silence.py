"""The library tells nothing on stdout: functions return, loggers and stderr tell, commands print."""

import ast
import logging
from pathlib import Path

import pytest

import schnorb_t
from schnorb_t.progress import quiet
from tests.training.examples import toy_files

PACKAGE = Path(schnorb_t.__file__).parent
#: file -> why it may print
MAY_PRINT = {
    "errors.py": "the one line of run_command, on stderr",
    "training/configuration.py": "--print_config of the command line",
    "interfaces/dftbplus_library.py": "the process that tries an input answers its parent by stdout",
    "training/report.py": "print_table, called by commands",
    "training/property_metrics.py": "print_comparison, called by commands",
    "training/energy_report.py": "print_energy_table, called by commands",
    "training/doubt_report.py": "print_doubt, called by commands",
    "active/report.py": "print_row, called by commands",
}


def prints(path):
    """Lines of a module that call ``print``, or ``print`` of a console."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name == "print":
                yield node.lineno


def test_only_these_modules_print():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("commands/") and (lines := list(prints(path))):
            found[name] = lines
    assert set(found) == set(MAY_PRINT), found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return toy_files(tmp_path_factory.mktemp("toy"))


def test_functions_print_nothing(files, tmp_path, capfd):
    from ase.build import molecule
    from ase.io import write

    from schnorb_t.commands.check import check
    from schnorb_t.commands.evaluate import evaluate
    from schnorb_t.commands.predict import predict
    from schnorb_t.commands.splits import splits

    model, store = files
    write(tmp_path / "water.xyz", molecule("H2O"), format="extxyz")
    with quiet():
        assert predict(str(model), tmp_path / "water.xyz", output=tmp_path / "out.h5")["structures"] == 1
        assert evaluate(str(model), str(store))["n_molecules"] > 0
        assert check(store, png=tmp_path / "check.png")["errors"] == []
        assert splits(store, seed=1)["splits"]
    schnorb_t.load(str(model)).predict(molecule("H2O")).html(tmp_path / "water.html")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_loggers_bear_the_name_of_the_package():
    import schnorb_t.training.run

    assert schnorb_t.training.run.logger.name.startswith("schnorb_t.")
    assert not logging.getLogger("schnorb_t").handlers  # the application decides
