"""A folder of pages, one per structure, with an index over them: ``schnorb_t predict --html``."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import covalent_radii

from schnorb_t.files import write_text
from schnorb_t.interfaces.viewer.data import BROADENING, first_view
from schnorb_t.interfaces.viewer.doubt import DOUBT_ABOVE, grade
from schnorb_t.interfaces.viewer.page import asset, fill, page_text, script_json, shared_script
from schnorb_t.prediction import Prediction
from schnorb_t.units import HARTREE

INDEX = "index.html"
#: What pages share where there are more than ``SELF_CONTAINED``: 560 kB once instead of 220 kB in each.
SCRIPT = "schnorb_t-viewer.js"
SELF_CONTAINED = 100
#: Structures of an index beyond which it holds no sketches of molecules, 300 bytes each.
SKETCHED = 10_000
#: Atoms of a structure beyond which a sketch shows nothing.
SKETCHED_ATOMS = 300
#: Bonds of a sketch: atoms nearer than this multiple of the sum of their covalent radii.
_BOND = 1.25


def page_name(index: int, prediction: Prediction) -> str:
    """``000003_caffeine.html``: index, and the name (the formula where it has none) in letters safe for any disk."""
    safe = re.sub(r"[^A-Za-z0-9+-]+", "_", prediction.name)[:60].strip("_")
    return f"{index:06d}_{safe or prediction.formula}.html"


def sketch(prediction: Prediction) -> list[list[int]]:
    """[atomic numbers, x y z of each atom in 0.01 Å as its page first shows it, pairs of bonded atoms]."""
    from scipy.spatial.transform import Rotation

    z, r = prediction.atomic_numbers, prediction.positions - prediction.positions.mean(0)
    turned = Rotation.from_quat(first_view(r)).apply(r)
    radii = covalent_radii[z]
    near = np.linalg.norm(r[:, None] - r[None], axis=-1) < _BOND * (radii[:, None] + radii)
    pairs = np.argwhere(np.triu(near, 1))
    return [z.tolist(), np.round(100 * turned).astype(int).ravel().tolist(), pairs.ravel().tolist()]


class Pages:
    """Writes pages one by one into a folder and the index at the end; for ``exports.exporting``.

    Args:
        total: how many structures there will be; more than ``SELF_CONTAINED`` share one script beside them.
        title: of the index.
        broadening, doubt_above: eV, see ``page_text``.
    """

    def __init__(self, total: int, title: str = "", broadening: float = BROADENING, doubt_above: float = DOUBT_ABOVE):
        self.total, self.title, self.broadening, self.doubt_above = total, title, broadening, doubt_above
        self.shared = total > SELF_CONTAINED
        self._rows: dict[int, dict[str, Any]] = {}
        self._sketches: dict[int, list[list[int]]] = {}
        self._model = ""

    def __call__(self, folder: Path, index: int, prediction: Prediction) -> None:
        """One structure's page.

        Raises:
            UserError: the disk refuses.
        """
        name = page_name(index, prediction)
        text = page_text(
            prediction,
            index,
            broadening=self.broadening,
            doubt_above=self.doubt_above,
            script=SCRIPT if self.shared else "",
            index_page=INDEX if self.total > 1 else "",
        )
        # the whole folder takes its name at the end, and thousands of pages need not be flushed one by one
        (folder / name).write_text(text, encoding="utf-8")
        doubt = prediction.doubt
        levels = {k: HARTREE * getattr(prediction, k) for k in ("homo", "lumo", "gap")}
        self._rows[index] = {
            "index": index,
            "file": name,
            "name": " ".join(prediction.name.split()),
            "formula": prediction.formula,
            "atoms": len(prediction.atomic_numbers),
            **{key: round(value, 4) if value == value else None for key, value in levels.items()},
            "doubt": None if doubt is None or doubt != doubt else round(doubt, 4),
            "grade": grade(doubt, self.doubt_above),
        }
        if self.total <= SKETCHED and len(prediction.atomic_numbers) <= SKETCHED_ATOMS:
            self._sketches[index] = sketch(prediction)
        if prediction.origin is not None:
            self._model = prediction.origin.text

    def index_text(self) -> str:
        """The index as HTML: a table that sorts, and a scatter plot."""
        rows = [self._rows[index] for index in sorted(self._rows)]
        data = {
            "title": self.title or "Structures",
            "model": self._model,
            "above": 2 * self.doubt_above,
            "columns": {key: [row[key] for row in rows] for key in (rows[0] if rows else {})},
            "sketches": [self._sketches.get(row["index"]) for row in rows] if self._sketches else None,
        }
        return fill(
            asset("head.html") + asset("index.html"),
            {
                "title": html.escape(f"{data['title']} - orbitals"),
                "style": asset("common.css") + asset("index.css"),
                "above": f"{2 * self.doubt_above:g}",
                "data": script_json(data),
                "script": f"{asset('common.js')}\n{asset('index.js')}",
                "sources": "'unsafe-inline'",
            },
        )

    def finish(self, folder: Path) -> None:
        """The index, where there are several structures, and the script that pages share.

        Raises:
            UserError: the disk refuses.
        """
        if self.total > 1:
            write_text(folder / INDEX, self.index_text())
        if self.shared:
            write_text(folder / SCRIPT, shared_script())

    @property
    def start(self) -> str:
        """The file to open first."""
        return INDEX if self.total > 1 else next(iter(self._rows.values()))["file"]
