"""DFTB+ itself reads exported Slater-Koster files and writes ``hamsqr1.dat`` and ``oversqr.dat``; where
``DFTBPLUS_LIBRARY`` names its shared library."""

import os
import subprocess
import sys

import numpy as np
import pytest
from ase.data import atomic_numbers

from schnorb_t.interfaces.dftbplus_files import gen_text, read_square_matrix, square_matrix_text
from schnorb_t.interfaces.slater_koster_files import valence_shells
from schnorb_t.units import DFTBPLUS_BOHR
from tests.interfaces import skf_reader
from tests.interfaces.test_export_skf import random_model, write

pytestmark = pytest.mark.skipif(
    not os.environ.get("DFTBPLUS_LIBRARY"),
    reason="DFTBPLUS_LIBRARY names no shared library of DFTB+ (25.1 or newer)",
)
# DFTB+ ends the process when it has written the matrices
RUN = """
import ctypes, os
from schnorb_t.interfaces.dftbplus_library import Calculation, find_library, load_library
library = load_library(find_library())
with Calculation(library) as calculation:
    library.dftbp_get_energy(calculation._instance, ctypes.byref(ctypes.c_double()))
"""


@pytest.mark.parametrize("which", ["toy", "shells up to f"])
def test_dftbplus_assembles_what_the_files_say(which, model, tmp_path):
    network = model.model if which == "toy" else random_model()
    write(tmp_path, network)
    symbols = ["O", "C", "H", "N", "H"] if which == "toy" else ["Si", "H", "Ce", "Si", "Ce"]
    z = np.array([atomic_numbers[s] for s in symbols])
    positions = np.array([[0.1, 0, 0], [1.1, 0.4, -0.5], [1.5, 1.4, 0.3], [2.0, -0.8, -0.6], [-0.7, 0.3, -0.8]])
    shells = {s: valence_shells(network)[atomic_numbers[s]] for s in set(symbols)}
    (tmp_path / "geometry.gen").write_text(gen_text(z, positions))
    chosen = "\n".join(f'{s} = SelectedShells {{ "{"".join("spdf"[x.l] for x in own)}" }}' for s, own in shells.items())
    (tmp_path / "dftb_in.hsd").write_text(
        'Geometry = GenFormat {\n <<< "geometry.gen"\n }\n'
        "Hamiltonian = DFTB {\n SCC = No\n"
        f"MaxAngularMomentum {{\n{chosen}\n}}\n"
        'SlaterKosterFiles = Type2FileNames {\n Prefix = "./"\n Separator = "-"\n Suffix = ".skf"\n }\n}\n'
        "Options { WriteHS = Yes\n }\n"
    )
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "oversqr.dat").is_file(), done.stderr + (tmp_path / "dftbplus.log").read_text()

    written = {}
    for name in ("hamsqr1.dat", "oversqr.dat"):
        written[name] = read_square_matrix(tmp_path / name)
        assert square_matrix_text(written[name]).encode() == (tmp_path / name).read_bytes()

    ls = [[x.l for x in shells[s]] for s in symbols]
    start = np.cumsum([0] + [sum(2 * l + 1 for l in own) for own in ls])
    h, s = np.zeros((2, start[-1], start[-1]))
    for i, a in enumerate(symbols):
        here = slice(start[i], start[i + 1])
        h[here, here] = np.diag(np.repeat([x.energy for x in shells[a]], [2 * l + 1 for l in ls[i]]))
        s[here, here] = np.eye(start[i + 1] - start[i])
        for j, b in enumerate(symbols):
            if i != j:
                there = slice(start[j], start[j + 1])
                vector = (positions[j] - positions[i]) / DFTBPLUS_BOHR
                h[here, there], s[here, there] = skf_reader.block(tmp_path, a, b, ls[i], ls[j], vector)
    assert np.abs(written["hamsqr1.dat"] - h).max() < 1e-10
    assert np.abs(written["oversqr.dat"] - s).max() < 1e-10
