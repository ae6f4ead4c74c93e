"""Divide molecules into training, validation and test, always whole groups: ``schnorb_t splits FILE``.

Every rule draws from a hash of the seed and the group's text, so a molecule's split depends neither on the order of
the file nor on what else is in it: a file that grows never moves a test molecule into training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .duplicates import N_INVARIANTS, composition_code, find_duplicates, geometry_invariants
from .reader import Store
from .records import SPLITS

#: Shares of training, validation and test.
FRACTIONS = (0.8, 0.1, 0.1)


def draw(text: str, seed: int) -> float:
    """A uniform number in [0, 1) that depends on text and seed alone (SHA-256)."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_by_group(
    groups: Sequence[str] | np.ndarray, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> np.ndarray:
    """Random split of whole groups, [n] of ``"train"``, ``"val"``, ``"test"``.

    Args:
        groups: [n] identity of each molecule (SMILES, graph key); geometries of one molecule share it.
        fractions: of training, validation, test; each group falls into one with that probability.
        seed: another seed, another split.

    Raises:
        UserError: fractions do not sum to 1, or a split that was asked for came out empty.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise UserError(f"fractions of {', '.join(SPLITS)} must be three that sum to 1, got {list(fractions)}")
    edges = np.cumsum(fractions)[:-1]
    of_group = {g: SPLITS[int(np.searchsorted(edges, draw(g, seed), side="right"))] for g in set(groups)}
    splits = np.array([of_group[g] for g in groups], dtype="U5")
    for split, fraction in zip(SPLITS, fractions, strict=True):
        if fraction and split not in of_group.values():
            raise UserError(
                f"split {split!r} ({fraction:g} of {len(of_group)} groups) came out empty; "
                "give another seed or other fractions"
            )
    return splits


def split_by_size(
    n_heavy: Sequence[int] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    largest_in_training: int,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Extrapolation in size: small molecules train and validate, larger ones test.

    Args:
        n_heavy: [n] atoms other than hydrogen.
        groups: [n] identity of each molecule.
        largest_in_training: molecules with more heavy atoms are test.
        val_fraction: of the small groups.

    Raises:
        UserError: nothing small, nothing large, or a group that has both.
    """
    heavy = np.asarray(n_heavy)
    test = heavy > largest_in_training
    if test.all() or not test.any():
        raise UserError(
            f"no molecule with {'at most' if test.all() else 'more than'} {largest_in_training} heavy atoms; "
            f"there are {heavy.min()} to {heavy.max()}"
        )
    splits = np.full(len(heavy), "test", dtype="U5")
    small = [g for g, t in zip(groups, test, strict=True) if not t]
    both = sorted({g for g, t in zip(groups, test, strict=True) if t} & set(small))
    if both:
        raise UserError(
            f"group {str(both[0])!r} has molecules with at most and with more than {largest_in_training} heavy atoms "
            f"({len(both)} such groups); split by group instead"
        )
    splits[~test] = split_by_group(small, (1 - val_fraction, val_fraction, 0.0), seed)
    return splits


def murcko_scaffolds(smiles: Sequence[str] | np.ndarray) -> list[str]:
    """Bemis-Murcko scaffold (J. Med. Chem. 39, 2887 (1996)) of each SMILES; of an acyclic molecule its own SMILES.

    Raises:
        UserError: RDKit is missing, or cannot read a SMILES.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Scaffolds import MurckoScaffold
    except ImportError:
        raise UserError('a split by scaffold needs RDKit: pip install "schnorb_t[smiles]"') from None
    rdBase.DisableLog("rdApp.*")
    known: dict[str, str] = {}
    for text in set(smiles):
        molecule = Chem.MolFromSmiles(text) if text else None
        if molecule is None:
            raise UserError(f"group {str(text)!r} is not a SMILES that RDKit can read; split by group or size instead")
        # without stereochemistry and explicit hydrogens: enantiomers and conformers share their scaffold
        Chem.RemoveStereochemistry(molecule)
        known[text] = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule) or Chem.MolToSmiles(molecule)
    return [known[text] for text in smiles]


def split_by_scaffold(
    smiles: Sequence[str] | np.ndarray, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> np.ndarray:
    """Molecules of one ring system stand in one split: extrapolation to other scaffolds.

    Raises:
        UserError: as ``murcko_scaffolds`` and ``split_by_group``.
    """
    return split_by_group(murcko_scaffolds(smiles), fractions, seed)


def link_duplicates(store: Store, groups: Sequence[str]) -> np.ndarray:
    """Give groups that share a geometry one name (the first in alphabetical order), so that no split parts them.

    Returns:
        [n] the groups with duplicates linked.
    """

    def load(i: int):
        packed = store.packed(i)
        return packed.atomic_numbers, packed.positions

    codes = np.zeros(len(store), dtype=np.int64)
    invariants = np.zeros((len(store), N_INVARIANTS))
    for i in range(len(store)):
        geometry = load(i)
        codes[i], invariants[i] = composition_code(geometry[0]), geometry_invariants(*geometry)
    parent = {g: g for g in set(groups)}

    def root(g: str) -> str:
        while parent[g] != g:
            g = parent[g]
        return g

    for i, j in find_duplicates(codes, invariants, load):
        a, b = sorted((root(groups[i]), root(groups[j])))
        parent[b] = a
    return np.array([root(g) for g in groups])


def main(argv: list[str] | None = None) -> None:
    """``python -m schnorb_t.data.splits``: the command ``schnorb_t splits`` (default: the process's own arguments).

    Raises:
        UserError: bad input.
    """
    from schnorb_t.commands import run  # a door stands on the ground floor and leads to the top one

    run("splits", argv)


if __name__ == "__main__":
    from schnorb_t.commands import door

    door("splits")
