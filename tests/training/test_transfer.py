"""Beginning a training from another model: what is taken, what is refused; and training with a prior."""

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from schnorb_t import keys
from schnorb_t.data.batch import records_to_batch, structures_to_batch
from schnorb_t.data.datamodule import MatrixDataModule
from schnorb_t.errors import UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.physics.state import thermal_density_matrix
from schnorb_t.training.checkpoint import ModelCard, load_model, write_checkpoint
from schnorb_t.training.losses import Output
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.transfer import Taken, start_from
from tests.nn.molecules import minimal_basis, structures, valence_basis
from tests.training.examples import ARGUMENTS, BASIS, write_store

pytest.importorskip("pyscf")


def save(model: MatrixModel, arguments: dict, path):
    write_checkpoint(path, model, ModelCard(arguments, model.basis, {"functional": "none"}, "toy"), "")
    return path


def randomised(basis, arguments, seed):
    torch.manual_seed(seed)
    net = MatrixModel(basis, **arguments, density=thermal_density_matrix)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.1 * torch.randn_like(p))
    return net


def test_everything_from_the_same_basis(tmp_path):
    source = randomised(BASIS, ARGUMENTS, 0)
    path = save(source, ARGUMENTS, tmp_path / "source.ckpt")
    target = randomised(BASIS, ARGUMENTS, 1)
    assert start_from(target, path) is Taken.EVERYTHING
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize("level", ["the same", "another", "another target"])
def test_what_labels_give_in_closed_form_is_theirs(tmp_path, level):
    """Pretraining on one level of theory, training on another: the new labels' two-centre functions stay."""
    store = write_store(tmp_path / "toy.h5")
    theory = {"functional": "another" if level == "another" else "extended Hueckel", "structures": "of its own"}
    source = randomised(BASIS, ARGUMENTS, 0)
    card = ModelCard(ARGUMENTS, BASIS, theory, "other" if level == "another target" else store.target, ("H2O",))
    write_checkpoint(tmp_path / "source.ckpt", source, card, "")
    data = MatrixDataModule(str(store.path), cutoff=8.0, batch_size=4)
    network = {k: v for k, v in ARGUMENTS.items() if k != "cutoff"}
    fitted = MatrixModule(data.basis, network, 8.0)
    fitted.prepare(data)
    module = MatrixModule(data.basis, network, 8.0, start_from=str(tmp_path / "source.ckpt"))
    same = level == "the same"
    assert module.prepare(data) is (Taken.EVERYTHING if same else Taken.ALL_BUT_CLOSED_FORM)
    closed = {"two_centre", "overlap_two_centre", "scale", "overlap_scale"}
    new, old = fitted.model.state_dict(), source.state_dict()
    for name, value in module.model.state_dict().items():
        wanted = new if name.split(".")[0] in closed and not same else old
        assert torch.equal(value, wanted[name]), name
    assert any(not torch.equal(new[k], old[k]) for k in new if k.split(".")[0] in closed)
    assert "H2O" in module.card.training_groups


def test_draws_of_the_last_layer_come_with_what_they_were_drawn_for(tmp_path):
    """At the same level of theory, if both have as many; left as they are elsewhere."""
    with_doubt = {**ARGUMENTS, "doubt_members": 4}
    source = randomised(BASIS, with_doubt, 0)
    path = save(source, with_doubt, tmp_path / "source.ckpt")
    for members in (4, 3):
        target = randomised(BASIS, {**ARGUMENTS, "doubt_members": members}, 1)
        before = {k: v.clone() for k, v in target.state_dict().items()}
        start_from(target, path)
        wanted = source.state_dict() if members == 4 else before
        name = "doubt.onsite.weights.0"
        assert torch.equal(target.state_dict()[name], wanted[name])
        assert torch.equal(target.state_dict()["embedding.table.weight"], source.state_dict()["embedding.table.weight"])


