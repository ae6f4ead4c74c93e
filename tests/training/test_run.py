"""``training.run``: a training as a function; which checkpoint is the best over several runs; what is refused, and how.

Cases C12_resume_forgets_best and C18_trainer_options, on a toy store: seconds each.
"""

import csv
import json
import math
import shutil
import zipfile

import pytest
import torch
import yaml

from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.errors import ConfigurationError, UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training import run as training
from schnorb_t.training.checkpoint import load_model, read_checkpoint
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.run import train

from .examples import ARGUMENTS, write_store

NETWORK = {k: v for k, v in ARGUMENTS.items() if k != "cutoff"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy.h5"
    write_store(path)
    return path


@pytest.fixture
def go(store, tmp_path, monkeypatch):
    """Train the toy with some keys of its own."""
    monkeypatch.setattr(training, "finish", lambda folder, best, data, module: ({"tested": str(best)}, {}))

    def call(tell=lambda text: None, **keys):
        common = {
            "data": {"path": str(store), "cutoff": 8.0, "batch_size": 4},
            "model": {
                "network": NETWORK,
                "outputs": [{"name": "hamiltonian", "weight": 100.0}],
                "warmup_steps": 1,
                "learning_rate": 0.01,
            },
            "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
            "ema": {"decay": 0.0},
            "runs": str(tmp_path / "runs"),
            "name": "toy",
        }
        return train(common | {k.replace("__", "."): v for k, v in keys.items()}, tell=tell)

    return call


def losses(folder):
    with open(folder / "metrics.csv") as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]


#: makes the validation loss rise from the second epoch on: the best one is the first
RISING = {"model__learning_rate": 0.01, "model__final_rate": 30.0, "model__two_centre_rate": 1.0}


# ---- as a function ---------------------------------------------------------------------------------------------------


def test_training_is_a_function(go):
    result = go()
    assert result.finished and result.folder.name == "version_0" and result.folder.parent.name == "toy"
    assert result.best == result.folder / "checkpoints" / "best.ckpt" and result.best.is_file()
    assert result.best_score == pytest.approx(min(losses(result.folder)))
    about = json.loads((result.folder / "run.json").read_text())
    assert about["best"] == "checkpoints/best.ckpt" and about["last"] == "checkpoints/last.ckpt"
    assert about["epochs"] == 2 and about["steps"] == 4 and about["resumed_from"] is None
    assert (
        yaml.safe_load((result.folder / "config.yaml").read_text())["model"]["network"]["hidden"] == NETWORK["hidden"]
    )
    assert result.metrics == {"tested": str(result.best)}


def test_the_configuration_that_a_run_leaves_repeats_it(go, tmp_path):
    first = go()
    again = train(first.folder / "config.yaml", tell=lambda text: None)
    assert again.folder != first.folder and losses(again.folder) == losses(first.folder)


def test_every_argument_of_network_and_losses_is_shown_with_its_meaning(capsys, tmp_path):
    from schnorb_t.training.configuration import make_parser, parse_configuration

    parser = make_parser("schnorb_t fit")
    text = parser.format_help()
    for name in ("model.network.irreps", "model.network.message_cutoff", "model.network.prior", "model.start_from"):
        assert f"--{name}" in text
    assert "range of one round" in " ".join(text.split())
    with pytest.raises(SystemExit):
        parse_configuration(["--print_config", "--model.network.hidden=7"], parser)
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)
    assert shown["model"]["network"]["chain_channels"] == 8 and shown["model"]["network"]["hidden"] == 7
    assert shown["model"]["network"].keys() == {*MatrixModel.__init__.__annotations__} - {
        "basis",
        "cutoff",
        "constants",
        "density",
        "return",
    }
    assert [output["name"] for output in shown["model"]["outputs"]][:2] == ["hamiltonian", "overlap"]
    for words in ("# rounds of messages", "epochs over which its weight grows", "# molecules per training batch"):
        assert words in text
    (tmp_path / "shown.yaml").write_text(text)
    again = parse_configuration(tmp_path / "shown.yaml")
    assert again.as_dict() == parse_configuration(["--model.network.hidden=7"]).as_dict() | {"config": again.config}


# ---- the best one ----------------------------------------------------------------------------------------------------


