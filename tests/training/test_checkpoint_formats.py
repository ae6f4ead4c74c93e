"""Checkpoints of older formats: kept here as they were written, and they must still load and predict the same."""

from pathlib import Path

import pytest
import torch
from ase.build import molecule

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.training.checkpoint import FORMAT, KEY, load_model, read_checkpoint

FOLDER = Path(__file__).parent / "checkpoints"
#: of the sum of |H| (Eh) and of |S| over methanol, printed by the code that wrote the file
WRITTEN = {
    "format1.ckpt": (72.77835565575499, 31.4459777797938),
    "format2.ckpt": (72.76676718445273, 31.416104865404485),
    "format3.ckpt": (3.3083538474055216, 32.56230619866356),  # cutoff 3 Å, prior of cutoff 3 Å: a step is seen
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_an_old_checkpoint_predicts_what_it_did(name):
    model, card = load_model(FOLDER / name)
    atoms = molecule("CH3OH")
    with torch.no_grad():
        out = model(structures_to_batch([atoms.numbers], [atoms.positions], card.basis, model.cutoff))
    sums = [out[key].abs().sum().item() for key in (keys.HAMILTONIAN, keys.OVERLAP)]
    assert sums == pytest.approx(WRITTEN[name], rel=1e-6)
    if name == "format1.ckpt":
        assert card.arguments["charge_channels"] == card.arguments["chain_channels"] == 0


def test_every_older_format_has_a_file():
    formats = {torch.load(FOLDER / name, weights_only=True)[KEY]["format"] for name in WRITTEN}
    assert formats == set(range(1, FORMAT))


def test_a_checkpoint_of_the_future_is_refused(tmp_path):
    content = torch.load(FOLDER / "format1.ckpt", weights_only=True)
    content[KEY]["format"] = FORMAT + 1
    torch.save(content, tmp_path / "new.ckpt")
    with pytest.raises(UserError, match="newer"):
        read_checkpoint(tmp_path / "new.ckpt")


def test_an_unknown_network_is_one_line(tmp_path):
    content = torch.load(FOLDER / "format3.ckpt", weights_only=True)
    content[KEY]["network"] = "other"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no network is called 'other'; known: .*matrix"):
        load_model(tmp_path / "other.ckpt")
