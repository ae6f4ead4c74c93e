"""Pages of the site that are made from the code (commands, configuration) and from files of the project's root."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

#: page -> file outside docs/
OUTSIDE = {
    "ablation.md": "benchmarks/ablation.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "code_of_conduct.md": "CODE_OF_CONDUCT.md",
}


def printed(call) -> str:
    """What a call prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        call()
    return out.getvalue().strip()


def command_reference() -> str:
    """Every command with its help, as ``schnorb_t COMMAND --help`` prints it."""
    from schnorb_t.commands import COMMANDS, run

    os.environ["COLUMNS"] = "100"
    parts = [
        "# Command reference",
        "What `schnorb_t COMMAND --help` prints. What commands have in common: [Commands](commands.md).",
    ]
    for name, command in COMMANDS.items():
        parts.append(f"## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.")
        if name == "fit":
            parts.append("All of its options are keys of the [configuration](configuration.md).")
            continue
        parts.append(f"```text\n{printed(lambda name=name: run(name, ['--help']))}\n```")
    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """All keys of ``schnorb_t fit`` with their meaning and the values of ``sample``."""
    from schnorb_t.training.configuration import make_parser, parse_configuration

    parser = make_parser()
    text = printed(lambda: parse_configuration(["--config", "sample", "--print_config"], parser))
    text = re.sub(r"^- .*sample\.yaml$", "- sample", text, flags=re.M)
    intro = (
        "What `schnorb_t fit --config sample --print_config` prints: every key, its meaning, and its value in the "
        "configuration `sample`. `--data.batch_size 8` on the command line sets one."
    )
    return f"# Configuration\n\n{intro}\n\n```yaml\n{text}\n```\n"


def on_files(files, config):
    """Add the generated pages."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "command_reference.md", content=command_reference()))
    files.append(File.generated(config, "configuration.md", content=configuration()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside docs/ lead to their pages, or become plain names of files."""
    inverse = {source: target for target, source in OUTSIDE.items()}

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        name = target.removeprefix("../").removeprefix("./")
        if page.file.src_uri in OUTSIDE and name.startswith("docs/"):
            return f"[{text}]({name.removeprefix('docs/')}{anchor})"
        if name in inverse:
            return f"[{text}]({inverse[name]}{anchor})"
        if page.file.src_uri in OUTSIDE and (ROOT / name).exists() or target.startswith("../"):
            return text if "`" in text else f"`{name}`"
        return match[0]

    return re.sub(r"(?<!!)\[([^\]]*)\]\(((?!\w+://)[^)#\s]+)(#[^)]*)?\)", link, markdown)
