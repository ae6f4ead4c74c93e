"""From SMILES to geometries to label: relaxed by GFN2-xTB, or hot, out of a short GFN2-xTB dynamics.

Everything random depends on a molecule's name and the policy alone, so that a molecule has the same geometries in
whatever file, order and number of processes. Needs RDKit and tblite.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii

from schnorb_t.errors import UserError
from schnorb_t.reference.pyscf import LabelError
from schnorb_t.reference.thermal import seed_of
from schnorb_t.structures.geometry import BOND_FACTOR

METHOD = "GFN2-xTB"
#: Atoms three or more bonds apart (or not connected) that come nearer than this multiple of the sum of their covalent
#: radii have formed a bond. Bonded atoms beyond ``BOND_FACTOR`` times it have broken theirs.
NEW_BOND_FACTOR = 1.1
#: How often another seed is tried, for the embedding and for the dynamics each.
ATTEMPTS = 3
#: Largest force of a relaxed geometry, eV/Å.
MAX_FORCE = 0.05
#: Relaxation steps before another conformer is tried.
MAX_STEPS = 500
#: Langevin friction, 1/fs.
FRICTION = 0.02
#: The largest element of GFN2-xTB.
LAST_ELEMENT = 86


@dataclass(frozen=True)
class Molecule:
    """One molecule to make geometries of.

    Attributes:
        smiles: as given.
        name: unique; seeds everything random.
        split: ``"train"``, ``"val"``, ``"test"`` or ``""``.
        order: place in the list.
    """

    smiles: str
    name: str
    split: str = ""
    order: int = 0


@dataclass(frozen=True)
class Policy:
    """Which geometries are made.

    Attributes:
        hot_fraction: of the training molecules (and those without a split), the others are relaxed.
        temperatures: K, of hot training geometries: uniform between the two.
        test_temperature: K; test and validation molecules get a relaxed geometry and one at this temperature.
        duration: of the dynamics, fs.
        time_step: fs.
    """

    hot_fraction: float = 0.6
    temperatures: tuple[float, float] = (200.0, 800.0)
    test_temperature: float = 500.0
    duration: float = 80.0
    time_step: float = 0.5

    def __post_init__(self):
        low, high = self.temperatures
        if not 0.0 <= self.hot_fraction <= 1.0:
            raise UserError(f"the fraction of hot geometries must be between 0 and 1, not {self.hot_fraction:g}")
        if not 0.0 < low <= high or self.test_temperature <= 0.0:
            raise UserError("temperatures must be above 0 K, the lower one first")
        if self.duration <= 0.0 or not 0.0 < self.time_step <= 2.0:
            raise UserError("the dynamics needs a duration above 0 and a time step of at most 2 fs")

    def plan(self, molecule: Molecule) -> dict[str, int]:
        """Kind (``"relaxed"``, ``"hot"``) -> temperature in K, of the geometries a molecule gets; relaxed is 0 K."""
        if molecule.split in ("val", "test"):
            return {"relaxed": 0, "hot": int(round(self.test_temperature))}
        rng = np.random.default_rng(seed_of(f"{molecule.name}/plan"))
        hot, temperature = rng.random() < self.hot_fraction, rng.uniform(*self.temperatures)
        return {"hot": int(round(temperature))} if hot else {"relaxed": 0}


def frame_name(molecule: Molecule, kind: str) -> str:
    """Name of one geometry of a molecule."""
    return f"{molecule.name}:{kind}"


# ---- lists of molecules --------------------------------------------------------------------------------------


def _rdkit():
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise UserError('SMILES need RDKit: pip install "schnorb_t[smiles]"') from error
    RDLogger.DisableLog("rdApp.*")
    return Chem, AllChem


def read_molecules(path: Path, prefix: str = "", split: str = "") -> list[Molecule]:
    """Molecules of a CSV file with a column ``smiles`` (and ``name``, ``split``, ``order``) or of a SMILES file.

    A SMILES file has one molecule per line, perhaps followed by its name; ``#`` begins a comment line.

    Args:
        path: ends in ``.csv`` for the former.
        prefix: begins the names of molecules without one, ``PREFIX:ORDER``; default the file's own name.
        split: of molecules without one.

    Raises:
        UserError: no such file, no column ``smiles``, no molecule, a name twice, an order that is no number.
    """
    path, prefix = Path(path), prefix or Path(path).stem
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    rows: list[dict[str, str]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(lines)
            if "smiles" not in (reader.fieldnames or []):
                raise UserError(f"{path}: has no column 'smiles'")
            rows = [row for row in reader if (row["smiles"] or "").strip()]
        else:
            for line in lines:
                words = line.split(maxsplit=1)
                if words and not words[0].startswith("#"):
                    rows.append({"smiles": words[0], "name": words[1].strip() if len(words) > 1 else ""})
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: is no text file; give a CSV or SMILES file") from None
    if not rows:
        raise UserError(f"{path}: holds no molecule")
    out = []
    for index, row in enumerate(rows):
        try:
            order = int(row.get("order") or index)
        except ValueError:
            raise UserError(f"{path}: order {row['order']!r} of {row['smiles']} is no whole number") from None
        name = (row.get("name") or "").strip() or f"{prefix}:{order}"
        out.append(Molecule(row["smiles"].strip(), name, (row.get("split") or split).strip(), order))
    name, times = Counter(m.name for m in out).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: {times} molecules are called {name!r}; names must be unique")
    return out


@dataclass(frozen=True)
class Graph:
    """What a molecule's SMILES says of its atoms, hydrogens included.

    Attributes:
        atomic_numbers: [n].
        bonds: [b, 2].
        distances: [n, n] bonds between two atoms.
        group: canonical SMILES without stereochemistry: the molecule's identity.
    """

    atomic_numbers: np.ndarray
    bonds: np.ndarray
    distances: np.ndarray
    group: str

    def change(self, positions: np.ndarray) -> str:
        """Which bond broke or formed at ``positions`` [n, 3], Å; ``""`` if none."""
        radii = covalent_radii[self.atomic_numbers]
        ratio = np.linalg.norm(positions[:, None] - positions[None], axis=-1) / (radii[:, None] + radii[None])
        symbols = Atoms(self.atomic_numbers).get_chemical_symbols()
        for i, j in self.bonds:
            if ratio[i, j] > BOND_FACTOR:
                return f"bond {symbols[i]}{i}-{symbols[j]}{j} broke"
        near = np.argwhere(np.triu((ratio < NEW_BOND_FACTOR) & (self.distances > 2), 1))
        for i, j in near:
            return f"bond {symbols[i]}{i}-{symbols[j]}{j} formed"
        return ""


@lru_cache(maxsize=256)
def parse(smiles: str):
    """RDKit's molecule with hydrogens, and its ``Graph``.

    Raises:
        LabelError: not a neutral closed-shell molecule of elements of GFN2-xTB, all in one piece.
    """
    chem, _ = _rdkit()
    bare = chem.MolFromSmiles(smiles)
    if bare is None:
        raise LabelError(f"RDKit cannot read the SMILES {smiles}")
    if bare.GetNumAtoms() == 0:
        raise LabelError("an empty molecule")
    mol = chem.AddHs(bare)
    if len(chem.GetMolFrags(mol)) > 1:
        raise LabelError("several molecules (a dot in the SMILES); give them one by one")
    if charge := chem.GetFormalCharge(mol):
        raise LabelError(f"has charge {charge}; geometries are made for neutral molecules")
    if radicals := sum(a.GetNumRadicalElectrons() for a in mol.GetAtoms()):
        raise LabelError(f"open shell: {radicals} radical electrons")
    z = np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64)
    if z.min() < 1 or z.max() > LAST_ELEMENT:
        raise LabelError(f"has an atom that {METHOD} does not know")
    if z.sum() % 2:
        raise LabelError(f"open shell: {z.sum()} electrons")
    bonds = np.array([[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in mol.GetBonds()], dtype=np.int64).reshape(-1, 2)
    distances = np.asarray(chem.GetDistanceMatrix(mol))
    return mol, Graph(z, bonds, distances, chem.MolToSmiles(bare, isomericSmiles=False))


def require_programs() -> None:
    """Find out before any work whether RDKit and tblite are there.

    Raises:
        UserError: one is not.
    """
    _rdkit()
    _calculator()


# ---- geometries ----------------------------------------------------------------------------------------------


def _calculator():
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise UserError(f'{METHOD} needs tblite: pip install "schnorb_t[xtb]"') from error
    return TBLite(method=METHOD, verbosity=0)


def embed(smiles: str, seed: int) -> Atoms:
    """A first geometry by ETKDGv3 (Wang et al., J. Chem. Inf. Model. 60, 2044 (2020)) and a force field.

    Raises:
        LabelError: no geometry found.
    """
    chem, all_chem = _rdkit()
    mol, graph = parse(smiles)
    mol = chem.Mol(mol)
    settings = all_chem.ETKDGv3()
    settings.randomSeed = seed % (2**31 - 1)
    if all_chem.EmbedMolecule(mol, settings) != 0:
        settings.useRandomCoords = True
        if all_chem.EmbedMolecule(mol, settings) != 0:
            raise LabelError("RDKit finds no geometry")
    try:
        if all_chem.MMFFHasAllMoleculeParams(mol):
            all_chem.MMFFOptimizeMolecule(mol, maxIters=1000)
        elif all_chem.UFFHasAllMoleculeParams(mol):
            all_chem.UFFOptimizeMolecule(mol, maxIters=1000)
    except (RuntimeError, ValueError):
        pass  # the force field only saves steps
    return Atoms(graph.atomic_numbers, mol.GetConformer().GetPositions())


def relax(atoms: Atoms) -> None:
    """Move atoms to a minimum of GFN2-xTB.

    Raises:
        LabelError: none is reached, or the SCF does not converge.
    """
    from ase.calculators.calculator import CalculatorError
    from ase.optimize import BFGS

    atoms.calc = _calculator()
    try:
        if not BFGS(atoms, logfile=None).run(fmax=MAX_FORCE, steps=MAX_STEPS):
            raise LabelError(f"not relaxed in {MAX_STEPS} steps")
    except (CalculatorError, RuntimeError) as error:
        raise LabelError(f"{METHOD} gave no result: {error}") from None


def heat(atoms: Atoms, temperature: float, seed: int, policy: Policy) -> None:
    """Langevin dynamics of GFN2-xTB from velocities of a Maxwell-Boltzmann distribution.

    Args:
        atoms: moved.
        temperature: K.
        seed: of velocities and of the thermostat.
        policy: duration and time step.

    Raises:
        LabelError: the SCF does not converge.
    """
    from ase.calculators.calculator import CalculatorError
    from ase.md.langevin import Langevin

    rng = np.random.RandomState(seed % 2**32)
    atoms.calc = _calculator()
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    dynamics = Langevin(
        atoms,
        policy.time_step * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,  # the molecule may drift; fixing its centre would not sample the temperature
        rng=rng,
    )
    try:
        dynamics.run(max(1, round(policy.duration / policy.time_step)))
    except (CalculatorError, RuntimeError) as error:
        raise LabelError(f"{METHOD} gave no result: {error}") from None


def relaxed(molecule: Molecule) -> Atoms:
    """The relaxed geometry of a molecule, of the first conformer that keeps the bonds of the SMILES.

    Raises:
        LabelError: none does; the reason of the last one.
    """
    _, graph = parse(molecule.smiles)
    reason = ""
    for attempt in range(ATTEMPTS):
        try:
            atoms = embed(molecule.smiles, seed_of(f"{molecule.name}/conformer/{attempt}"))
            relax(atoms)
        except LabelError as error:
            reason = str(error)
            continue
        if not (change := graph.change(atoms.positions)):
            return atoms
        reason = f"relaxing changes the molecule: {change}"
    raise LabelError(f"{reason} ({ATTEMPTS} conformers tried)")


def hot(molecule: Molecule, start: Atoms, temperature: float, policy: Policy) -> Atoms:
    """A geometry of the molecule at a temperature, K, with all its bonds, from the relaxed one.

    Raises:
        LabelError: bonds break or form again and again.
    """
    _, graph = parse(molecule.smiles)
    reason = ""
    for attempt in range(ATTEMPTS):
        atoms = start.copy()
        try:
            heat(atoms, temperature, seed_of(f"{molecule.name}/dynamics/{attempt}"), policy)
        except LabelError as error:
            reason = str(error)
            continue
        if not (change := graph.change(atoms.positions)):
            return atoms
        reason = change
    raise LabelError(f"at {temperature:g} K: {reason} ({ATTEMPTS} runs tried)")


@dataclass(frozen=True)
class GeometryJob:
    """What is done to every molecule; call it with one. Picklable: it travels to worker processes."""

    policy: Policy = Policy()

    def __call__(self, molecule: Molecule) -> list[Atoms]:
        """Its geometries, in ``info`` name, group, split, kind, temperature (K), order and smiles.

        Raises:
            LabelError: with the reason.
        """
        _, graph = parse(molecule.smiles)
        start = relaxed(molecule)
        out = []
        for kind, temperature in self.policy.plan(molecule).items():
            atoms = start if kind == "relaxed" else hot(molecule, start, temperature, self.policy)
            info = {
                "name": frame_name(molecule, kind),
                "group": graph.group,
                "split": molecule.split,
                "kind": kind,
                "temperature": temperature,
                "order": molecule.order,
                "smiles": molecule.smiles,
            }
            out.append(Atoms(atoms.numbers, atoms.positions, info=info))
        return out


def selected(
    molecules: Sequence[Molecule],
    orders: tuple[int, int] | None = None,
    splits: Sequence[str] = (),
    max_heavy_atoms: int | None = None,
) -> list[Molecule]:
    """Those of a list that are wanted.

    Args:
        molecules: to choose from.
        orders: first order and the one after the last.
        splits: wanted ones; empty: all.
        max_heavy_atoms: atoms other than hydrogen, at most.
    """
    out = [m for m in molecules if orders is None or orders[0] <= m.order < orders[1]]
    out = [m for m in out if not splits or m.split in splits]
    if max_heavy_atoms is None:
        return out
    chem, _ = _rdkit()

    def heavy(smiles: str) -> int:
        mol = chem.MolFromSmiles(smiles)
        return 0 if mol is None else mol.GetNumHeavyAtoms()  # unreadable ones are reported later

    return [m for m in out if heavy(m.smiles) <= max_heavy_atoms]
