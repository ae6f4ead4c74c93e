# %% [markdown]
# # Hand over to DFTB+
#
# Predicted matrices in the files of DFTB+: `hamsqr1.dat` and `oversqr.dat` of each molecule, and Slater-Koster files
# of the
# two-centre part. DFTB+ need not be installed.
#
# <!-- run by docs/getting_started.md -->
# ```bash
# schnorb_t predict qm9 molecules.xyz -o out.h5 --dftbplus dftb
# schnorb_t export-skf qm9 -o skf
# ```

# %%
import tempfile
from pathlib import Path

import numpy as np
import scipy.linalg
from ase.build import molecule

import schnorb_t
from schnorb_t.interfaces.dftbplus_files import read_square_matrix, write_square_matrix

folder = Path(tempfile.mkdtemp())
prediction = schnorb_t.load("qm9").predict(molecule("CH3OH"))
write_square_matrix(folder / "hamsqr1.dat", prediction.hamiltonian)
write_square_matrix(folder / "oversqr.dat", prediction.overlap)
print((folder / "hamsqr1.dat").read_text()[:300])

# %% [markdown]
# Orbital order is DFTB+'s, units are Hartree, and nothing is lost on the way:

# %%
h, s = (read_square_matrix(folder / name) for name in ("hamsqr1.dat", "oversqr.dat"))
levels = scipy.linalg.eigh(h, s, eigvals_only=True)
np.abs(levels - prediction.orbital_energies).max()

# %% [markdown]
# Slater-Koster files hold the two-centre part of the model, a function of distance for each pair of elements; what
# the network adds
# for the surroundings cannot be in them.

# %%
from schnorb_t.commands.export_skf import export_skf

export_skf("qm9", output=folder / "skf")
for path in sorted((folder / "skf").glob("*.skf"))[:4]:
    print(path.name, path.stat().st_size, "bytes")

# %% [markdown]
# With DFTB+ 25.1 or newer as a library, it solves and fills the predicted matrices itself:
# `schnorb_t.interfaces.dftbplus.DFTBPlus`
# ([Handing predictions on](../interfaces.md)).