@pytest.mark.parametrize(
    "before, after, with_prior",
    [
        ([1, 6, 8], [1, 6, 7, 8], False),
        ([1, 6, 8], [1, 6, 7, 8], True),
        ([1, 6, 7, 8], [1, 7, 8], False),
        ([1, 6, 8], [1, 7, 8], False),
    ],
)
def test_everything_where_elements_come_and_go(tmp_path, before, after, with_prior):
    """A molecule of common elements is predicted as before, to the last digits; all parts are taken."""
    given = {"prior": {"basis": valence_basis().to_json(), "arguments": ARGUMENTS}} if with_prior else {}
    arguments = ARGUMENTS | given
    source = randomised(BASIS.restricted(before), arguments, 0)
    with torch.no_grad():
        for name in ("onsite", "height"):
            getattr(source.scale, name).fill_(0.01)
        if with_prior:
            source.prior.mean.uniform_(-1, 1)
            source.prior.width.uniform_(1, 2)
    path = save(source, arguments, tmp_path / "source.ckpt")
    target = randomised(BASIS.restricted(after), arguments, 1)
    assert start_from(target, path)
    water = np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.9, 0.1, 0], [-0.2, 0.9, 0.1]])
    with torch.no_grad():
        a, b = (m.eval()(structures_to_batch([water[0]], [water[1]], m.basis, m.cutoff)) for m in (source, target))
    for key in (keys.HAMILTONIAN, keys.OVERLAP):
        assert (a[key] - b[key]).abs().max() < 1e-6, key


def test_a_prior_is_added_to_a_trained_model(tmp_path):
    source = randomised(minimal_basis(), ARGUMENTS, 0)
    path = save(source, ARGUMENTS, tmp_path / "source.ckpt")
    given = {"basis": valence_basis().to_json(), "arguments": ARGUMENTS}
    target = randomised(minimal_basis(), {**ARGUMENTS, "prior": given}, 1)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    assert start_from(target, path)
    for name, value in target.state_dict().items():
        wanted = before if name.startswith("prior") else source.state_dict()
        assert torch.equal(value, wanted[name]), name


def test_the_trunk_from_another_basis_and_more_elements(tmp_path):
    source = randomised(valence_basis(), ARGUMENTS, 0)
    path = save(source, ARGUMENTS, tmp_path / "source.ckpt")
    basis = minimal_basis().restricted([1, 8])
    target, before = randomised(basis, ARGUMENTS, 1), randomised(basis, ARGUMENTS, 1).state_dict()
    assert not start_from(target, path)
    mine, theirs = target.state_dict(), source.state_dict()
    for name, value in mine.items():
        if name.split(".")[0] not in MatrixModel.transfer.trunk:
            assert torch.equal(value, before[name]), name
    assert torch.equal(mine["embedding.table.weight"], theirs["embedding.table.weight"][[0, 3]])
    # pairs HH, HO, OH, OO of H, C, N, O
    assert torch.equal(mine["pair.filters.pair.weight"], theirs["pair.filters.pair.weight"][[0, 3, 12, 15]])
    assert torch.equal(mine["pair.mix.maps.0.weight"], theirs["pair.mix.maps.0.weight"])


def test_another_network_is_refused(tmp_path):
    path = save(randomised(BASIS, ARGUMENTS, 0), ARGUMENTS, tmp_path / "source.ckpt")
    with pytest.raises(UserError, match="of another network"):
        start_from(MatrixModel(BASIS, **{**ARGUMENTS, "hidden": 12}), path)
    with pytest.raises(UserError, match="none of the elements"):
        start_from(MatrixModel(minimal_basis().restricted([7]), **ARGUMENTS), only_hydrogen(tmp_path))


