# %% [markdown]
# # Active learning
#
# A label costs minutes, a prediction milliseconds. So a model looks at a pool of molecules and says which would teach
# it most.
#
# <!-- run by docs/active_learning.md -->
# ```bash
# schnorb_t select pool.xyz organic -n 100 --labelled labels.h5 -o chosen.xyz
# schnorb_t label chosen.xyz -o labels.h5 --target wqvo
# ```

# %%
from ase.build import molecule
from ase.collections import g2

import schnorb_t

model = schnorb_t.load("organic")
known = set(model.basis.elements)
pool = []
for name in g2.names:
    atoms = molecule(name)
    even = sum(atoms.numbers) % 2 == 0 and not atoms.get_initial_magnetic_moments().any()
    if even and len(atoms) > 3 and set(atoms.numbers) <= known:
        atoms.info["name"] = name
        pool.append(atoms)
print(len(pool), "molecules")

# %% [markdown]
# What does the model doubt most, and what least?

# %%
doubts = sorted((p.doubt, a.info["name"]) for a, p in zip(pool, model.predict(pool), strict=True))
print("sure of:  ", [f"{name} {doubt:.2f}" for doubt, name in doubts[:4]])
print("doubtful: ", [f"{name} {doubt:.2f}" for doubt, name in doubts[-6:]])

# %% [markdown]
# The largest doubts alone may be of molecules that resemble each other; the default of `schnorb_t select` weighs
# doubt with the
# distance from everything chosen before.

# %%
from schnorb_t.active.selection import select
from schnorb_t.structures import as_structure

structures = [as_structure(atoms) for atoms in pool]
chosen = select(structures, 6, method="fps-doubt", predictor=model)
chosen

# %% [markdown]
# Label them, add them to the store, train on; `schnorb_t learn` does the whole round ([Active
# learning](../active_learning.md)).
