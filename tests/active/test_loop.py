"""The loop with cheap labels and closed-form models: killed anywhere it goes on as if nothing had happened."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from schnorb_t.active.configuration import read_settings
from schnorb_t.active.loop import Loop, Settings
from schnorb_t.active.report import draw, table
from schnorb_t.commands.learn import CommandSteps
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.store import Header, Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.structures import from_atoms, read_for_labels
from schnorb_t.training import checkpoint
from schnorb_t.training.calibration import draw_members
from schnorb_t.training.checkpoint import load_single
from tests.training.examples import BASIS, fitted_model, geometries, record, write_checkpoint


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


#: molecules trained on -> model, without and with draws: the same ones in every test, so each is made once
FITTED, DRAWN = {}, {}


def trained_on(labels):
    """Names of a store's training molecules, in their order."""
    return tuple(labels.names[labels.indices("train")])


class ToySteps(CommandSteps):
    """Extended Hückel labels, models from closed form, draws without calibration, one number as judgement.

    Args:
        settings: of the loop.
        die: step -> call of it (from 1) in which the process dies, after half of its work.
        fails: names whose label fails.
    """

    def __init__(self, settings, die=None, fails=()):
        super().__init__(settings, lambda text: None)
        self.die, self.fails, self.calls, self.labelled = die or {}, fails, dict.fromkeys("ltcj", 0), []

    def _dies(self, step):
        self.calls[step] += 1
        return self.die.get(step) == self.calls[step]

    def label(self, structures, store):
        dies = self._dies("l")
        read = read_for_labels([structures])
        header = Header(BASIS, "toy", {"functional": "extended Hueckel"}, {"none": "0"})
        with StoreWriter(store, header) as writer:
            todo = [s for s in read if s.name not in writer.known_names]
            for k, s in enumerate(todo):
                if dies and k == len(todo) // 2:
                    raise Killed
                if s.name in self.fails:
                    writer.add_failure(s.name, "did not converge", s.order)
                    continue
                made = record(s.to_atoms(), s.split, s.order)
                made.values["group"] = s.group
                writer.add(made)
                self.labelled.append(s.name)

    def train(self, store, folder, start_from):
        if self._dies("t"):
            raise Killed
        with Store(store) as labels:
            key = trained_on(labels)
            if key not in FITTED:
                FITTED[key] = fitted_model(labels)
            return write_checkpoint(folder / "fit.ckpt", FITTED[key], labels)

    def calibrate(self, model, store, output):
        if self._dies("c"):
            raise Killed
        plain, card = load_single(model)
        arguments = {**card.arguments, "doubt_members": 3}
        with Store(store) as labels:
            key = trained_on(labels)
            rows = [labels[int(i)] for i in labels.indices("train")]
        if key not in DRAWN:
            DRAWN[key] = MatrixModel(card.basis, **arguments).eval()
            DRAWN[key].load_state_dict(plain.state_dict(), strict=False)
            draw_members(DRAWN[key], [records_to_batch(rows, card.basis, DRAWN[key].cutoff)], 1e-4)
        sure = DRAWN[key]
        checkpoint.write_checkpoint(output, sure, replace(card, arguments=arguments), "")

    def judge(self, model, store, split):
        if self._dies("j"):
            raise Killed
        with Store(store) as labels:
            return {"gap_mae_ev": 1.0 / len(labels.indices("train"))}


def pool(splits=True):
    out = []
    for seed in range(5):
        for atoms in geometries(seed):
            group = atoms.info["name"]
            if splits:
                atoms.info["split"] = {"C6H6": "test", "C2H4": "val", "C2H6": "val"}.get(group, "train")
            atoms.info.update(group=group, name=f"{group}/{seed}")
            out.append(from_atoms(atoms))
    return out


def settings(folder, **changes):
    given = {"pool": ["pool"], "start": 8, "number": 4, "val": 4, "test": 3, "budget": 16, "method": "doubt"}
    return Settings(folder=str(folder), **{**given, **changes})


def chosen(state):
    return [r.chosen for r in state.rounds]


def run(folder, steps=None, splits=True, **changes):
    s = settings(folder, **changes)
    return Loop(s, pool(splits), steps or ToySteps(s)).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_rounds_until_the_budget(whole):
    folder, state = whole
    assert [r.labels for r in state.rounds] == [8, 12, 16] and all(r.done == "judged" for r in state.rounds)
    assert all({"val", "test"} == set(r.metrics) for r in state.rounds)
    names = state.asked
    assert len(set(names)) == len(names) == 8 + 4 + 4 + 4 + 3
    by_name = {s.name: s for s in pool()}
    assert {by_name[n].split for r in chosen(state) for n in r} == {"train"}
    with Store(folder / "labels.h5") as store:
        assert store.names.tolist() == names
        assert [len(store.indices(x)) for x in ("train", "val", "test")] == [16, 4, 3]
    assert state.rounds[-1].model == "round_03/model.ckpt" and (folder / state.rounds[-1].model).is_file()
    draw(state, folder / "learn.png")
    assert (folder / "learn.png").read_bytes()[:4] == b"\x89PNG"
    assert table(state.rounds).row_count == 3