def only_hydrogen(folder):
    basis = BASIS.restricted([1])
    return save(MatrixModel(basis, **ARGUMENTS), ARGUMENTS, folder / "hydrogen.ckpt")


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A model of valence shells with levels of their order."""
    net = randomised(valence_basis(), ARGUMENTS, 3)
    with torch.no_grad():
        net.two_centre.onsite.copy_(torch.diag(torch.tensor([-0.6, -0.2, -0.2, -0.2])).expand(4, 4, 4))
    return save(net, ARGUMENTS, tmp_path_factory.mktemp("prior") / "prior.ckpt")


def test_training_with_a_prior(prior, tmp_path):
    """The prior stays frozen, its matrices are made once, the checkpoint needs no other file."""
    data = MatrixDataModule(str(write_store(tmp_path / "toy.h5").path), cutoff=8.0, batch_size=4)
    network = {k: v for k, v in ARGUMENTS.items() if k != "cutoff"}
    outputs = [Output("hamiltonian", weight=10.0), Output("overlap", weight=10.0)]
    module = MatrixModule(data.basis, {**network, "prior": str(prior)}, 8.0, outputs, warmup_steps=1)
    module.prepare(data)
    original, calls = module.model.prior.matrices, []
    module.model.prior.matrices = lambda batch: calls.append(len(batch[keys.N_ATOMS])) or original(batch)
    before = {k: v.clone() for k, v in module.model.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data)
    after = module.model.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert "prior_scalars.weight" in moved and any(k.startswith("prior_pairs") for k in moved)
    assert not any(k.startswith("prior.") for k in moved)
    assert sum(calls) == len(data.split["train"]) + len(data.split["val"])
    del module.model.prior.matrices
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    model, card = load_model(tmp_path / "trained.ckpt")
    assert card.arguments["prior"]["basis"] == valence_basis().to_json()
    records = [data.store[int(i)] for i in data.split["val"]]
    batch = records_to_batch(records, model.basis, 8.0)
    with torch.no_grad():
        a, b = model(batch), module.model.eval()(batch)
        kept = module.model({**batch, **module.model.prior.matrices(batch)})
    for key in (keys.HAMILTONIAN, keys.OVERLAP):
        assert torch.equal(a[key], b[key])
        assert (a[key] - kept[key]).abs().max() < 1e-6


def test_what_a_prior_must_fit():
    arguments = {"basis": valence_basis().restricted([1, 6]).to_json(), "arguments": ARGUMENTS}
    with pytest.raises(ValueError, match="does not know N, O"):
        MatrixModel(minimal_basis(), **ARGUMENTS, prior=arguments, density=thermal_density_matrix)
    arguments["basis"] = valence_basis().to_json()
    with pytest.raises(ValueError, match="fills its levels"):
        MatrixModel(minimal_basis(), **ARGUMENTS, prior=arguments)
    with pytest.raises(ValueError, match="cutoff"):
        MatrixModel(minimal_basis(), **{**ARGUMENTS, "cutoff": 9.0}, prior=arguments, density=thermal_density_matrix)
    arguments["basis"] = minimal_basis().to_json()
    with pytest.raises(ValueError, match="one s and one p"):
        MatrixModel(minimal_basis(), **ARGUMENTS, prior=arguments, density=thermal_density_matrix)


def test_the_priors_charges_are_those_of_its_own_matrices(prior):
    net, _ = load_model(prior)
    given = {"basis": net.basis.to_json(), "arguments": ARGUMENTS}
    model = MatrixModel(minimal_basis(), **ARGUMENTS, prior=given, density=thermal_density_matrix)
    model.prior.model.load_state_dict(net.state_dict())
    model.prior.temperature = 0.0
    numbers, positions = structures(("CH3CONH2", "H2O"))
    batch = structures_to_batch(numbers, positions, model.basis, 8.0)
    with torch.no_grad():
        raw = model.prior.raw(model.geometry(batch)).scalars
        out = net(structures_to_batch(numbers, positions, net.basis, 8.0))
    at = 0
    for k, z in enumerate(numbers):
        n = int(net.basis.n_orbitals(z).sum())
        h, s = out[keys.HAMILTONIAN][k, :n, :n], out[keys.OVERLAP][k, :n, :n]
        root = torch.linalg.inv(torch.linalg.cholesky(s))
        _, c = torch.linalg.eigh(root @ h @ root.T)
        c = (root.T @ c)[:, : net.basis.n_electrons(z) // 2]
        owner = np.repeat(np.arange(len(z)), net.basis.n_orbitals(z))
        populations = np.bincount(owner, weights=(2 * (c @ c.T) * s).sum(1).numpy())
        charges = np.array([net.basis.n_electrons([q]) for q in z]) - populations
        # the charge is the eleventh scalar
        assert np.abs(raw[at : at + len(z), 10].numpy() - charges).max() < 1e-8
        at += len(z)
