"""The page of a prediction inside a notebook."""

from __future__ import annotations

import html

from schnorb_t.interfaces.viewer.page import page_text
from schnorb_t.prediction import Prediction


class View:
    """Shows itself where it is the last value of a notebook's cell; needs neither IPython nor a network.

    Args:
        prediction: of one molecule.
        height: of the frame, pixels.
    """

    def __init__(self, prediction: Prediction, height: int = 760):
        self.prediction, self.height = prediction, int(height)

    def _repr_html_(self) -> str:
        page = html.escape(page_text(self.prediction), quote=True)
        style = f"width: 100%; height: {self.height}px; border: 0; border-radius: 8px"
        return f'<iframe srcdoc="{page}" style="{style}" title="orbitals" allowfullscreen></iframe>'

    def __repr__(self) -> str:
        x = self.prediction
        return (
            f"View of {x.name or x.formula}: in a notebook the last value of a cell shows it; or prediction.html(path)"
        )