def test_the_first_round_has_every_element(whole):
    _, state = whole
    by_name = {s.name: s for s in pool()}
    assert {int(z) for n in state.rounds[0].chosen for z in by_name[n].atomic_numbers} == {1, 6, 7, 8}


@pytest.mark.parametrize("die", [{"l": 1}, {"l": 2}, {"t": 2}, {"c": 1}, {"j": 4}])
def test_killed_anywhere_it_goes_on(whole, tmp_path, die):
    _, expected = whole
    s = settings(tmp_path)
    first = ToySteps(s, die)
    with pytest.raises(Killed):
        Loop(s, pool(), first).run()
    second = ToySteps(s)
    state = Loop(s, pool(), second).run()
    assert chosen(state) == chosen(expected) and state.held_out == expected.held_out
    assert not set(first.labelled) & set(second.labelled), "labelled twice"
    for a, b in zip(state.rounds, expected.rounds, strict=True):
        assert a.metrics["test"]["gap_mae_ev"] == pytest.approx(b.metrics["test"]["gap_mae_ev"], rel=1e-6)


def test_a_larger_budget_goes_on(whole, tmp_path):
    _, expected = whole
    assert chosen(run(tmp_path, budget=12)) == chosen(expected)[:2]
    assert chosen(run(tmp_path)) == chosen(expected)


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, budget=8)
    with pytest.raises(UserError, match=r"begun with other settings \(method, seed\)"):
        run(tmp_path, method="random", seed=3)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match="no state of schnorb_t learn"):
        run(tmp_path)


def test_an_accuracy_ends_it(whole, tmp_path):
    state = run(tmp_path, accuracy=1e3)
    assert len(state.rounds) == 1
    with pytest.raises(UserError, match="no nonsense among"):
        run(tmp_path, accuracy=1e3, measure="nonsense")


def test_the_end_of_the_pool_ends_it(tmp_path):
    state = run(tmp_path, budget=1000, start=40, method="random")
    assert state.rounds[-1].labels == 9 * 5 and len(state.rounds) == 3


def test_without_splits_molecules_are_held_out_by_group(tmp_path):
    state = run(tmp_path, splits=False, val=2, test=2, budget=8)
    groups = {s.name: s.group for s in pool()}
    held = {groups[n] for names in state.held_out.values() for n in names}
    assert len(held) == 4 and not held & {groups[n] for n in state.rounds[0].chosen}


def test_failures_are_replaced_where_an_element_would_be_lost(tmp_path):
    """Only HCN and NH3 have nitrogen: those that are chosen first fail."""
    by_name = {s.name: s for s in pool()}
    fails = [n for n in by_name if 7 in by_name[n].atomic_numbers and not n.endswith(("/3", "/4"))]
    s = settings(tmp_path, budget=8)
    state = Loop(s, pool(), ToySteps(s, fails=fails)).run()
    with Store(tmp_path / "labels.h5") as store:
        assert any(7 in store[int(i)].atomic_numbers for i in store.indices("train"))
    s = settings(tmp_path / "all", budget=8)
    with pytest.raises(UserError, match="no molecule with one of its elements got a label"):
        Loop(s, pool(), ToySteps(s, fails=[n for n in by_name if 7 in by_name[n].atomic_numbers])).run()
    assert state.rounds[0].failed == sum(n in fails for n in state.asked)


def test_labels_and_a_model_to_begin_with(whole, tmp_path):
    folder, first = whole
    state = run(tmp_path, labelled=str(folder / "labels.h5"), model=str(folder / first.rounds[-1].model), budget=20)
    assert [r.labels for r in state.rounds] == [20] and len(state.rounds[0].chosen) == 4
    assert not set(state.asked) & set(first.asked) and state.held_out == {"val": [], "test": []}


def test_a_pool_that_lost_a_molecule_is_refused(tmp_path):
    state = run(tmp_path, budget=8)
    s = settings(tmp_path)
    with pytest.raises(UserError, match="is no longer in the pool"):
        Loop(s, [replace(x, name=x.name + "x") for x in pool()], ToySteps(s))
    assert state.path.is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pool: [a.xyz]\nmethods: fps", "no key methods; known: "),
        ("pool: [a.xyz]\nbudget: many", "budget"),
        ("pool: [a.xyz]\nmethod: best", "method: must be one of doubt"),
        ("pool: []", "pool: name one file"),
        ("pool: [a.xyz]\nnumber: 0", "number: must be 1 or more, got 0"),
        ("pool: [a.xyz]\nlabel: {grid: 3}", "label: no option grid; known: "),
        ("pool: [a.xyz]\nfit: absent.yaml", "fit: configuration absent.yaml: no such file"),
        ("- a", "no configuration of schnorb_t learn"),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_configuration_is_a_line(tmp_path, content, message):
    path = tmp_path / "learn.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_settings(path, {"target"}, {})
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_configuration_of_the_repository_is_sound():
    root = Path(__file__).resolve().parents[2]
    found = read_settings(root / "configs" / "learn.yaml", {"target", "functional", "basis"}, {"budget": 7})
    assert found.fit == "organic" and found.budget == 7 and found.method == "fps-doubt" and json.dumps(found.label)
