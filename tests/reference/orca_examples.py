"""ORCA files for tests: PySCF calculations written the way ORCA 6 writes them.

The real files in the reference data are the authority on the layout; these add what they lack: functionals in
``orca_2json``, ``F-Matrix``, printed Fock matrices, and printed d functions.
"""

from __future__ import annotations

import json

import numpy as np
from ase.data import chemical_symbols

from schnorb_t.basis import L_LETTERS
from schnorb_t.conventions import pyscf_shells, reorder_from, reorder_from_pyscf, shell_order
from schnorb_t.units import BOHR

WATER = [("O", (0.0, 0.0, 0.1173)), ("H", (0.0, 0.7572, -0.4692)), ("H", (0.01, -0.7572, -0.4692))]


def run(method="HF", basis="def2-SVP", atoms=WATER):
    """A converged closed-shell PySCF calculation."""
    from pyscf import dft, gto, scf

    mol = gto.M(atom=atoms, basis=basis, verbose=0)
    mf = scf.RHF(mol) if method == "HF" else dft.RKS(mol, xc=method)
    mf.conv_tol = 1e-11
    mf.kernel()
    assert mf.converged
    return mf


class InOrcaOrder:
    """Matrices, labels and charges of a PySCF calculation in ORCA's order."""

    def __init__(self, mf):
        mol = mf.mol
        self.mol, self.mf = mol, mf
        ours, orca = reorder_from_pyscf(mol), reorder_from("orca", pyscf_shells(mol)).inverse()
        self.core = orca.matrix(ours.matrix(mf.get_hcore()))
        self.overlap = orca.matrix(ours.matrix(mf.get_ovlp()))
        pyscf_fock = mf.get_fock()
        self.fock = orca.matrix(ours.matrix(pyscf_fock))
        energies, coefficients = mf.eig(pyscf_fock, mf.get_ovlp())
        self.energies, self.coefficients = energies, orca.rows(ours.rows(coefficients))
        self.occupations = mf.get_occ(energies, coefficients)
        self.numbers = [int(z) for z in mol.atom_charges()]
        self.labels = []
        for atom, ls in enumerate(pyscf_shells(mol)):
            for k, l in enumerate(ls):
                names = {0: {0: ""}, 1: {0: "z", 1: "x", -1: "y"}, 2: {0: "z2", 1: "xz", -1: "yz", 2: "x2y2", -2: "xy"}}
                for m in shell_order("orca", l)[0]:
                    name = names[l][m] if l in names else (f"{m:+d}" if m else "0")
                    number = ls[: k + 1].count(l)
                    self.labels.append(
                        (f"{atom}{chemical_symbols[self.numbers[atom]]}", f"{number}{L_LETTERS[l]}{name}")
                    )
        density = (self.coefficients * self.occupations) @ self.coefficients.T
        per_orbital = (density * self.overlap).sum(axis=1)
        atom_of = [atom for atom, ls in enumerate(pyscf_shells(mol)) for l in ls for _ in range(2 * l + 1)]
        self.mulliken = np.array(self.numbers) - np.bincount(atom_of, per_orbital)


def orca_json(mf, fock: bool = False) -> dict:
    """What ``orca_2json`` of ORCA 6 would write, coordinates in Bohr."""
    o = InOrcaOrder(mf)
    atoms = []
    for i, z in enumerate(o.numbers):
        shells = []
        for b in range(o.mol.nbas):
            if o.mol.bas_atom(b) == i:
                for column in o.mol.bas_ctr_coeff(b).T:
                    letter = L_LETTERS[o.mol.bas_angular(b)]
                    exponents = o.mol.bas_exp(b).tolist()
                    shells.append({"Coefficients": column.tolist(), "Exponents": exponents, "Shell": letter})
        symbol = chemical_symbols[z]
        coords = o.mol.atom_coord(i).tolist()
        atoms.append(
            {
                "Basis": shells,
                "Coords": coords,
                "ElementLabel": symbol,
                "ElementNumber": z,
                "Idx": i,
                "NuclearCharge": z,
            }
        )
    mos = [
        {"MOCoefficients": c.tolist(), "Occupancy": float(n), "OrbitalEnergy": float(e)}
        for c, n, e in zip(o.coefficients.T, o.occupations, o.energies, strict=True)
    ]
    molecule = {
        "Atoms": atoms,
        "BaseName": "made",
        "Charge": o.mol.charge,
        "CoordinateUnits": "Bohrs",
        "H-Matrix": o.core.tolist(),
        "S-Matrix": o.overlap.tolist(),
        "HFTyp": "RHF",
        "Multiplicity": 1,
        "MolecularOrbitals": {
            "EnergyUnit": "Eh",
            "MOs": mos,
            "OrbitalLabels": [f"{a}   {b}" for a, b in o.labels],
        },
    }
    if fock:
        molecule["F-Matrix"] = [(o.fock - o.core).tolist()]
    return {"Molecule": molecule, "ORCA Header": {"Version": "6.1.0"}}


def _table(matrix: np.ndarray, heads: list[str], width: int, above=()) -> list[str]:
    lines, n = [], matrix.shape[1]
    for first in range(0, n, 6):
        columns = range(first, min(first + 6, n))
        lines.append(" " * len(heads[0]) + "".join(f"{k:{width}d}" for k in columns))
        lines += [" " * len(heads[0]) + "".join(row[k] for k in columns) for row in above]
        lines += [head + "".join(f"{matrix[r, k]:{width}.6f}" for k in columns) for r, head in enumerate(heads)]
    return lines


