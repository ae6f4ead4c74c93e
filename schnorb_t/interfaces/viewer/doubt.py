"""What a model's doubt means, in plain words."""

from __future__ import annotations

from schnorb_t.prediction import Prediction
from schnorb_t.units import HARTREE

#: eV of doubt beyond which a prediction is less sure than usual; beyond twice that it is not to be trusted.
DOUBT_ABOVE = 0.15


def grade(doubt: float | None, above: float = DOUBT_ABOVE) -> str:
    """``"unknown"``, ``"low"``, ``"raised"`` or ``"high"`` for a doubt in eV and the threshold of ``raised``."""
    if doubt is None:
        return "unknown"
    return "high" if doubt > 2 * above else "raised" if doubt > above else "low"


_HEADLINES = {
    "unknown": "This model cannot tell how sure it is",
    "low": "As sure as on molecules like those it learned from",
    "raised": "Less sure than on molecules like those it learned from",
    "high": "Not to be trusted: unlike the molecules it learned from",
}


def explain(prediction: Prediction, above: float = DOUBT_ABOVE) -> dict[str, object]:
    """Grade, headline and sentences for a page.

    Args:
        prediction: of any model.
        above: eV, see ``grade``.
    """
    doubt = prediction.doubt
    kind = grade(doubt, above)
    origin = prediction.origin
    method = origin.method if origin and origin.method else "the reference calculation"
    sentences = []
    if doubt is None or prediction.frontier_spread is None:
        sentences.append(
            "It gives no standard deviations. It may be wrong by electronvolts, without a sign, for molecules unlike "
            "those it learned from; schnorb_t calibrate teaches a model to tell."
        )
    else:
        homo, lumo = (HARTREE * x for x in prediction.frontier_spread)
        known = [(name, x) for name, x in (("HOMO", homo), ("LUMO", lumo)) if x == x]
        sentences.append(
            "Standard deviation: " + ", ".join(f"{name} ±{x:.2f} eV" for name, x in known) + f". The doubt of the "
            f"structure is the larger one, {doubt:.2f} eV."
        )
        if origin is not None and not origin.calibrated:
            sentences.append(
                "It is the spread over the members of an ensemble and not calibrated: it grows where they disagree, "
                "and does not see what all of them have wrong."
            )
        else:
            sentences.append(
                f"About two of three levels that {method} would give lie within one standard deviation, nineteen of "
                "twenty within two (the shaded bands in the diagram)."
            )
        if kind == "high":
            sentences.append(
                f"Beyond {2 * above:g} eV: check this structure by a calculation before you use its numbers."
            )
        elif kind == "raised":
            sentences.append(f"Beyond {above:g} eV: use with care.")
    sentences.append(
        f"Doubt is about the model, not about {method}: orbital energies of a density functional are themselves no "
        "ionisation energies."
        if "/" in method
        else "Doubt is about the model, not about the method that it learned."
    )
    return {"grade": kind, "headline": _HEADLINES[kind], "sentences": sentences, "above": above}
