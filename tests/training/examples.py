"""A small store of real structures with cheap matrices, a tiny model fitted to it, its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from ase.build import molecule

from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.data.batch import records_to_batch, structures_to_batch
from schnorb_t.data.store import Header, MoleculeRecord, Store, StoreWriter
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.overlap import FreeAtomOverlap
from schnorb_t.training import checkpoint
from schnorb_t.training.checkpoint import ModelCard

#: one Gaussian per shell; 1s deep, valence as in a small split of Slater's rules
_EXPONENTS = {1: (0.5,), 6: (12.0, 0.6, 0.45), 7: (16.0, 0.8, 0.6), 8: (22.0, 1.1, 0.8)}
_LEVELS = {1: (-0.4,), 6: (-10.0, -0.7, -0.35), 7: (-14.2, -0.9, -0.4), 8: (-18.9, -1.1, -0.5)}
BASIS = Basis(
    "toy",
    {z: (0,) if z == 1 else (0, 0, 1) for z in _EXPONENTS},
    {
        z: tuple(GaussianShell(l, (a,), (1.0,)) for l, a in zip((0, 0, 1), exponents, strict=False))
        for z, exponents in _EXPONENTS.items()
    },
    projected=True,
)
NAMES = ("H2O", "CH4", "NH3", "HCN", "C2H4", "CH3OH", "CO2", "C2H2", "H2CO", "CH3CHO", "C6H6", "C2H6")
ARGUMENTS = dict(
    irreps="4x0e+4x1o+2x1e+2x2e", interactions=1, pair_channels=[4, 2, 4, 2], hidden=8, product_channels=4, cutoff=8.0
)


def geometries(seed: int = 0) -> list:
    """ASE molecules, slightly displaced except methane and benzene, whose degenerate levels are wanted."""
    random = np.random.default_rng(seed)
    out = []
    for name in NAMES:
        atoms = molecule(name)
        atoms.info["name"] = name
        if name not in ("CH4", "C6H6"):
            atoms.positions += random.normal(0, 0.03, atoms.positions.shape)
        out.append(atoms)
    return out


def record(atoms, split: str, order: int = 0) -> MoleculeRecord:
    """Extended Hueckel labels (Wolfsberg and Helmholz 1952) of functions that their surroundings scale: cheap."""
    z = atoms.numbers.astype(np.int64)
    batch = structures_to_batch([z], [atoms.positions], BASIS, 8.0)
    s = FreeAtomOverlap(BASIS, 8.0)(Geometry(BASIS, 8.0)(batch))[0].numpy()
    distances = atoms.get_all_distances()
    surroundings = 0.1 * (np.exp(-distances) - np.eye(len(z))).sum(1)
    scale = 1 + np.repeat(surroundings, BASIS.n_orbitals(z))
    s = s * np.outer(scale, scale)
    e = np.concatenate([np.repeat(_LEVELS[q], (1, 1, 3)[: len(_LEVELS[q])]) for q in z])
    h = 0.875 * s * (e[:, None] + e)
    h[np.diag_indices_from(h)] = e * np.diag(s)
    levels = scipy.linalg.eigh(h, s, eigvals_only=True)
    large = np.concatenate((levels, levels[-1] + np.arange(1.0, 4.0)))
    name = atoms.info["name"]
    return MoleculeRecord(z, atoms.positions, h, s, large, -1.0, int(z.sum()), name, name, split, order)


def write_store(path: Path) -> Store:
    """Eight molecules to train on, one to validate, three to test (benzene among them)."""
    with StoreWriter(path, Header(BASIS, "toy", {"functional": "extended Hueckel"}, {"none": "0"})) as writer:
        for k, atoms in enumerate(geometries()):
            split = "test" if k >= 9 else "val" if k == 8 else "train"
            writer.add(record(atoms, split, k))
    return Store(path)


def fitted_model(store: Store, seed: int = 0) -> MatrixModel:
    torch.manual_seed(seed)
    model = MatrixModel(BASIS, **ARGUMENTS)
    records = [store[i] for i in store.indices("train")]
    model.fit_reference(lambda: [records_to_batch(records, BASIS, model.cutoff)])
    return model.eval()


def write_checkpoint(path: Path, model: MatrixModel, store: Store) -> Path:
    seen = sorted({str(store.groups[i]) for split in ("train", "val") for i in store.indices(split)})
    card = ModelCard(ARGUMENTS, BASIS, store.level, store.target, tuple(seen))
    checkpoint.write_checkpoint(path, model, card, "")
    return path


def toy_files(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and store, written to a folder."""
    store = write_store(folder / "toy.h5")
    return write_checkpoint(folder / "toy.ckpt", fitted_model(store), store), folder / "toy.h5"
