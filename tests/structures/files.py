"""Files of every format, with what they may say of charge, spin and periodicity."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

WATER = (("O", 0.0, 0.0, 0.119262), ("H", 0.0, 0.763239, -0.477047), ("H", 0.0, -0.763239, -0.477047))
#: Its two-fold anion is charged and has paired electrons, so that only what the file says can tell.
CARBONATE = (("C", 0.0, 0.0, 0.0), ("O", 1.29, 0.0, 0.0), ("O", -0.645, 1.117, 0.0), ("O", -0.645, -1.117, 0.0))
OXYGEN = (("O", 0.0, 0.0, 0.0), ("O", 0.0, 0.0, 1.207))
BOHR = 0.529177210903


def rows(atoms, scale: float = 1.0) -> str:
    return "".join(f"{s} {x * scale:.8f} {y * scale:.8f} {z * scale:.8f}\n" for s, x, y, z in atoms)


def places(atoms, symbols: bool = False) -> str:
    return "".join(f"{x} {y} {z}{' ' + s if symbols else ''}\n" for s, x, y, z in atoms)


def xyz(atoms, comment: str = "") -> str:
    return f"{len(atoms)}\n{comment}\n{rows(atoms)}"


def sdf_record(atoms, lines=(), old: dict[int, int] | None = None, title: str = "", data: str = "") -> str:
    old = old or {}
    body = "".join(
        f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3} 0{old.get(k, 0):3d}  0  0  0  0  0  0  0  0  0  0\n"
        for k, (s, x, y, z) in enumerate(atoms)
    )
    head = f"{title}\n  tests   3D\n\n{len(atoms):3d}  0  0  0  0  0  0  0  0  0999 V2000\n"
    return head + body + "".join(f"{line}\n" for line in lines) + f"M  END\n{data}$$$$\n"


def _v3000(atoms, options) -> str:
    body = "".join(f"M  V30 {k + 1} {s} {x} {y} {z} 0{options.get(k, '')}\n" for k, (s, x, y, z) in enumerate(atoms))
    return (
        "t\n  tests\n\n  0  0  0     0  0            999 V3000\n"
        f"M  V30 BEGIN CTAB\nM  V30 COUNTS {len(atoms)} 0 0 0 0\n"
        f"M  V30 BEGIN ATOM\n{body}M  V30 END ATOM\nM  V30 END CTAB\nM  END\n$$$$\n"
    )


def _pdb(atoms, charges) -> str:
    return (
        "".join(
            f"HETATM{k + 1:5d} {s:<4} MOL A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
            f"          {s:>2}{charges.get(k, '')}\n"
            for k, (s, x, y, z) in enumerate(atoms)
        )
        + "END\n"
    )


def _mol2(atoms, charges) -> str:
    body = "".join(
        f"{k + 1} {a[0]}{k + 1} {a[1]} {a[2]} {a[3]} {a[0]} 1 MOL {q}\n"
        for k, (a, q) in enumerate(zip(atoms, charges, strict=True))
    )
    return f"@<TRIPOS>MOLECULE\nm\n {len(atoms)} 0\nSMALL\nUSER_CHARGES\n@<TRIPOS>ATOM\n{body}"


def columns(atoms, name: str, values) -> str:
    body = "".join(f"{s} {x} {y} {z} {q}\n" for (s, x, y, z), q in zip(atoms, values, strict=True))
    return f'{len(atoms)}\nProperties=species:S:1:pos:R:3:{name}:R:1 pbc="F F F"\n{body}'


EXTENDED = "Properties=species:S:1:pos:R:3 "
#: name of the file -> content; each says that CARBONATE has charge -2.
CHARGED = {
    **{
        f"{key}.xyz": xyz(CARBONATE, f"{EXTENDED}{key}=-2")
        for key in """charge Charge CHARGE total_charge Total_Charge net_charge molecular_charge mol_charge q qtot chrg
        totalCharge formal_charge charge_total system_charge dft_total_charge""".split()
    },
    "quoted.xyz": xyz(CARBONATE, EXTENDED + 'charge="-2"'),
    "suffix.xyz": xyz(CARBONATE, EXTENDED + "charge=2-"),
    "decimal.xyz": xyz(CARBONATE, EXTENDED + "charge=-2.0"),
    "plain.xyz": xyz(CARBONATE, "carbonate, charge: -2, multiplicity: 1"),
    "spaces.xyz": xyz(CARBONATE, "charge = -2 mult = 1"),
    "words.xyz": xyz(CARBONATE, "carbonate, charge -2 multiplicity 1"),
    "two_numbers.xyz": xyz(CARBONATE, "-2 1"),
    "initial_charges.xyz": columns(CARBONATE, "initial_charges", (0, 0, -1, -1)),
    "charges.xyz": columns(CARBONATE, "charges", (0.4, -0.8, -0.8, -0.8)),
    "mulliken.xyz": columns(CARBONATE, "mulliken_charges", (0.4, -0.8, -0.8, -0.8)),
    "fifth_column.xyz": xyz(CARBONATE).replace("0000\n", "0000 -0.5\n"),
    "chg.sdf": sdf_record(CARBONATE, ["M  CHG  2   3  -1   4  -1"]),
    "old.mol": sdf_record(CARBONATE, old={2: 5, 3: 5}).replace("$$$$\n", ""),
    "property.sdf": sdf_record(CARBONATE, data="> <total_charge>\n-2\n\n"),
    "v3000.sdf": _v3000(CARBONATE, {2: " CHG=-1", 3: " CHG=-1"}),
    "a.mol2": _mol2(CARBONATE, (0.4, -0.8, -0.8, -0.8)),
    "a.pdb": _pdb(CARBONATE, {2: "1-", 3: "1-"}),
    "a.gjf": f"%mem=1GB\n#p b3lyp/6-31g\n\ntitle\n\n-2 1\n{rows(CARBONATE)}\n",
    "a.com": f"# hf\n\ntitle\n\n-2,1\n{rows(CARBONATE)}\n",
    "orca.inp": f"! HF def2-SVP\n* xyz -2 1\n{rows(CARBONATE)}*\n",
    "coords.inp": f"! HF\n%coords\n CTyp xyz\n Charge -2\n Mult 1\n coords\n{rows(CARBONATE)} end\nend\n",
    "qchem.in": f"$molecule\n-2 1\n{rows(CARBONATE)}$end\n$rem\nmethod hf\n$end\n",
    "coord": "$coord\n"
    + "".join(f"{x / BOHR} {y / BOHR} {z / BOHR} {s.lower()}\n" for s, x, y, z in CARBONATE)
    + "$eht charge=-2 unpaired=0\n$end\n",
    "a.cjson": json.dumps(
        {
            "chemical json": 0,
            "atoms": {
                "elements": {"number": [6, 8, 8, 8]},
                "coords": {"3d": [v for row in CARBONATE for v in row[1:]]},
            },
            "properties": {"totalCharge": -2, "totalSpinMultiplicity": 1},
        }
    ),
}
#: likewise; each says that OXYGEN is a triplet.
OPEN = {
    **{
        f"{key}.xyz": xyz(OXYGEN, f"{EXTENDED}charge=0 {key}={value}")
        for key, value in {
            "multiplicity": 3,
            "Multiplicity": 3,
            "spin_multiplicity": 3,
            "mult": 3,
            "spin": 3,
            "Spin": 2,
            "total_spin": 3,
            "uhf": 2,
            "unpaired": 2,
            "n_unpaired_electrons": 2,
            "magmom": 2.0,
            "total_magnetization": 1.998,
        }.items()
    },
    "plain.xyz": xyz(OXYGEN, "multiplicity: 3"),
    "two_numbers.xyz": xyz(OXYGEN, "0 3"),
    "initial_magmoms.xyz": columns(OXYGEN, "initial_magmoms", (1, 1)),
    "magmoms.xyz": columns(OXYGEN, "magmoms", (1.0, -1.0)),
    "rad.sdf": sdf_record(OXYGEN, ["M  RAD  2   1   2   2   2"]),
    "a.gjf": f"# hf\n\nt\n\n0 3\n{rows(OXYGEN)}\n",
    "orca.inp": f"! UKS\n* xyz 0 3\n{rows(OXYGEN)}*\n",
    "qchem.in": f"$molecule\n0 3\n{rows(OXYGEN)}$end\n",
    "coord": f"$coord angs\n{places(OXYGEN, True)}$eht charge=0 unpaired=2\n$end\n",
}
_BOX = "10 0 0 0 10 0 0 0 10"
PERIODIC = {
    "lattice.xyz": xyz(WATER, f'Lattice="{_BOX}" {EXTENDED}'),
    "pbc.xyz": xyz(WATER, f'Lattice="{_BOX}" {EXTENDED}pbc="T T F"'),
    "pbc_alone.xyz": xyz(WATER, f'{EXTENDED}pbc="T T T"'),
    "vectors.xyz": xyz(WATER) + "VEC1 10 0 0\nVEC2 0 10 0\nVEC3 0 0 10\n",
    "tv.gjf": f"# hf\n\nt\n\n0 1\n{rows(WATER)}Tv 10.0 0.0 0.0\n\n",
    "POSCAR": f"t\n1.0\n10 0 0\n0 10 0\n0 0 10\nO H\n1 2\nCartesian\n{places(WATER)}",
}


def put(folder: Path, name: str, text: str) -> Path:
    """The file, compressed where its name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path
