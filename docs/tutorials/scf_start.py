# %% [markdown]
# # Start an SCF from a prediction
#
# The model `def2svp` predicts the Fock matrix in def2-SVP; the density that it fills is a better start than PySCF's
# own.

# %%
from ase.build import molecule
from pyscf import dft, gto

import schnorb_t
from schnorb_t.interfaces.pyscf import initial_guess

atoms = molecule("CH3CHO")
mol = gto.M(atom=[(a.symbol, a.position) for a in atoms], basis="def2-svp", verbose=0)


def calculation():
    mf = dft.RKS(mol, xc="b3lyp").density_fit()
    mf.grids.level = 1
    return mf


# %%
prediction = schnorb_t.load("def2svp").predict(atoms)
guess = initial_guess(prediction, mol)
guess.shape

# %%
ours, default = calculation(), calculation()
ours.kernel(guess)
default.kernel()
print(f"from the prediction: {ours.cycles} cycles, {ours.e_tot:.8f} Eh")
print(f"from PySCF's guess:  {default.cycles} cycles, {default.e_tot:.8f} Eh")

# %% [markdown]
# Both arrive at the same energy. A minimal-basis model can start the same SCF: a linear model carries its orbitals
# back to
# def2-SVP. What each start saves, over many molecules: [Starting an SCF](../scf_guess.md).

# %%
minimal = calculation()
minimal.kernel(initial_guess(schnorb_t.load("hcnof").predict(atoms), mol))
print(f"from hcnof: {minimal.cycles} cycles")
