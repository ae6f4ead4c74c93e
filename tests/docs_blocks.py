"""Fenced blocks of the documentation, with what is said about running them, and the command lines in them.

A comment above a block says what happens to it, if it is not simply run by ``tests/test_docs.py``::

    <!-- run by tests/test_throughput.py -->     another test runs the same with smaller numbers
    <!-- slow -->                                run by the tests that take minutes
    <!-- parsed: needs ORCA -->                  only its commands and options are checked
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.py")),
]
#: what a block may be written in; ``text`` is what something prints
LANGUAGES = ("bash", "python", "yaml", "text")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page, line: where it stands.
        language: one of LANGUAGES.
        text: without fences and indentation.
        marker: of the comment above it, without ``<!--`` and ``-->``; may be empty.
    """

    page: str
    line: int
    language: str
    text: str
    marker: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs_here(self) -> bool:
        """Whether ``tests/test_docs.py`` runs it."""
        return self.language in ("bash", "python") and self.marker in ("", "slow")


def text_of(path: Path) -> str:
    """A page, or the text cells of a tutorial."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = "\n".join(line[2:] if line.startswith("# ") else "" for line in text.splitlines())
    return text


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    inside, language, start, indent, lines, marker = False, "", 0, 0, [], ""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        fence = re.match(r"^( *)```(.*)$", line)
        if fence and not inside:
            inside, indent, language, start, lines = True, len(fence[1]), fence[2].strip(), number, []
        elif fence:
            text = "\n".join(row[indent:] for row in lines) + "\n"
            found.append(Block(str(path.relative_to(ROOT)), start, language, text, marker))
            inside, marker = False, ""
        elif inside:
            lines.append(line)
        elif comment := re.fullmatch(r" *<!-- (.*) -->", line):
            marker = comment[1]
        elif line.strip():
            marker = ""
    assert not inside, f"{path}: a block that never ends"
    return found


def command_lines(text: str) -> list[list[str]]:
    """The commands of a bash block as words, without comments, environment, background and redirection."""
    out = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" && ", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[-1] == "&":
                words = words[:-1]
            if ">" in words:
                words = words[: words.index(">")]
            if words:
                out.append(words)
    return out


def all_blocks() -> list[Block]:
    """Of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def inline_code(path: Path) -> list[str]:
    """What stands between single backticks outside blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", text_of(path), flags=re.S | re.M)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
