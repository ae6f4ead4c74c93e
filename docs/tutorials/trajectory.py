# %% [markdown]
# # Orbitals along a trajectory
#
# Many geometries of one molecule in one call. Butadiene turns about its middle bond: the two halves' pi systems,
# together when
# planar, come apart at 90 degrees, so the HOMO falls and the LUMO rises.

# %%
import matplotlib.pyplot as plt
import numpy as np
from ase.build import molecule
from ase.units import Hartree

import schnorb_t

butadiene = molecule("butadiene")
carbon = [a.index for a in butadiene if a.symbol == "C"]
distances = butadiene.get_all_distances()
ends = [c for c in carbon if sum(distances[c, d] < 1.6 for d in carbon if d != c) == 1]
middle = [c for c in carbon if c not in ends]
first = next(e for e in ends if distances[e, middle[0]] < 1.6)
last = next(e for e in ends if e != first)
#: the half that turns: everything nearer to the second middle carbon
half = [a.index for a in butadiene if distances[a.index, middle[1]] < distances[a.index, middle[0]]]

angles = np.arange(0, 181, 10)
frames = []
for angle in angles:
    frame = butadiene.copy()
    frame.set_dihedral(first, middle[0], middle[1], last, angle, indices=half)
    frames.append(frame)

# %%
model = schnorb_t.load("organic")
predictions = model.predict(frames)
homo = np.array([p.homo for p in predictions]) * Hartree
lumo = np.array([p.lumo for p in predictions]) * Hartree
doubt = np.array([p.frontier_spread for p in predictions]) * Hartree

# %%
fig, axes = plt.subplots(2, 1, figsize=(6, 5), sharex=True)
for axis, values, spread, name in zip(axes, (lumo, homo), (doubt[:, 1], doubt[:, 0]), ("LUMO", "HOMO"), strict=True):
    axis.plot(angles, values)
    axis.fill_between(angles, values - spread, values + spread, alpha=0.2)
    axis.set(ylabel=f"{name} / eV")
axes[1].set(xlabel="C-C-C-C dihedral / degrees")
axes[0].set(title="Butadiene; shaded: one standard deviation of the model")
plt.show()

# %% [markdown]
# Does the same orbital stay the HOMO? The overlap of neighbouring frames' orbitals tells: near 1, it does.

# %%
for before, after in list(zip(predictions, predictions[1:], strict=False))[::3]:
    a, b = (p.orbital_coefficients[:, p.n_occupied - 1] for p in (before, after))
    metric = 0.5 * (before.overlap + after.overlap)
    print(f"{abs(a @ metric @ b):.3f}", end=" ")

# %% [markdown]
# Through ASE the model is a calculator, for whole trajectories of a molecular dynamics program too
# ([Handing predictions on](../interfaces.md)).

# %%
from schnorb_t.interfaces.ase import SchNOrbT

frame = frames[0].copy()
frame.calc = SchNOrbT("organic")
print(f"gap {frame.calc.get_property('gap', frame):.2f} eV, charges {frame.get_charges().round(2)}")
