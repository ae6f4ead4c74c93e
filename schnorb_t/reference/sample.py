"""The structures of the embedded sample: small molecules, each at one given and several thermal geometries.

Needs RDKit and tblite (``pip install "schnorb_t[sample,xtb]"``); nothing else in the package does. Sources:

- the closed-shell H/C/N/O/F molecules with at most 9 heavy atoms of ASE's G2 collection, at their MP2 geometries;
- the SMILES below, embedded by RDKit (ETKDGv3, seed 2026) and relaxed with MMFF94.

Each molecule also stands at thermally displaced geometries (``schnorb_t/reference/thermal.py``): classical harmonic
normal modes at 300 K of a GFN2-xTB Hessian, modes below 100 cm^-1 counted as 100, seeded by the molecule's name.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2

from schnorb_t.errors import UserError
from schnorb_t.reference.thermal import bonds, displaced_geometries, seed_of

ELEMENTS = (1, 6, 7, 8, 9)
SPLIT_SEED = 2026
EMBED_SEED = 2026

SMILES = """
CCCCC CC(C)CC CC(C)(C)C CCCCCC
C=CCC CC=CC C=C(C)CC CC=C(C)C C=CC(C)C C=CCC=C C=CC=CC C=C(C)C=C CC=C=C C=CC#C
C#CCC C#CCCC CC#CCC C#CC(C)C C#CC#C
CC1CC1 C1CCCC1 C1CCCCC1 C1=CCCC1 C1=CC=CC1 C=C1CCC1 C1CC1C=C CC1=CC1 C1CC1C1CC1
CCCO CCCCO CC(C)CO CCC(C)O CC(C)(C)O C=CCO C#CCO OCCO CC(O)CO COCCO C1CC1O C1CCC1O CC#CCO
CCOCC COC(C)C COCC=C COC=C COCOC C1CCO1 C1CCOC1 CC1CO1 C1COCO1 C1COCCO1 C1=COCC1
CCC=O CCCC=O CC(C)C=O C=CC=O CC=CC=O OCC=O CC(=O)C=O C#CC=O O=CCC=O
CCC(C)=O CC(=O)C(C)C C=CC(C)=O CC(=O)C(C)=O CC(=O)CO O=C1CCC1 O=C1CC1 CC=C=O
CCC(=O)O C=CC(=O)O OC(=O)C(=O)O OCC(=O)O CC(=O)C(=O)O OC(=O)O
CCOC=O COC(C)=O CCC(=O)OC CCOC(C)=O C=COC=O COC(=O)OC O=C1CCO1 O=C1CCCO1 COC(=O)C=C
CCCN CC(C)N CCCCN CC(C)(C)N CCNCC CCN(C)C CNC(C)C NCCN NCCO CNCCO C=CCN C#CCN C1CC1N C1CNC1 C1CCNC1 C1COCCN1
CC1CN1 CN1CC1
CNN CN(C)N CNNC CONC CON NCO NCC#N OCC#N
NC=O CNC=O CN(C)C=O CNC(C)=O CCC(N)=O NC(N)=O CNC(N)=O NCC(N)=O NC(=O)C=C O=C1CCN1 NC(=O)C(N)=O COC(N)=O
CCC#N CCCC#N CC(C)C#N N#CCC#N C=CCC#N CC=CC#N N#CC#CC COCC#N NC#N
C=N CC=N CC(C)=N CN=C CC=NC CC=NO C=NO C=NN NC=N CC(N)=N NC(N)=N CON=C
c1ccoc1C c1cc[nH]c1C Cc1ccccc1 Oc1ccccc1 Nc1ccccc1 Cn1cccc1 c1cnoc1 c1cocn1 c1cn[nH]c1 c1c[nH]cn1 c1ncn[nH]1
c1ccnnc1 c1cncnc1 c1cnccn1 c1nncn1C Cc1cocn1
CN=C=O CN=[N+]=[N-] CC[N+](=O)[O-] C=C[N+](=O)[O-] [C-]#[N+]C
CF CCF CCCF CC(C)F CC(F)F FCCF CC(F)(F)F C=C(F)F FC=CF C=C(F)C FCC=O OCCF NCCF FCC#N CC(=O)CF OC(=O)CF
Fc1ccccc1 FC1CC1 C#CF FC=O OCC(F)F COCF
"""


def closed_shell_g2() -> list[tuple[str, Atoms]]:
    """(name, atoms) of the G2 molecules of H, C, N, O, F with paired electrons and at most 9 heavy atoms."""
    out = []
    for name in sorted(g2.names):
        atoms = molecule(name)
        z = atoms.numbers
        paired = z.sum() % 2 == 0 and not atoms.get_initial_magnetic_moments().any()
        if len(z) > 1 and set(z) <= set(ELEMENTS) and paired and (z > 1).sum() <= 9:
            out.append((f"g2/{name}", Atoms(z, atoms.positions)))
    return out


def embed(smiles: str) -> Atoms:
    """Geometry of a SMILES by ETKDGv3 and MMFF94.

    Raises:
        UserError: RDKit cannot embed or relax it.
    """
    try:
        from rdkit import Chem
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise UserError('RDKit is not installed; pip install "schnorb_t[sample]"') from error
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = EMBED_SEED
    if AllChem.EmbedMolecule(mol, parameters) != 0 or AllChem.MMFFOptimizeMolecule(mol, maxIters=2000) != 0:
        raise UserError(f"SMILES {smiles}: RDKit finds no relaxed MMFF94 geometry")
    return Atoms([a.GetAtomicNum() for a in mol.GetAtoms()], mol.GetConformer().GetPositions())


def graph_of(atoms: Atoms) -> str:
    """Canonical text of a molecule's bonds and elements, hydrogens included: equal for conformers of one molecule."""
    from rdkit import Chem

    mol = Chem.RWMol()
    for z in atoms.numbers:
        atom = Chem.Atom(int(z))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in sorted(bonds(atoms.numbers, atoms.positions)):
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return Chem.MolToSmiles(mol)


