"""Methods that choose n of many molecules from their features and doubt; arrays in, places out.

- ``random``: at random;
- ``doubt``: the most doubtful;
- ``fps``: farthest-point sampling, each the farthest from all chosen and all labelled before;
- ``cur``: rows of greatest leverage, each made orthogonal to those chosen before (Imbalzano et al., J. Chem. Phys. 148,
  241730 (2018));
- ``fps-doubt``: farthest-point sampling of distance times doubt;
- ``cur-doubt``: CUR of features times doubt.

Farthest-point sampling and CUR are scikit-matter's.
"""

from __future__ import annotations

import warnings

import numpy as np

from schnorb_t.errors import UserError

METHODS = ("doubt", "fps", "cur", "fps-doubt", "cur-doubt", "random")
#: Principal components that are kept at most, and the share of the variance that they need not hold.
MOST_COMPONENTS, LEFT_OUT = 256, 1e-4
#: Of the features of labelled molecules, relative to their mean variance: directions below count as unknown in CUR.
RIDGE = 1e-2


def needs(method: str) -> tuple[bool, bool]:
    """Whether a method needs features, and whether it needs doubt."""
    return method.startswith(("fps", "cur")), method.endswith("doubt")


def check_installed(method: str) -> None:
    """Find out before any work whether scikit-matter is there where it is needed.

    Raises:
        UserError: it is not.
    """
    if needs(method)[0]:
        try:
            import skmatter.sample_selection  # noqa: F401
        except ImportError:
            raise UserError(
                f'--method {method} needs scikit-matter; pip install "schnorb_t[select]", or take doubt or random'
            ) from None


def compressed(features: np.ndarray) -> np.ndarray:
    """[n, F] -> [n, components] float64: principal components without centring; distances stay but for ``LEFT_OUT``."""
    x = np.asarray(features, dtype=np.float64)
    values, vectors = np.linalg.eigh(x.T @ x)
    values, vectors = values[::-1].clip(0.0), vectors[:, ::-1]
    total = values.sum()
    if total == 0.0:
        return x[:, :1]
    left = 1.0 - np.cumsum(values) / total
    kept = min(int((left > LEFT_OUT).sum()) + 1, MOST_COMPONENTS)
    return x @ vectors[:, :kept]


def choose(
    method: str,
    n: int,
    candidates: int,
    *,
    features: np.ndarray | None = None,
    doubt: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Choose molecules; the same arguments give the same choice.

    Args:
        method: one of ``METHODS``.
        n: how many; all if there are no more.
        candidates: how many there are.
        features: [candidates, F] where the method needs them.
        doubt: [candidates], above 0, where the method needs it.
        labelled: [m, F], features of what is labelled already.
        seed: of ``random``, and of the first molecule of ``fps`` where nothing is labelled.

    Returns:
        [n] places among the candidates, in the order of choice: any first part is a choice too.
    """
    n = min(n, candidates)
    random = np.random.default_rng(seed)
    if method == "random":
        return random.permutation(candidates)[:n]
    if method == "doubt":
        assert doubt is not None
        return np.argsort(-doubt, kind="stable")[:n]
    if n < 1 or candidates == 1:
        return np.arange(n)
    assert features is not None
    m = 0 if labelled is None else len(labelled)
    x = compressed(features if labelled is None or not m else np.concatenate([labelled, features]))
    weight = None
    if needs(method)[1]:
        assert doubt is not None
        weight = np.maximum(doubt, 1e-6)
    if method.startswith("fps"):
        return _farthest(x, m, n, weight, random)
    return _cur(x[m:] if not m else _unlike(x[:m], x[m:]), n, weight)


def _farthest(x: np.ndarray, m: int, n: int, weight: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """Places among x[m:]; x[:m] are there already."""
    from skmatter.sample_selection import FPS

    weights = None if weight is None else np.concatenate([np.ones(m), weight]) ** 2

    class WeightedFPS(FPS):
        """Largest distance times weight first."""

        def score(self, X, y=None):
            """Squared distance to what is chosen, times the squared weight."""
            distance = super().score(X, y)
            return distance if weights is None else distance * weights

    if m:
        start = np.arange(m)
    else:
        start = np.array([random.integers(len(x)) if weight is None else int(weight.argmax())])
    if x.shape[1] < 2:  # scikit-matter wants two features
        x = np.pad(x, ((0, 0), (0, 1)))
    return WeightedFPS(initialize=start, n_to_select=m + n).fit(x).selected_idx_[m:] - m


def _unlike(labelled: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Features in which directions count the less, the more of them is labelled: x (C + r)^(-1/2)."""
    values, vectors = np.linalg.eigh(labelled.T @ labelled / len(labelled))
    return x @ (vectors * (values.clip(0.0) + RIDGE * values.mean()) ** -0.5)


def _cur(x: np.ndarray, n: int, weight: np.ndarray | None) -> np.ndarray:
    """CUR; where more rows are wanted than the features have dimensions, it begins anew with the rows that are left."""
    from skmatter.sample_selection import CUR

    if weight is not None:
        x = x * weight[:, None]
    x = x / max(float(np.abs(x).max()), 1e-300)
    left, out = np.arange(len(x)), np.zeros(0, dtype=np.int64)
    while len(out) < n:
        rank = int(np.linalg.matrix_rank(x[left])) if min(x[left].shape) > 2 else 1
        part = min(n - len(out), max(rank - 1, 1))
        if rank < 3 or len(left) < 4:  # too little for a decomposition: the longest first
            chosen = np.argsort(-np.linalg.norm(x[left], axis=1), kind="stable")[:part]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                chosen = CUR(n_to_select=part).fit(x[left]).selected_idx_
        out, left = np.concatenate([out, left[chosen]]), np.delete(left, chosen)
    return out
