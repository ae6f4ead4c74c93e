"""A page of one prediction: a template with the script of 3Dmol.js, our own, and the numbers, all in one file."""

from __future__ import annotations

import base64
import gzip
import html
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from schnorb_t.files import write_text
from schnorb_t.interfaces.viewer.data import BROADENING, page_data
from schnorb_t.interfaces.viewer.doubt import DOUBT_ABOVE
from schnorb_t.prediction import Prediction

ASSETS = Path(__file__).parent / "assets"
LIBRARY = "3Dmol-min.js"


@lru_cache(maxsize=16)
def asset(name: str) -> str:
    """A text file of the viewer."""
    return (ASSETS / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def packed_library() -> str:
    """3Dmol.js as base64 of gzip: 210 kB instead of 540; browsers unpack it (DecompressionStream)."""
    return base64.b64encode(gzip.compress((ASSETS / LIBRARY).read_bytes(), 9, mtime=0)).decode("ascii")


def script_json(data: Any) -> str:
    """JSON that can stand inside a ``script`` element whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def fill(template: str, values: dict[str, str]) -> str:
    """A template with ``{{name}}`` replaced, in one pass: what is put in is not looked at again."""
    parts = template.split("{{")
    out = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}}")
        out += [values[name], rest]
    return "".join(out)


def shared_script() -> str:
    """What pages of one folder share where they are many: 3Dmol.js with its licence, and the pages' own scripts."""
    licence = asset("3Dmol-LICENSE.txt").replace("*/", "* /")
    return f"/*\n{licence}*/\n{asset(LIBRARY)}\n{asset('orbitals.js')}\n{asset('common.js')}\n{asset('page.js')}\n"


def page_text(
    prediction: Prediction,
    index: int | None = None,
    *,
    broadening: float = BROADENING,
    doubt_above: float = DOUBT_ABOVE,
    script: str = "",
    index_page: str = "",
) -> str:
    """The page as HTML.

    Args:
        prediction: of one molecule.
        index: of the structure in its file.
        broadening: eV, standard deviation of a level in the density of states.
        doubt_above: eV; beyond it the page says to use the prediction with care, beyond twice that not to trust it.
        script: file beside the page that holds ``shared_script``; by default everything is in the page.
        index_page: file that the page links back to.
    """
    data = page_data(prediction, index, broadening, doubt_above) | {"index_page": index_page}
    title = data["name"] or prediction.formula
    if script:
        scripts = f'<script src="{html.escape(script)}"></script>'
    else:
        scripts = (
            f"<!--\n3Dmol.js\n{html.escape(asset('3Dmol-LICENSE.txt')).replace('--', '- -')}-->\n"
            f'<script type="text/plain" id="library">{packed_library()}</script>\n'
            f"<script>{asset('orbitals.js')}</script>\n<script>{asset('common.js')}\n{asset('page.js')}</script>"
        )
    return fill(
        asset("head.html") + asset("page.html"),
        {
            "title": html.escape(f"{title} - orbitals"),
            "style": asset("common.css") + asset("page.css"),
            "sources": "'unsafe-inline'" + (" 'self' file:" if script else ""),
            "data": script_json(data),
            "scripts": scripts,
        },
    )


def write_page(path: str | Path, prediction: Prediction, **options: Any) -> None:
    """``page_text`` with its options into a file, which appears whole or not at all.

    Raises:
        UserError: the disk refuses.
    """
    write_text(path, page_text(prediction, **options))
