"""Files for the forge, which cannot run here: linted, and they call what there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def check(*words):
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_files_follow_their_schema():
    check("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    check("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *FORMS)
    check("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")


def test_workflow_files_are_sound():
    check("zizmor", "--offline", "--quiet", "--config", ".github/zizmor.yml", ".github")


def test_the_workflows_cover_what_is_promised_and_call_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    jobs = {name: job for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())["jobs"].items()}
    assert {"lint", "test", "lowest", "docs", "wheel"} <= set(jobs)
    assert len(jobs["test"]["strategy"]["matrix"]["python"]) == 3
    called = re.findall(r"make ([a-z-]+)", "\n".join(s.get("run", "") for job in jobs.values() for s in job["steps"]))
    assert {"lint", "test", "test-lowest", "docs", "wheel"} <= set(called)
    for target in called:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_reports_of_problems_ask_for_what_is_needed():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text())
    needed = {x["id"] for x in form["body"] if x.get("validations", {}).get("required")}
    assert {"command", "output", "file", "info"} <= needed
    labels = [x["attributes"]["label"] for x in form["body"] if "id" in x]
    assert any("schnorb_t info" in label for label in labels)


def test_pre_commit_checks_with_the_versions_of_make_lint():
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        (tool,) = hook["additional_dependencies"]
        name, number = tool.split("==")
        assert pinned[name] == number