def molecules() -> list[tuple[str, Atoms]]:
    """(name, atoms) of every molecule of the sample, no graph twice.

    Raises:
        UserError: a molecule stands twice.
    """
    from rdkit import Chem

    out = closed_shell_g2()
    for smiles in SMILES.split():
        out.append((f"smiles/{Chem.CanonSmiles(smiles)}", embed(smiles)))
    first: dict[str, str] = {}
    for name, atoms in out:
        graph = graph_of(atoms)
        if graph in first:
            raise UserError(f"the sample would hold {name} twice: it has the bonds of {first[graph]}")
        first[graph] = name
    return out


def split_of(mols: list[tuple[str, Atoms]]) -> dict[str, str]:
    """Molecule name -> split: about 75 % train, 10 % val, 15 % test of all molecules.

    Molecules with fewer than three heavy atoms, without carbon or with fewer than two hydrogen atoms (H2, F2, O3,
    CO2, CF4 ...) are always training molecules: each is the only one of its kind.
    """
    free = [n for n, a in mols if (a.numbers > 1).sum() >= 3 and 6 in a.numbers and (a.numbers == 1).sum() >= 2]
    drawn = [free[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(free))]
    n_test, n_val = round(0.15 * len(mols)), round(0.10 * len(mols))
    split = {name: "train" for name, _ in mols}
    split.update({name: "test" for name in drawn[:n_test]})
    split.update({name: "val" for name in drawn[n_test : n_test + n_val]})
    return split


def structures(n_displaced: int) -> list[Atoms]:
    """All geometries, with ``name``, ``group`` and ``split`` in ``Atoms.info``; geometry 0 is the given one."""
    mols = molecules()
    split = split_of(mols)
    out = []
    for name, atoms in mols:
        displaced = displaced_geometries(atoms.numbers, atoms.positions, n_displaced, seed_of(name))
        for k, x in enumerate([atoms.positions, *displaced]):
            out.append(Atoms(atoms.numbers, x, info={"name": f"{name}/{k}", "group": name, "split": split[name]}))
    return out


def source() -> str:
    """What the file shall say about its structures."""
    ase, rdkit, tblite = (version(name) for name in ("ase", "rdkit", "tblite"))
    return (
        f"closed-shell H/C/N/O/F molecules of the G2 collection (ASE {ase}) and molecules from SMILES (RDKit {rdkit}, "
        "ETKDGv3, MMFF94); geometry 0 as given, the others classical harmonic normal modes at 300 K, GFN2-xTB Hessian "
        f"(tblite {tblite}), modes below 100 cm^-1 counted as 100; schnorb_t sample"
    )
