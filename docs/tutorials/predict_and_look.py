# %% [markdown]
# # Predict and look
#
# A model that comes with the package predicts the electronic structure of a molecule; we look at its levels, one
# orbital and
# charges.

# %%
import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.units import Hartree

import schnorb_t

model = schnorb_t.load("organic")
print(model)

# %% [markdown]
# `predict` takes ASE's `Atoms`, one or a list. Energies are in Hartree.

# %%
atoms = molecule("C4H4O")  # furan
furan = model.predict(atoms)
print(f"{furan.formula}: HOMO {furan.homo * Hartree:.2f} eV, LUMO {furan.lumo * Hartree:.2f} eV")
print(f"doubt: {furan.doubt:.3f} eV")

# %% [markdown]
# Each valence level with its standard deviation; filled circles are occupied.

# %%
levels = furan.orbital_energies * Hartree
spread = furan.orbital_energy_spread * Hartree
filled = np.arange(len(levels)) < furan.n_occupied
fig, axis = plt.subplots(figsize=(7, 3.2))
axis.errorbar(np.arange(len(levels))[filled], levels[filled], spread[filled], fmt="o", label="occupied")
axis.errorbar(np.arange(len(levels))[~filled], levels[~filled], spread[~filled], fmt="o", mfc="none", label="empty")
axis.set(xlabel="orbital", ylabel="energy / eV", title="Furan, model organic")
axis.legend()
plt.show()

# %% [markdown]
# Charges, and what the HOMO is made of. `orbital_labels` says to which atom, shell and component each row of H, S and
# the
# orbitals belongs.

# %%
for atom, charge in zip(atoms, furan.mulliken_charges, strict=True):
    print(f"{atom.symbol} {charge:+.2f}")

homo = furan.orbital_coefficients[:, furan.n_occupied - 1]
share = homo * (furan.overlap @ homo)
rows = np.array([label[0] for label in furan.basis.orbital_labels(furan.atomic_numbers)])
for k in np.argsort([-share[rows == a].sum() for a in range(len(atoms))])[:4]:
    print(f"{atoms[k].symbol}{k}: {share[rows == k].sum():.2f} of the HOMO")

# %% [markdown]
# A picture of the orbital: its value on a plane 0.8 Å above the ring, from a cube file like those that
# `schnorb_t predict --cube homo,lumo` writes.

# %%
import tempfile
from pathlib import Path

from ase.io.cube import read_cube

from schnorb_t.interfaces.molden import write_cube

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "homo.cube"
    write_cube(path, furan, "homo")
    with open(path) as file:
        cube = read_cube(file)

grid, origin, steps = cube["data"], cube["origin"], np.diag(np.asarray(cube["spacing"]))
flat = np.ptp(atoms.positions, axis=0).argmin()  # the ring stands across this axis
at = int(round((atoms.positions[:, flat].mean() + 0.8 - origin[flat]) / steps[flat]))
u, v = [axis for axis in range(3) if axis != flat]
plane = np.take(grid, at, axis=flat)
extent = [origin[u], origin[u] + steps[u] * grid.shape[u], origin[v], origin[v] + steps[v] * grid.shape[v]]
fig, axis = plt.subplots(figsize=(4.5, 4))
limit = abs(plane).max()
axis.imshow(plane.T, origin="lower", extent=extent, cmap="RdBu", vmin=-limit, vmax=limit)
for atom in atoms:
    axis.text(atom.position[u], atom.position[v], atom.symbol, ha="center", va="center")
axis.set(title="HOMO of furan", xlabel="Å", ylabel="Å")
plt.show()

# %% [markdown]
# Some molecules are unlike all that the model has learned from, and it says so: the doubt of a squeezed benzene is
# many times
# that of benzene.

# %%
benzene = molecule("C6H6")
squeezed = benzene.copy()
squeezed.positions *= 0.85
for name, prediction in zip(("benzene", "squeezed to 85 %"), model.predict([benzene, squeezed]), strict=True):
    print(f"{name}: gap {prediction.gap * Hartree:.2f} eV, doubt {prediction.doubt:.2f} eV")
