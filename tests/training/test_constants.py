"""Constants of networks: an edited one changes new models, and no model that a checkpoint holds."""

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from ase.build import molecule

import schnorb_t
from schnorb_t import keys
from schnorb_t.data.batch import records_to_batch, structures_to_batch
from schnorb_t.nn import constants
from schnorb_t.nn.constants import Constants
from schnorb_t.training.checkpoint import _UNNAMED_CONSTANTS, KEY, ModelCard, load_model, write_checkpoint
from schnorb_t.training.networks import build_network
from tests.nn.molecules import valence_basis
from tests.training import examples as toy
from tests.training.examples import ARGUMENTS, write_store

pytest.importorskip("pyscf")
BASIS = toy.BASIS.restricted([1, 6, 8])
#: of each constant, far enough from today's that everything small shows it
EDITED = {
    "limit_atoms": (0.1, 0.2),
    "limit_pairs": (0.1, 0.2),
    "cutoff_power": 4,
    "filter_channels": 8,
    "product_l_max": 1,
    "neighbours": 3.0,
    "triangle_l_max": 1,
    "charge_widths": (0.5, 2.0),
    "response_potential": 5.0,
    "response_field": 5.0,
    "charge_per_electrons": 2.0,
    "charge_least_share": 5.0,
    "two_centre_shortest": 0.4,
    "two_centre_width": 0.9,
    "two_centre_decay": 0.6,
    "two_centre_ridge": 1.0,
    "scale_floor": 0.5,
    "overlap_scale_floor": 0.5,
    "scale_bins": 3,
    "scale_bin_width": 2.0,
    "scale_steepest": 0.01,
    "scale_spread": 1e6,
    "overlap_step": 0.3,
    "shrink": (0.001, 0.002),
    "shrink_orthogonal": (-0.5, -0.3),  # labels whose S exceeds S0
    "prior_temperature": 20000.0,
    "prior_widths": (0.5, 1.0, 2.0),
    "prior_ranges": (0.5, 4.0),
    "prior_softening": 0.1,
    "prior_narrowest": 10.0,
    "prior_limit": 0.2,
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Checkpoints of a model with a prior, plain and orthogonal, and of one of ions; batches to fit them to."""
    folder = tmp_path_factory.mktemp("constants")
    store = write_store(folder / "toy.h5")
    records = [r for r in (store[int(i)] for i in store.indices("train")[:6]) if 7 not in r.atomic_numbers]
    prior = {"basis": valence_basis().restricted([1, 6, 8]).to_json(), "arguments": ARGUMENTS}
    out = {}
    changes = {
        "plain": {"prior": prior, "orthogonal": False},
        "orthogonal": {"prior": prior, "orthogonal": True},
        "ions": {"total_charge": True},
    }
    for kind, change in changes.items():
        arguments = {**ARGUMENTS, **change}
        model = made(arguments, records)
        path = folder / f"{kind}.ckpt"
        write_checkpoint(path, model, ModelCard(arguments, BASIS, {}, "toy"), "")
        out[kind] = path, arguments, predicted(model)
    return out, records


def made(arguments, records):
    """A network whose parts all say something, fitted to labels."""
    torch.manual_seed(0)
    model = build_network("matrix", BASIS, arguments)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "weight" in name or "maps" in name:
                p.mul_(1.5)
        if model.prior is not None:
            model.prior.model.two_centre.onsite.copy_(
                torch.diag(torch.tensor([-0.6, -0.2, -0.2, -0.2])).expand(3, 4, 4)
            )
        if model.ions is not None:
            for p in (model.ions.first, model.ions.later, model.ions.share.weight):
                p.copy_(0.3 * torch.randn(p.shape))
    model.fit_reference(lambda: [records_to_batch(records, BASIS, model.cutoff)])
    return model.eval()


def predicted(model):
    atoms = molecule("CH3CHO")
    charges = [0 if model.ions is None else 2]
    with torch.no_grad():
        out = model(structures_to_batch([atoms.numbers], [atoms.positions], BASIS, model.cutoff, charges))
    return torch.stack([out[keys.HAMILTONIAN], out[keys.OVERLAP]])


def test_every_constant_is_edited_here_and_known_of_old_checkpoints():
    names = [f.name for f in dataclasses.fields(Constants)]
    assert sorted(EDITED) == sorted(names) == sorted(_UNNAMED_CONSTANTS)


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_constant_changes_new_models_and_no_published_one(name, examples, monkeypatch):
    """Neither its predictions, nor what a fit to labels makes of it."""
    files, records = examples
    kind = "orthogonal" if name == "shrink_orthogonal" else "plain"
    path, arguments, before = files["ions" if name in ("charge_per_electrons", "charge_least_share") else kind]
    monkeypatch.setattr(constants, "_TODAY", dataclasses.replace(constants.today(), **{name: EDITED[name]}))
    loaded, _ = load_model(path)
    assert torch.equal(predicted(loaded), before)
    if name.startswith(("two_centre", "scale", "overlap_scale", "prior_narrowest")):
        loaded.fit_reference(lambda: [records_to_batch(records, BASIS, loaded.cutoff)])
        assert torch.allclose(predicted(loaded), before, rtol=0, atol=1e-9)
    assert not torch.allclose(predicted(made(arguments, records)), before, rtol=0, atol=1e-7)


def test_a_checkpoint_that_names_no_constants_keeps_those_of_its_time(examples, monkeypatch, tmp_path):
    files, _ = examples
    path, _, before = files["plain"]
    content = torch.load(path, weights_only=True)
    del content[KEY]["arguments"]["constants"]
    torch.save(content, tmp_path / "old.ckpt")
    monkeypatch.setattr(constants, "_TODAY", Constants(**EDITED))
    model, card = load_model(tmp_path / "old.ckpt")
    assert torch.equal(predicted(model), before)
    assert card.arguments["constants"] == model.constants.to_dict() == _UNNAMED_CONSTANTS


def test_an_unknown_constant_is_named():
    with pytest.raises(ValueError, match="no constant of networks is called speed"):
        Constants.of({"speed": 1.0})


def numbers_of(tree: ast.AST) -> list[str]:
    """Names of modules' and classes' attributes that hold numbers."""
    out = []
    for scope in ast.walk(tree):
        if isinstance(scope, ast.Module | ast.ClassDef):
            for statement in scope.body:
                if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                    values = [n.value for n in ast.walk(statement.value) if isinstance(n, ast.Constant)]
                    if any(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                        out += [ast.unparse(t) for t in targets]
    return out


def test_no_constant_hides_in_a_part_of_a_network():
    """``LAYOUT``: the code of chains and of the prior is written for s and p functions. Those of ``large`` say how
    much of a large molecule is in memory at once, not what comes out."""
    folder = Path(schnorb_t.__file__).parent / "nn"
    found = {
        f"{path.stem}.{name}"
        for path in sorted(folder.glob("*.py"))
        if path.stem != "constants"
        for name in numbers_of(ast.parse(path.read_text()))
    }
    sizes = {"FROM_ATOMS", "PIECE", "(TRIANGLE_GROUP, CHAIN_GROUP)", "POTENTIAL_BLOCK"}
    assert found == {"matrix_product.LAYOUT"} | {f"large.{name}" for name in sizes}
