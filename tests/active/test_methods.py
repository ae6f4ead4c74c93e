"""Choices from features and doubt, against plain loops."""

import numpy as np
import pytest

from schnorb_t.active import methods
from schnorb_t.active.methods import METHODS, choose
from schnorb_t.errors import UserError

RANDOM = np.random.default_rng(3)
FEATURES, LABELLED = RANDOM.normal(size=(60, 7)), RANDOM.normal(size=(9, 7))
DOUBT = RANDOM.gamma(2.0, 0.1, size=60)


@pytest.fixture(autouse=True)
def skmatter(request):
    method = getattr(request.node, "callspec", None)
    if method is None or method.params.get("method") not in ("random", "doubt"):
        pytest.importorskip("skmatter")


def chosen(method, n, **more):
    given = {"features": FEATURES, "doubt": DOUBT, "labelled": LABELLED, **more}
    return choose(method, n, len(given["features"]), **given).tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labelled", [None, LABELLED])
def test_a_choice_is_repeatable_without_repetition_and_its_first_part_is_a_choice(method, labelled):
    whole = chosen(method, 25, labelled=labelled)
    assert len(set(whole)) == 25 and all(0 <= k < 60 for k in whole)
    assert whole == chosen(method, 25, labelled=labelled)
    assert whole[:4] == chosen(method, 4, labelled=labelled)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [60, 100])
def test_all_are_chosen_where_there_are_no_more(method, n):
    assert sorted(chosen(method, n)) == list(range(60))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_few_candidates(method, candidates):
    few = {"features": FEATURES[:candidates], "doubt": DOUBT[:candidates]}
    assert sorted(chosen(method, 9, **few)) == list(range(candidates))
    assert chosen(method, 1, **few)[0] in range(candidates)
    assert chosen(method, 0, **few) == []


@pytest.mark.parametrize("method, weight", [("fps", np.ones(60)), ("fps-doubt", DOUBT)])
def test_farthest_points_by_a_plain_loop(method, weight):
    covered, expected = list(LABELLED), []
    for _ in range(12):
        distance = np.array([min(np.linalg.norm(x - y) for y in covered) for x in FEATURES])
        score = distance * weight
        score[expected] = -1.0
        expected.append(int(score.argmax()))
        covered.append(FEATURES[expected[-1]])
    assert chosen(method, 12) == expected


def test_what_is_labelled_is_covered():
    copies = np.concatenate([LABELLED, FEATURES[:9]])
    assert sorted(chosen("fps", 9, features=copies)) == list(range(9, 18))


def test_doubt_alone():
    assert chosen("doubt", 5) == sorted(range(60), key=lambda k: -DOUBT[k])[:5]


def test_without_labels_the_product_begins_with_the_greatest_doubt():
    assert chosen("fps-doubt", 1, labelled=None) == [int(DOUBT.argmax())]


def test_the_seed_decides_what_is_random():
    assert chosen("random", 9) != chosen("random", 9, seed=1)
    assert len({chosen("fps", 1, labelled=None, seed=k)[0] for k in range(9)}) > 1


def test_cur_takes_one_of_each_direction_first():
    axes = np.repeat(np.diag([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]), 4, axis=0) * (1 + 0.01 * np.arange(24))[:, None]
    first = chosen("cur", 5, features=axes, labelled=None)
    assert len({k // 4 for k in first}) == 5
    again = chosen("cur", 20, features=axes, labelled=None)
    assert len(set(again)) == 20


def test_cur_weighs_by_doubt():
    sure, unsure = DOUBT.copy(), DOUBT.copy()
    sure[7], unsure[7] = 1e-5, 50.0
    assert chosen("cur-doubt", 1, doubt=unsure) == [7] and 7 not in chosen("cur-doubt", 30, doubt=sure)


def test_cur_listens_little_to_directions_that_are_labelled():
    candidates = np.eye(6)[np.repeat(np.arange(6), 3)] * np.repeat([9.0, 9.0, 9.0, 1.0, 1.0, 1.0], 3)[:, None]
    known = np.eye(6)[:3].repeat(5, axis=0) * 9.0
    assert {k // 3 for k in chosen("cur", 3, features=candidates, labelled=known)} == {3, 4, 5}


def test_features_that_say_nothing():
    assert sorted(chosen("cur", 4, features=np.zeros((4, 3)), labelled=None, doubt=DOUBT[:4])) == [0, 1, 2, 3]
    assert len(chosen("fps", 2, features=np.zeros((4, 3)), labelled=None)) == 2


def test_compression_keeps_distances():
    wide = FEATURES @ RANDOM.normal(size=(7, 300))
    small = methods.compressed(wide)
    assert small.shape[1] <= 7
    before, after = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (wide, small))
    np.testing.assert_allclose(after, before, rtol=2e-2, atol=1e-9)


def test_an_absent_library_is_a_line_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skmatter.sample_selection", None)
    with pytest.raises(UserError, match=r"--method fps needs scikit-matter; pip install \"schnorb_t\[select\]\""):
        methods.check_installed("fps")
    methods.check_installed("random")
    methods.check_installed("doubt")
