"""Coverage, rank correlation and AUROC on numbers whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from schnorb_t.training.doubt_metrics import DoubtErrors, attainable_spearman, auroc, coverage, spearman
from schnorb_t.training.doubt_report import SHARES, draw_doubt, print_doubt, reliability
from schnorb_t.units import HARTREE


def test_coverage_counts():
    error, deviation = np.array([0.5, -1.5, 2.5, -1.0]), np.ones(4)
    assert coverage(error, deviation, 1) == 0.5 and coverage(error, deviation, 2) == 0.75
    assert math.isnan(coverage(np.zeros(0), np.zeros(0)))


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.3  # with ties
    pairs = itertools.product(score[positive], score[~positive])
    assert auroc(score, positive) == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert auroc(np.arange(5.0), np.arange(5) > 2) == 1.0
    assert auroc(-np.arange(5.0), np.arange(5) > 2) == 0.0
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])) == 0.75
    assert math.isnan(auroc(np.arange(3.0), np.zeros(3, bool)))


def test_spearman_sees_order_alone():
    x = np.array([0.1, 0.2, 0.5, 2.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1) and spearman(x, -(x**3)) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with ranks 1 2 3 4 and 2 1 3 4
    assert spearman(x, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert math.isnan(spearman(x, np.ones(4)))


def test_how_far_an_exact_doubt_orders_errors_follows_from_the_errors_alone():
    rng = np.random.default_rng(3)
    z = rng.normal(size=20_000)
    assert attainable_spearman(z) < 0.25 and math.isnan(attainable_spearman(np.ones(2)))
    for width in (0.6, 1.2):
        sigma = np.exp(width * rng.normal(size=len(z)))
        assert attainable_spearman(sigma * z) == pytest.approx(spearman(sigma, np.abs(sigma * z)), abs=0.06)


def filled(scale: float) -> DoubtErrors:
    """Normal errors whose standard deviations are told ``scale`` times too large."""
    rng = np.random.default_rng(1)
    deviation = 0.01 * np.exp(rng.normal(0, 0.7, 20000))
    error = deviation * rng.normal(size=20000)
    doubt = deviation[:400]
    doubts = DoubtErrors()
    near = np.arange(20000) % 9 < 2
    for part in (slice(0, 9000), slice(9000, None)):
        doubts.add(error[part], scale * deviation[part], near[part], [], [])
    doubts.add([], [], [], np.abs(error[:400]), scale * doubt)
    return doubts


def test_well_calibrated_numbers_are_called_so(capsys):
    found = filled(1.0).metrics()
    for prefix in ("", "frontier_"):
        assert found[f"{prefix}coverage_1_sigma"] == pytest.approx(0.683, abs=0.02)
        assert found[f"{prefix}coverage_2_sigma"] == pytest.approx(0.954, abs=0.01)
    assert found["n_levels"] == 20000 and found["n_molecules"] == 400
    doubts = filled(1.0)
    gap_error = doubts.values("gap_error")
    assert found["large_gap_errors"] == (gap_error > 0.3).sum() > 10
    assert found["auroc_gap_error"] == pytest.approx(auroc(doubts.values("doubt"), gap_error > 0.3))
    assert doubts.values("doubt").max() == pytest.approx(HARTREE * np.concatenate(doubts._parts["doubt"]).max())
    assert np.abs(reliability(doubts.values("error"), doubts.values("deviation")) - SHARES).max() < 0.02
    print_doubt(found)
    printed = capsys.readouterr().out
    assert f"{found['frontier_coverage_2_sigma']:.3f}" in printed and f"{found['auroc_gap_error']:.3f}" in printed


def test_too_small_deviations_show():
    found = filled(0.5).metrics()
    assert found["coverage_1_sigma"] == pytest.approx(0.383, abs=0.02)  # erf(0.5 / sqrt 2)
    assert found["spearman_gap_error"] == pytest.approx(filled(1.0).metrics()["spearman_gap_error"])


def test_the_picture_holds_every_molecule_and_both_curves():
    figure = Figure()
    doubts = filled(1.0)
    draw_doubt(figure, doubts)
    left, right = figure.axes
    x, y = left.lines[0].get_data()
    assert np.allclose(x, doubts.values("doubt")) and np.allclose(y, np.maximum(doubts.values("gap_error"), 1e-4))
    assert left.get_xscale() == left.get_yscale() == "log"
    near = doubts.values("is_frontier")
    wanted = reliability(doubts.values("error")[near], doubts.values("deviation")[near])
    assert np.allclose(right.lines[1].get_ydata(), wanted)
    draw_doubt(Figure(), DoubtErrors())  # nothing to draw