def orca_text(mf, fock: bool = False, matrices: bool = True) -> str:
    """What ORCA 6 would print: ``%output Print[P_Basis] 2 Print[P_MOs] 1 Print[P_Overlap] 1`` (``P_Iter_F`` too)."""
    o = InOrcaOrder(mf)
    n, symbols = len(o.energies), [chemical_symbols[z] for z in o.numbers]
    x = o.mol.atom_coords()
    is_hf = not hasattr(mf, "xc")
    out = ["", "                 * O   R   C   A *", "", "                 Program Version 6.0.0  -   RELEASE  -", ""]
    out += [f"Your calculation utilizes the basis: {o.mol.basis}", ""]
    out += [
        "---------------------------------",
        "CARTESIAN COORDINATES (ANGSTROEM)",
        "---------------------------------",
    ]
    out += [f"  {s:<4}" + "".join(f"{v:12.6f}" for v in row) for s, row in zip(symbols, x * BOHR, strict=True)]
    out += ["", "----------------------------", "CARTESIAN COORDINATES (A.U.)", "----------------------------"]
    out += ["  NO LB      ZA    FRAG     MASS         X           Y           Z"]
    out += [
        f"{i:4d} {s:<4}{z:8.4f}    0{z * 2:10.3f}" + "".join(f"{v:12.6f}" for v in row)
        for i, (s, z, row) in enumerate(zip(symbols, o.numbers, x, strict=True))
    ]
    if matrices:
        out += ["", "-------------------------", "BASIS SET IN INPUT FORMAT", "-------------------------", ""]
        for z in sorted(set(o.numbers)):
            out += [f" # Basis set for element : {chemical_symbols[z]} ", f" NewGTO {chemical_symbols[z]} "]
            atom = o.numbers.index(z)
            for b in range(o.mol.nbas):
                if o.mol.bas_atom(b) == atom:
                    for column in o.mol.bas_ctr_coeff(b).T:
                        letter = L_LETTERS[o.mol.bas_angular(b)].upper()
                        out += [f" {letter} {len(column)} "]
                        pairs = zip(o.mol.bas_exp(b), column, strict=True)
                        out += [f"{k:4d}{a:22.10f}{c:18.10f}" for k, (a, c) in enumerate(pairs, 1)]
            out += ["  end;", ""]
    out += ["", "------------", "SCF SETTINGS", "------------", "Hamiltonian:"]
    if is_hf:
        out += [" Ab initio Hamiltonian  Method          .... Hartree-Fock(GTOs)"]
    else:
        out += [
            " Density Functional     Method          .... DFT(GTOs)",
            f" Exchange Functional    Exchange  .... {mf.xc}",
        ]
    out += ["", "General Settings:", " Hartree-Fock type      HFTyp           .... RHF"]
    out += [
        f" Total Charge           Charge          ....   {o.mol.charge:2d}",
        " Multiplicity           Mult            ....    1",
    ]
    out += [f" Number of Electrons    NEL             .... {o.mol.nelectron:4d}"]
    out += [f" Basis Dimension        Dim             .... {n:4d}", ""]
    heads = [f"{k:7d}    " for k in range(n)]
    if matrices:
        out += ["--------------", "OVERLAP MATRIX", "--------------", *_table(o.overlap, heads, 11)]
    out += ["--------------", "SCF ITERATIONS", "--------------"]
    if fock:
        for matrix in (o.core, o.fock):  # the first cycle's is not the last
            out += ["Fock matrix for operator 0", *_table(matrix, heads, 11)]
    out += ["               *           SCF CONVERGED AFTER   9 CYCLES          *", ""]
    electronic, nuclear = mf.energy_elec()[0], mf.energy_nuc()
    density = (o.coefficients * o.occupations) @ o.coefficients.T
    out += ["----------------", "TOTAL SCF ENERGY", "----------------", ""]
    out += [f"Total Energy       :  {electronic + nuclear:20.8f} Eh", "", "Components:"]
    out += [f"Nuclear Repulsion  :  {nuclear:20.8f} Eh", f"Electronic Energy  :  {electronic:20.8f} Eh"]
    out += [f"One Electron Energy:  {np.sum(density * o.core):20.8f} Eh", ""]
    out += ["----------------", "ORBITAL ENERGIES", "----------------", ""]
    out += ["  NO   OCC          E(Eh)            E(eV) "]
    out += [
        f"{i:4d}{q:9.4f}{e:16.6f}{e * 27.211386:16.4f} "
        for i, (q, e) in enumerate(zip(o.occupations, o.energies, strict=True))
        if q > 0 or i < sum(o.numbers) // 2 + 10
    ]
    out += ["*Only the first 10 virtual orbitals were printed."]
    if matrices:
        heads = [f"{a:>4}   {b:<9}" for a, b in o.labels]
        above = (
            [f"{e:10.5f}" for e in o.energies],
            [f"{q:10.5f}" for q in o.occupations],
            ["  --------"] * n,
        )
        out += ["------------------", "MOLECULAR ORBITALS (RHF, ROHF)", "------------------"]
        out += _table(o.coefficients, heads, 10, above)
    out += ["", "-----------------------", "MULLIKEN ATOMIC CHARGES", "-----------------------"]
    out += [f"{i:4d} {s:<2}:{q:12.6f}" for i, (s, q) in enumerate(zip(symbols, o.mulliken, strict=True))]
    out += ["", "                             ****ORCA TERMINATED NORMALLY****", "TOTAL RUN TIME: 0 days", ""]
    return "\n".join(out)


def write_json(path, data: dict):
    path.write_text(json.dumps(data))
    return path
