# %% [markdown]
# # From ORCA to a model
#
# Finished ORCA jobs become labels: `import-orca` reads and checks them, `project` carries them to the minimal basis,
# `fit` learns.
#
# ORCA itself cannot run on this page. Its JSON files are stood in for by files of the same form that are computed
# with PySCF; with
# your own jobs, begin at `import_orca`.

# %%
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

here = Path.cwd().resolve()
sys.path += [str(p) for p in (here, *here.parents) if (p / "tests" / "reference").is_dir()]
from tests.reference.orca_examples import WATER, orca_json, run, write_json

folder = Path(tempfile.mkdtemp())
os.chdir(folder)
(folder / "runs").mkdir()
for k, stretch in enumerate((0.97, 1.0, 1.03, 1.06)):
    moved = [(symbol, tuple(stretch * np.array(position))) for symbol, position in WATER]
    write_json(folder / "runs" / f"water{k}.json", orca_json(run(basis="6-31g", atoms=moved)))
print(sorted(p.name for p in Path("runs").iterdir()))

# %% [markdown]
# Every molecule is checked against its own orbitals: is S positive definite, are the orbitals orthonormal, does H
# give their energies
# back? What fails is refused, with the reason.

# %%
from schnorb_t.commands.import_orca import import_orca

with contextlib.redirect_stderr(io.StringIO()):
    imported = import_orca([Path("runs")], output=Path("orca.h5"))
print(imported["written"], "written,", len(imported["refused"]), "refused")
for m in imported["molecules"]:
    print(m["name"], {k: f"{v:.1e}" for k, v in list(m.get("residuals", {}).items())[:4] if isinstance(v, float)})

# %%
from schnorb_t.commands.project import project
from schnorb_t.data.store import Store

with contextlib.redirect_stderr(io.StringIO()):
    project(Path("orca.h5"), output=Path("minimal.h5"), target="wqvo")
full, minimal = Store("orca.h5"), Store("minimal.h5")
print(full.basis, "->", minimal.basis)

# %% [markdown]
# Valence levels survive the projection exactly (the core is left out by `wqvo`).

# %%
import scipy.linalg

record = minimal[0]
levels = scipy.linalg.eigh(record.hamiltonian, record.overlap, eigvals_only=True)
core = 1
n = record.n_electrons // 2
print("minimal basis:", levels[:n].round(6))
print("full basis:   ", record.large_basis_energies[core : core + n].round(6))

# %% [markdown]
# Training is then as for any other labels: `schnorb_t splits minimal.h5`, and
# `schnorb_t fit --config organic --data.path minimal.h5 --name mine`
# ([Train on your own labels](train_on_own_labels.py)).