def test_every_key_of_a_configuration_is_explained(capsys):
    """Also the fields of a loss and of the smearing."""
    import dataclasses
    import re

    from schnorb_t.nn.base import networks
    from schnorb_t.physics.occupations import Smearing
    from schnorb_t.training.configuration import _documented, parse_configuration
    from schnorb_t.training.losses import Output

    for architecture in networks():
        with pytest.raises(SystemExit):
            parse_configuration(["--print_config", "--model.architecture", architecture])
        lines = capsys.readouterr().out.splitlines()
        keys_of = [(above, line) for above, line in zip([""] + lines, lines, strict=False) if re.match(r" *\w+:", line)]
        assert len(keys_of) > 80
        assert not [line for above, line in keys_of if not re.match(r" *# +\S", above)]
    for kind in (Output, Smearing):
        described = _documented(kind)
        assert not [f.name for f in dataclasses.fields(kind) if f.init and not described.get(f.name)]


def test_the_best_survives_resuming(go):
    first = go(trainer__max_epochs=1, **RISING)
    resumed = go(trainer__max_epochs=4, ckpt_path=str(first.last), **RISING)
    assert resumed.folder != first.folder
    later = losses(resumed.folder)
    assert len(later) == 3 and min(later) > first.best_score  # or the case would say nothing
    assert resumed.best_score == pytest.approx(first.best_score)
    assert resumed.best == resumed.folder / "checkpoints" / "best.ckpt"
    a, b = (load_model(r.best)[0].state_dict() for r in (first, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.metrics["tested"] == str(resumed.best)
    assert json.loads((resumed.folder / "run.json").read_text())["resumed_from"] == "../version_0/checkpoints/last.ckpt"
    third = go(trainer__max_epochs=5, ckpt_path=str(resumed.last), **RISING)
    assert third.best_score == pytest.approx(first.best_score)


def test_a_better_one_after_resuming_takes_its_place(go):
    first = go(trainer__max_epochs=1, model__learning_rate=0.03)
    resumed = go(trainer__max_epochs=8, ckpt_path=str(first.last), model__learning_rate=0.03)
    assert resumed.best_score == pytest.approx(min(losses(resumed.folder))) and resumed.best_score < first.best_score
    assert read_checkpoint(resumed.best)["epoch"] > 0


@pytest.mark.parametrize("how", ["moved", "renamed", "overwritten"])
def test_the_best_is_found_after_the_folder_has_moved(go, tmp_path, how):
    """Beside the checkpoint that the run goes on from; not another run's file that stands where it was written."""
    first = go(trainer__max_epochs=1, **RISING)
    score, target = first.best_score, tmp_path / ("elsewhere/deep" if how == "moved" else "runs/toy/of_monday")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(first.folder, target)
    if how == "overwritten":
        go(trainer__max_epochs=1, seed_everything=5, **RISING)
    resumed = go(trainer__max_epochs=3, ckpt_path=str(target / "checkpoints" / "last.ckpt"), **RISING)
    assert resumed.best_score == pytest.approx(score)
    a, b = (load_model(p)[0].state_dict() for p in (target / "checkpoints" / "best.ckpt", resumed.best))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_best_one_that_is_not_there_is_told(go, tmp_path):
    first = go(trainer__max_epochs=1, **RISING)
    alone = tmp_path / "alone.ckpt"
    shutil.move(first.last, alone)
    first.best.unlink()
    said = []
    resumed = go(said.append, trainer__max_epochs=3, ckpt_path=str(alone), **RISING)
    assert resumed.best_score == pytest.approx(min(losses(resumed.folder)))
    assert any("not found" in line and f"{first.best_score:.6g}" in line for line in said)


def test_a_best_one_that_is_damaged_is_told(go):
    first = go(trainer__max_epochs=1, **RISING)
    first.best.write_bytes(first.best.read_bytes()[:2000])
    said = []
    resumed = go(said.append, trainer__max_epochs=2, ckpt_path=str(first.last), **RISING)
    assert resumed.best_score == pytest.approx(min(losses(resumed.folder))) and any("not found" in s for s in said)


def test_going_on_from_the_best_one(go):
    first = go(trainer__max_epochs=2, **RISING)
    resumed = go(trainer__max_epochs=3, ckpt_path=str(first.best), **RISING)
    assert resumed.best_score == pytest.approx(first.best_score)


def test_a_finished_run_taken_up_again_is_tested_again(go):
    first = go(trainer__max_epochs=2, **RISING)
    again = go(trainer__max_epochs=2, ckpt_path=str(first.last), **RISING)
    assert again.finished and again.best_score == pytest.approx(first.best_score) and again.best.is_file()


def test_fewer_epochs_than_were_trained(go):
    first = go(trainer__max_epochs=2)
    with pytest.raises(ConfigurationError, match="has trained 2 epochs already"):
        go(trainer__max_epochs=1, ckpt_path=str(first.last))


def test_another_judgement_begins_the_choice_anew(go):
    first = go(trainer__max_epochs=1, **RISING)
    said = []
    resumed = go(
        said.append,
        trainer__max_epochs=2,
        ckpt_path=str(first.last),
        **RISING,
        model__outputs=[{"name": "hamiltonian", "weight": 1000.0}],
    )
    assert resumed.best_score == pytest.approx(losses(resumed.folder)[0])
    assert any("model.outputs" in line for line in said) and any("from now on" in line for line in said)


# ---- what it was trained on ------------------------------------------------------------------------------------------


def test_a_model_has_seen_what_the_one_it_started_from_has_seen(go, store):
    first = go(trainer__max_epochs=1)
    names = set(load_model(first.best)[1].training_groups)
    content = torch.load(first.best, weights_only=True)
    content["schnorb_t"]["training_groups"].append("C6H6")  # a test molecule of the toy store
    torch.save(content, first.best)
    said = []
    second = go(said.append, trainer__max_epochs=1, model__start_from=str(first.best))
    assert set(load_model(second.best)[1].training_groups) == names | {"C6H6"}
    assert any("C6H6" in line and "left out of the test" in line for line in said)
    tested = [str(second.data.store.names[i]) for i in second.data.split["test"]]
    assert len(tested) == 2 and "C6H6" not in tested
    third = go(trainer__max_epochs=2, ckpt_path=str(second.last), model__start_from=str(first.best))
    assert "C6H6" in load_model(third.best)[1].training_groups


def test_going_on_with_other_molecules_adds_them(go):
    first = go(trainer__max_epochs=1, data__max_train=6)
    resumed = go(trainer__max_epochs=2, ckpt_path=str(first.last), data__max_train=8)
    groups = [set(load_model(r.last)[1].training_groups) for r in (first, resumed)]
    assert groups[0] < groups[1]
    fewer = go(trainer__max_epochs=3, ckpt_path=str(resumed.last), data__max_train=6)
    assert set(load_model(fewer.last)[1].training_groups) == groups[1]


# ---- what cannot be gone on from -------------------------------------------------------------------------------------


def test_another_network_is_told_by_the_arguments_that_differ(go):
    first = go(trainer__max_epochs=1)
    other = {**NETWORK, "hidden": 12, "pair_channels": [4, 2, 2, 2]}
    with pytest.raises(
        UserError, match=r"another network \(hidden 8, now 12, pair_channels \[4, 2, 4, 2\], now \[4, 2"
    ):
        go(ckpt_path=str(first.last), model__network=other)
    with pytest.raises(UserError, match=r"another network \(cutoff 8.0, now 9.0\)"):
        go(ckpt_path=str(first.last), data__cutoff=9.0)


def test_checkpoints_that_hold_no_training(go, tmp_path):
    first = go(trainer__max_epochs=1)
    content = torch.load(first.last, weights_only=True)
    torch.save({k: content[k] for k in ("state_dict", "schnorb_t")}, tmp_path / "exported.ckpt")
    with pytest.raises(UserError, match=r"exported.ckpt.*--model.start_from"):
        go(ckpt_path=str(tmp_path / "exported.ckpt"))
    with pytest.raises(UserError, match="nowhere.ckpt: no such"):
        go(ckpt_path=str(tmp_path / "nowhere.ckpt"))
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="foreign.ckpt"):
        go(ckpt_path=str(tmp_path / "foreign.ckpt"))
    half = first.last.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(half[: len(half) // 2])
    with pytest.raises(UserError, match="half.ckpt"):
        go(ckpt_path=str(tmp_path / "half.ckpt"))


def test_a_flipped_bit_in_a_checkpoint_is_noticed(go, tmp_path):
    """PyTorch would load the wrong weight without a word."""
    first = go(trainer__max_epochs=1)
    with zipfile.ZipFile(first.last) as archive:  # in a tensor: between them stand bytes that mean nothing
        tensor = max(archive.infolist(), key=lambda x: x.file_size)
        part = archive.read(tensor)
    content = bytearray(first.last.read_bytes())
    content[content.index(part) + len(part) // 2] ^= 0x10
    (tmp_path / "flipped.ckpt").write_bytes(content)
    for read in (load_model, lambda path: go(ckpt_path=str(path))):
        with pytest.raises(UserError, match="flipped.ckpt: not a readable checkpoint: it is damaged"):
            read(tmp_path / "flipped.ckpt")


@pytest.mark.parametrize("part, value", [("epoch", "x"), ("loops", {}), ("training_groups", None), ("basis", "{}")])
def test_a_damaged_state_of_a_training_is_one_line(go, tmp_path, part, value):
    content = torch.load(go(trainer__max_epochs=1).last, weights_only=True)
    (content if part in content else content["schnorb_t"])[part] = value
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="odd.ckpt: what it says of its training is damaged") as told:
        go(ckpt_path=str(tmp_path / "odd.ckpt"))
    assert "\n" not in str(told.value)


def _optimiser(content):
    return content["optimizer_states"][0]


def _momenta(content):
    return next(iter(_optimiser(content)["state"].values()))


def _weights(content, value):
    name = next(name for name, weights in content["state_dict"].items() if weights.ndim > 1)
    content["state_dict"][name] = value


DAMAGE = {
    "no optimiser": lambda c: c.update(optimizer_states=[]),
    "text for an optimiser": lambda c: c.update(optimizer_states="x"),
    "optimiser without state": lambda c: _optimiser(c).pop("state"),
    "optimiser with an empty state": lambda c: _optimiser(c).update(state={}),
    "optimiser without groups": lambda c: _optimiser(c).pop("param_groups"),
    "a group less": lambda c: _optimiser(c)["param_groups"].pop(),
    "a weight less": lambda c: _optimiser(c)["param_groups"][0]["params"].pop(),
    "no learning rate": lambda c: _optimiser(c)["param_groups"][0].pop("lr"),
    "no second moment": lambda c: _momenta(c).pop("exp_avg_sq"),
    "no step": lambda c: _momenta(c).pop("step"),
    "another shape": lambda c: _momenta(c).update(exp_avg=torch.zeros(3, 7, 2)),
    "no scheduler's state": lambda c: c.update(lr_schedulers=[{"x": 1}]),
    "unknown weights": lambda c: c["state_dict"].update(extra=torch.zeros(2)),
    "weights of another shape": lambda c: _weights(c, torch.zeros(1, 1)),
    "text for weights": lambda c: _weights(c, "x"),
}


def test_an_edited_state_of_a_training_is_one_line(go, tmp_path):
    last = go(trainer__max_epochs=1).last
    for name, edit in DAMAGE.items():
        content = torch.load(last, weights_only=True)
        edit(content)
        torch.save(content, tmp_path / "odd.ckpt")
        with pytest.raises(UserError, match="odd.ckpt: .* damaged") as told:
            go(ckpt_path=str(tmp_path / "odd.ckpt"), trainer__max_epochs=2)
        assert "\n" not in str(told.value) and len(str(told.value)) < 600, name


# ---- options of the trainer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"accelerator": "gpu"},
        {"accelerator": "nonsense"},
        {"devices": 0},
        {"devices": -2},
        {"strategy": "nonsense"},
        {"precision": "16-true"},
        {"precision": "bf16-true"},
        {"precision": "nonsense"},
        {"gradient_clip_algorithm": "nonsense"},
        {"max_epochs": -1},
        {"max_epochs": -2},
        {"accumulate_grad_batches": 0},
        {"limit_train_batches": 1.5},
        {"val_check_interval": 99},
        {"profiler": "nonsense"},
        {"nonsense": 1},
        {"strategy": "ddp_spawn"},
        {"check_val_every_n_epoch": 0},
        {"val_check_interval": 0},
        {"gradient_clip_val": -1.0},
    ],
    ids=str,
)
def test_options_that_cannot_be_are_one_line(go, option):
    if option == {"accelerator": "gpu"} and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigurationError) as told:
        go(**{f"trainer__{k}": v for k, v in option.items()})
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


