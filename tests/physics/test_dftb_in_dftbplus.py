"""DFTB2, DFTB3 and shell-resolved charges against DFTB+ itself; where ``DFTBPLUS_LIBRARY`` names its shared library."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from schnorb_t.interfaces.dftbplus_files import gen_text
from schnorb_t.physics.set_parameters import read_set_parameters
from schnorb_t.units import BOHR, DFTBPLUS_BOHR
from tests.physics.test_dftb import SHELLS, batch_of, gold_thiolate, model_of, shaken
from tests.shared_data import shared_data

pytestmark = pytest.mark.skipif(
    not os.environ.get("DFTBPLUS_LIBRARY"),
    reason="DFTBPLUS_LIBRARY names no shared library of DFTB+ (25.1 or newer)",
)
RUN = """
import ctypes, json, sys
from schnorb_t.interfaces.dftbplus_library import Calculation, find_library, load_library
library, n = load_library(find_library()), int(sys.argv[1])
energy, gradients = ctypes.c_double(), (ctypes.c_double * (3 * n))()
library.dftbp_get_gradients.argtypes = (*library.dftbp_get_energy.argtypes[:1], ctypes.POINTER(ctypes.c_double))
library.dftbp_get_gradients.restype = None
with Calculation(library) as calculation:
    library.dftbp_get_energy(calculation._instance, ctypes.byref(energy))
    library.dftbp_get_gradients(calculation._instance, gradients)
    with open("found.json", "w") as file:
        json.dump({"energy": energy.value, "gradients": list(gradients)}, file)
"""


@pytest.mark.parametrize("which", ["mio-1-1", "3ob-3-1", "auorg-1-1"])
def test_energy_and_forces(which, tmp_path):
    folder = shared_data(f"skf/{which}")
    atoms = {"mio-1-1": shaken("CH3OH"), "3ob-3-1": shaken("CH3Cl"), "auorg-1-1": gold_thiolate()}[which]
    model = model_of(folder, [atoms], order=3 if which == "3ob-3-1" else 2, shell_resolved=which == "auorg-1-1")
    result, forces = model.requires_grad_(False).energy_and_forces(batch_of(model, [atoms]))

    symbols = sorted(set(atoms.get_chemical_symbols()))
    numbers = dict(zip(atoms.get_chemical_symbols(), atoms.numbers.tolist(), strict=True))
    momenta = "\n".join(f'{s} = "{"spd"[SHELLS[numbers[s]][-1]]}"' for s in symbols)
    third = ""
    if model.order == 3:
        published = read_set_parameters(folder).hubbard_derivatives
        derivatives = "\n".join(f"{s} = {published[numbers[s]]}" for s in symbols)
        third = (
            f"ThirdOrderFull = Yes\nHubbardDerivs {{\n{derivatives}\n}}\nHCorrection = Damping {{ Exponent = 4.0 }}\n"
        )
    # in DFTB+'s Å, so that both have the same positions in Bohr
    (tmp_path / "geometry.gen").write_text(gen_text(atoms.numbers, atoms.positions * (DFTBPLUS_BOHR / BOHR)))
    (tmp_path / "dftb_in.hsd").write_text(
        'Geometry = GenFormat {\n <<< "geometry.gen"\n}\n'
        "Hamiltonian = DFTB {\nSCC = Yes\nSCCTolerance = 1e-10\nMaxSCCIterations = 500\n"
        f"OrbitalResolvedSCC = {'Yes' if model.shell_resolved else 'No'}\n{third}"
        f"MaxAngularMomentum {{\n{momenta}\n}}\n"
        f'SlaterKosterFiles = Type2FileNames {{\nPrefix = "{folder}/"\nSeparator = "-"\nSuffix = ".skf"\n}}\n}}\n'
        "Analysis { CalculateForces = Yes }\nParserOptions { ParserVersion = 7 }\n"
    )
    done = subprocess.run([sys.executable, "-c", RUN, str(len(atoms))], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "found.json").is_file(), done.stderr + done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert result.energy.item() == pytest.approx(found["energy"], abs=1e-5)
    assert forces.numpy() == pytest.approx(-np.reshape(found["gradients"], (-1, 3)), abs=1e-5)
