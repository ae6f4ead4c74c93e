"""What users install: version bounds that are tested, and files that say the same of version, licence and commands."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import schnorb_t
from schnorb_t.commands.info import info
from schnorb_t.commands.selftest import show

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: tools of developers, whose versions change no result
TOOLS = {"test", "docs", "scatter", "browser"}


def requirements():
    """Every requirement at run time."""
    extras = [r for name, some in PROJECT["optional-dependencies"].items() if name not in TOOLS for r in some]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]


def pinned(name):
    lines = [line.split("#")[0].split(";")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return {key.lower().replace("_", "-"): number for key, number in (line.split("==") for line in lines if line)}


def test_the_lowest_versions_that_are_tested_are_those_promised():
    lowest = pinned("constraints-lowest.txt")
    promised = {}
    for requirement in requirements():
        (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]
        promised.setdefault(requirement.name.lower(), bound)
    assert set(lowest) == set(promised)
    for name, bound in promised.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", lowest[name]), (name, bound, lowest[name])


def test_the_newest_versions_that_are_tested_are_allowed():
    newest = pinned("constraints.txt")
    for requirement in requirements():
        assert requirement.specifier.contains(newest[requirement.name.lower()]), requirement


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == schnorb_t.__version__
    assert f"## {schnorb_t.__version__} - {citation['date-released']}" in changelog
    assert changelog.index("## Unreleased") < changelog.index(f"## {schnorb_t.__version__}")
    assert PROJECT["license"] == citation["license"] == "MIT"
    assert (ROOT / "schnorb_t" / "py.typed").exists()


def test_models_that_ship_stay_small():
    sizes = [path.stat().st_size for path in (ROOT / "schnorb_t" / "models").iterdir()]
    assert sum(sizes) < 25e6


def test_info_tells_what_a_report_needs(capsys):
    from schnorb_t.commands.info import show as show_info

    told = info()
    assert told["location"] == str(ROOT / "schnorb_t")
    assert {"sample", "qm9"} <= set(told["configurations"])
    assert {"organic", "qm9"} <= set(told["models"])
    show_info(told)
    out = capsys.readouterr().out
    for what in ("torch ", "pyscf ", "devices: cpu", "threads", f"schnorb_t {schnorb_t.__version__}", "Python 3"):
        assert what in out


def test_a_failed_selftest_leaves_with_an_exit_code(capsys):
    bad = {"name": "model x", "passed": False, "detail": "H is not symmetric", "seconds": 0.1}
    with pytest.raises(SystemExit, match="1"):
        show({"checks": [bad], "passed": False})
    assert "FAILED model x: H is not symmetric" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sample", "qm9"])
def test_a_configuration_is_found_by_its_name(name, monkeypatch, tmp_path):
    from schnorb_t.errors import ConfigurationError
    from schnorb_t.training.configuration import find_configuration, parse_configuration

    monkeypatch.chdir(tmp_path)
    assert Path(find_configuration(name)).read_text() == (ROOT / "configs" / f"{name}.yaml").read_text()
    assert (
        parse_configuration(["--config", name, "--name=mine"]).model.network == parse_configuration(name).model.network
    )
    with pytest.raises(ConfigurationError, match="the package has .*sample"):
        find_configuration("smaple")
    with pytest.raises(ConfigurationError, match=f"--config {name} is the one that comes"):
        parse_configuration([f"--config=configs/{name}.yaml"])