@pytest.mark.parametrize(
    "option",
    [
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"limit_val_batches": 0},
        {"overfit_batches": 1},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed", "gradient_clip_val": 1.0},
        {"limit_train_batches": 1},
        {"limit_train_batches": 0},
        {"max_epochs": 0},
        {"max_epochs": -1, "max_steps": 3},
        {"deterministic": True},
        {"detect_anomaly": True},
        {"val_check_interval": 1},
        {"reload_dataloaders_every_n_epochs": 1},
        {"logger": False},
    ],
    ids=str,
)
def test_options_that_can_be_give_a_result(go, option):
    result = go(**{f"trainer__{k}": v for k, v in option.items()})
    assert result.finished and result.best.is_file() and result.metrics
    model, card = load_model(result.best)
    assert card.training_groups and all(torch.isfinite(p).all() for p in model.parameters())
    if "limit_val_batches" not in option and result.best_score is not None:
        assert math.isfinite(result.best_score)


def test_double_precision_trains_in_double_precision(go):
    result = go(trainer__precision="64-true", ema__decay=0.5)
    weights = torch.load(result.last, weights_only=True)
    assert all(w.dtype == torch.float64 for part in ("state_dict", "current_model_state")
               for w in weights[part].values() if w.is_floating_point())  # fmt: skip
    resumed = go(trainer__precision="64-true", ema__decay=0.5, trainer__max_epochs=3, ckpt_path=str(result.last))
    assert resumed.finished


