# %% [markdown]
# # Train on your own labels
#
# From structures to a model: PySCF labels them, a store holds the labels, the network learns them. Six molecules and
# a small
# network keep this page short; a useful model takes hundreds of molecules and the configuration `organic` as it is.
#
# The same as four commands:
#
# <!-- run by docs/getting_started.md -->
# ```bash
# schnorb_t label molecules.xyz -o labels.h5 --target wqvo
# schnorb_t splits labels.h5 --by group
# schnorb_t fit --config organic --data.path labels.h5 --name mine
# schnorb_t predict runs/mine/version_0/checkpoints/best.ckpt others.xyz -o out.h5
# ```

# %%
import contextlib
import io
import os
import tempfile
from pathlib import Path

from ase.build import molecule
from ase.io import write
from ase.units import Hartree

folder = Path(tempfile.mkdtemp())
os.chdir(folder)
names = ["H2O", "CH4", "CH3OH", "H2CO", "C2H2", "C2H4"]
atoms = [molecule(name) for name in names]
for a, name in zip(atoms, names, strict=True):
    a.info["name"] = name
write("molecules.xyz", atoms, format="extxyz")

# %% [markdown]
# B3LYP/def2-SVP calculations, projected onto valence quasi-atomic orbitals (`wqvo`). Each command is a function, too.

# %%
from schnorb_t.commands.label import label_files

with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
    labelled = label_files([Path("molecules.xyz")], output=Path("labels.h5"), target="wqvo", workers=1)
labelled

# %% [markdown]
# Who learns, who decides when to stop, who is tested. `schnorb_t splits` draws at random; of six molecules we choose.

# %%
from schnorb_t.data.store import Store, set_splits

set_splits("labels.h5", dict.fromkeys(names[:4], "train") | {"C2H2": "val", "C2H4": "test"})
store = Store("labels.h5")
print(len(store), "molecules,", store.basis)
record = store[0]
print(record.name, record.hamiltonian.shape, record.large_basis_energies[:6])

# %% [markdown]
# A configuration by name, with changes; `schnorb_t fit --config organic --print_config` lists all keys.

# %%
from schnorb_t.training.run import train

small = {"irreps": "8x0e+4x1o+4x2e", "pair_channels": [8, 4, 4, 4], "hidden": 16, "product_channels": 4}
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    result = train(
        {
            "config": "organic",
            "name": "mine",
            "data": {"path": "labels.h5", "batch_size": 2},
            "model": {"network": small},
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": 60,
                "check_val_every_n_epoch": 20,
                "enable_progress_bar": False,
                "log_every_n_steps": 1,
            },
        },
        tell=lambda text: None,
    )
print(result.best)

# %% [markdown]
# The model at work. With four molecules to learn from, do not expect much.

# %%
import schnorb_t

model = schnorb_t.load(result.best)
for a, p in zip(atoms, model.predict(atoms), strict=True):
    print(f"{a.info['name']:6} HOMO {p.homo * Hartree:7.2f} eV")