def test_a_trial_leaves_nothing(go, tmp_path):
    result = go(trainer__fast_dev_run=True)
    assert result.finished and result.folder is None and result.best is None
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "keys, named",
    [
        ({"model__network": {**NETWORK, "irreps": "nonsense"}}, "model.network.irreps"),
        ({"model__network": {**NETWORK, "irreps": "4x1o+4x2e"}}, "model.network.irreps"),
        ({"model__network": {**NETWORK, "hidden": 0}}, "model.network.hidden"),
        ({"model__network": {**NETWORK, "message_cutoff": -1.0}}, "model.network.message_cutoff"),
        ({"model__network": {**NETWORK, "pair_channels": []}}, "model.network.pair_channels"),
        ({"model__network": {**NETWORK, "irrep": "4x0e"}}, "irrep"),
        ({"model__network": {**NETWORK, "prior": "gfn2"}}, "cutoff of gfn2"),
        ({"model__outputs": [{"name": "colour"}]}, "colour"),
        ({"model__smearing": {"kind": "none"}}, "none"),
        ({"data__batch_size": 0}, "data.batch_size"),
        ({"data__cutoff": -1.0}, "data.cutoff"),
        ({"ema__decay": 1.5}, "ema.decay"),
        ({"trainer__callbacks": [{"class_path": "nowhere.Callback"}]}, "nowhere"),
        ({"early_stopping__mode": "sideways"}, "sideways"),
        ({"model__learning_rate": -1.0}, "model.learning_rate"),
        ({"model__learning_rate": math.nan}, "model.learning_rate"),
        ({"model__warmup_steps": -1}, "model.warmup_steps"),
        ({"model__outputs": []}, "model.outputs"),
        ({"seed_everything": -1}, "seed_everything"),
        ({"name": "../elsewhere"}, "name: ../elsewhere"),
        ({"checkpoint__monitor": None}, "checkpoint.monitor"),
        ({"checkpoint__dirpath": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(go, keys, named):
    with pytest.raises(UserError) as told:
        go(**keys)
    assert named in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, KeyError])
@pytest.mark.parametrize("place", ["a part of the network", "blocks", "fit_reference"])
def test_a_fault_of_the_code_keeps_its_traceback(go, monkeypatch, error, place):
    def broken(*_, **__):
        raise error("a fault")

    if hasattr(MatrixModel, place):
        monkeypatch.setattr(MatrixModel, place, broken)
    else:
        monkeypatch.setattr("schnorb_t.nn.embedding.AtomEmbedding.__init__", broken)
    with pytest.raises(error, match="a fault") as raised:
        go()
    assert not isinstance(raised.value, UserError)


# ---- what is no number ----------------------------------------------------------------------------------------------


def test_a_training_that_diverges_stops_in_one_line_and_leaves_earlier_checkpoints(go):
    first = go(trainer__max_epochs=1)
    with pytest.raises(UserError, match=r"model.learning_rate \(now 1e\+30\)") as told:
        go(model__learning_rate=1e30)
    assert "\n" not in str(told.value) and "toy.h5, molecules" in str(told.value)
    assert not list((first.folder.parent / "version_1").rglob("*.ckpt"))
    assert all(torch.isfinite(p).all() for p in load_model(first.best)[0].parameters())


@pytest.mark.parametrize("check_val", [1, 5])
def test_weights_that_are_no_numbers_are_not_written(go, monkeypatch, check_val):
    def spoilt(self):
        with torch.no_grad():
            next(self.model.parameters()).fill_(math.nan)

    first = go(trainer__max_epochs=1)
    monkeypatch.setattr(MatrixModule, "on_train_batch_end", lambda self, *_: spoilt(self))
    with pytest.raises(UserError, match="diverged in epoch 0|is NaN or infinite|cannot be diagonalised"):
        go(trainer__check_val_every_n_epoch=check_val, trainer__limit_train_batches=1)
    assert not list((first.folder.parent / "version_1").rglob("*.ckpt"))


@pytest.mark.parametrize("field", ["hamiltonian", "overlap", "positions", "large_basis_energies"])
def test_labels_that_are_no_numbers_are_told_with_their_molecule(go, store, tmp_path, field):
    import h5py

    path = tmp_path / "bad.h5"
    shutil.copy(store, path)
    with h5py.File(path, "r+") as file:
        file[field][0] = math.nan
    with pytest.raises(UserError, match=rf"bad.h5, molecule 'H2O': {field} holds NaN or infinity.*schnorb_t check"):
        go(data__path=str(path))


# ---- files of configurations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, named",
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n", "holds no keys"),
        (b"data: {path: x\n", "line 2: no valid YAML"),
        (b"data:\n\tpath: x\n", "line 2: no valid YAML: a tab"),
        ("name: a\n".encode("utf-16"), "UTF-8"),
        (b"name: caf\xe9\n", "UTF-8"),
        (b"name: a\nthreads: 1\nname: b\n", "name stands twice, in lines 1 and 3"),
        (b"data: &a [*a]\n", "no valid YAML"),
        (b"name: a\n---\nname: b\n", "another document"),
        (b"model: null\n", "model is a section"),
        (b"model: {network: 5}\n", "model.network is a section"),
        (b"early_stopping: 5\n", "early_stopping is a section"),
        (b"1: 2\n", "the key 1 is no word"),
        (b"traner: {max_epochs: 1}\n", "did you mean trainer.max_epochs?"),
        (b"trainer: {max_epoch: 1}\n", "did you mean trainer.max_epochs?"),
        (b"trainer: {max_epochs: [1]}\n", "trainer.max_epochs"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_in_one_line(tmp_path, content, named):
    from schnorb_t.training.configuration import parse_configuration

    (tmp_path / "a.yaml").write_bytes(content)
    for way in (["--config", str(tmp_path / "a.yaml")], {"config": tmp_path / "a.yaml"}):
        with pytest.raises(ConfigurationError) as told:
            parse_configuration(way)
        assert named in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 500


# ---- the disk --------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_is_told_and_the_last_checkpoint_stays(go, monkeypatch, tmp_path):
    whole, saved = torch.save, []

    def full(content, file):
        saved.append(1)
        if len(saved) > 2:  # the first epoch's best and last are written
            file.write_bytes(b"half a file")
            raise RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0")
        return whole(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"ckpt: cannot be written .*--ckpt_path") as told:
        go(trainer__max_epochs=3)
    assert "\n" not in str(told.value)
    folder = tmp_path / "runs" / "toy" / "version_0" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read_checkpoint(folder / "last.ckpt")["epoch"] == 0


def test_a_folder_that_cannot_be_made_is_told(go, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Not a directory|File exists"):
        go(runs=str(tmp_path / "file"))


# ---- the optimiser ---------------------------------------------------------------------------------------------------


def test_the_optimiser_has_what_is_trained_and_two_centre_functions_apart(store):
    data = MatrixDataModule(str(store), cutoff=8.0)
    module = MatrixModule(data.basis, NETWORK, 8.0, two_centre_rate=0.1)
    module.model.embedding.requires_grad_(False)  # as a prior is

    class Trainer:
        precision, estimated_stepping_batches = "32-true", 10

    trainer = Trainer()
    module.trainer = trainer
    groups = module.configure_optimizers()["optimizer"].param_groups
    names = {id(p): name for name, p in module.model.named_parameters()}
    fast, slow = ({names[id(p)] for p in group["params"]} for group in groups)
    assert slow == {name for name in names.values() if name.split(".")[0] in ("two_centre", "overlap_two_centre")}
    assert fast == {*names.values()} - slow - {"embedding.table.weight"}


def test_the_library_prints_nothing(go, capfd, caplog):
    """What a training tells goes to the logger; the command prints it."""
    with caplog.at_level("INFO", logger="schnorb_t"):
        go(tell=None, trainer__max_epochs=1, data__max_train=8, name="silent")
    out, _ = capfd.readouterr()
    assert out == ""
    assert any("to train on" in record.message for record in caplog.records)
