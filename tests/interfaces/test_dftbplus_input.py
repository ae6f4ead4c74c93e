"""What DFTB+ reads and writes, without DFTB+."""

import numpy as np
import pytest
from ase.data import chemical_symbols
from hypothesis import given
from hypothesis import strategies as st

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces.dftbplus_input import (
    check_processed,
    input_text,
    processed_input,
    read_band_file,
    read_eigenvectors,
    read_energies,
    shell_groups,
    structural_files,
)
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.skf import read_skf

MINIMAL = Basis("minimal", {1: (0,), 6: (0, 0, 1)})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(sorted))
def test_groups_keep_the_order_and_repeat_nothing(shells):
    groups = shell_groups(shells)
    assert "".join(groups) == "".join("spdf"[l] for l in shells)
    assert all(len(set(group)) == len(group) for group in groups)
    assert len(groups) >= max(shells.count(l) for l in range(4))


def test_groups():
    assert shell_groups((0, 0, 1)) == ["s", "sp"]
    assert shell_groups((0, 0, 0, 1, 1, 2)) == ["s", "s", "sp", "pd"]
    with pytest.raises(ValueError):
        shell_groups((0, 4))


def test_structural_files_hold_shells_and_electrons_only(tmp_path):
    files = structural_files(MINIMAL, [6, 1])
    assert sorted(files) == ["C.1.skf", "C.2.skf", "H.1.skf", "pair.skf"]
    electrons = {}
    for name, text in files.items():
        symbols = [name.split(".")[0]] * 2 if name[0] in "CH" else ["C", "H"]
        path = tmp_path / f"{symbols[0]}-{symbols[1]}.skf"
        path.write_text(text)
        found = read_skf(path)
        assert all(not x.any() for x in (*found.hamiltonian.values(), *found.overlap.values()))
        electrons[name] = {l: n for l, (_, _, n) in found.onsite.items() if n}
        if name != "pair.skf":
            assert all(energy == u == 0 for energy, u, _ in found.onsite.values())
    assert electrons == {"C.1.skf": {0: 2}, "C.2.skf": {0: 2, 1: 2}, "H.1.skf": {0: 1}, "pair.skf": {}}
    with pytest.raises(UserError, match="shells for 4 of the 6 electrons of C"):
        structural_files(Basis("bad", {6: (0, 0)}), [6])


def test_input_specimen():
    assert input_text(MINIMAL, [6, 1], Smearing("methfessel-paxton", 0.01, 2), -1.0, settings=True) == (
        '<<+ "settings.hsd"\n'
        '!Geometry = GenFormat {\n  <<< "geometry.gen"\n}\n'
        "*Hamiltonian = *DFTB {\n"
        "  /SCC = No\n"
        "  /Charge = -1.0\n"
        "  /Filling = MethfesselPaxton {\n    Order = 2\n    Temperature = 0.01\n  }\n"
        "  !MaxAngularMomentum {\n    C = SelectedShells { 's' 'sp' }\n    H = SelectedShells { 's' }\n  }\n"
        "  !SlaterKosterFiles {\n"
        '    C-C = "C.1.skf" "pair.skf" "pair.skf" "C.2.skf"\n'
        '    C-H = "pair.skf" "pair.skf"\n    H-C = "pair.skf" "pair.skf"\n    H-H = "H.1.skf"\n  }\n'
        "  !ASI {}\n}\n"
        "!Driver {}\n"
        "*Options {\n  !WriteDetailedOut = Yes\n  /WriteHS = No\n  /WriteRealHS = No\n"
        '  !BinaryAccessTypes = "stream"\n}\n'
        "*Analysis {\n  /MullikenAnalysis = No\n  /PrintForces = No\n"
        "  !WriteBandOut = Yes\n  !WriteEigenvectors = Yes\n}\n"
        "*ParserOptions {\n  /ParserVersion = 14\n  !WriteHSDInput = Yes\n  !StopAfterParsing = No\n}\n"
    )
    assert input_text(MINIMAL, [1], ZERO_TEMPERATURE, 0.0, settings=False).startswith("!Geometry")


PROCESSED = """Geometry = GenFormat {
2  C
H
1  1      0.0  0.0  0.5
}
Hamiltonian = DFTB {
  SCC = No
  Charge = 0.0
  Filling = Fermi {
    Temperature = 0.0
  }
  MaxAngularMomentum = {
    C = SelectedShells {
"s" "sp"
    }
  }
  ASI = {}
  ElectricField = {}
  Solver = RelativelyRobust {}
}
Driver = {}
Options = {
  WriteHS = No
  BinaryAccessTypes = {
 "stream"
  }
}
Analysis = {
  MullikenAnalysis = No
  ProjectStates = {}
  PrintForces = No
}
"""


def test_processed_input_is_understood():
    found = processed_input(PROCESSED)
    assert found["hamiltonian/dftb/scc"] == "no" and found["hamiltonian/dftb/filling/fermi/temperature"] == "0.0"
    assert found["hamiltonian/dftb/asi"] == "" and found["hamiltonian/dftb/solver/relativelyrobust"] == ""
    assert found["analysis/mullikenanalysis"] == "no" and found["options/writehs"] == "no"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("SCC = No", "scc = Yes", "Hamiltonian/DFTB/SCC cannot be had"),
        ("MullikenAnalysis = No", "MullikenAnalysis = Yes", "Analysis/MullikenAnalysis cannot be had.*own matrices"),
        ("PrintForces = No", "PrintForces = Yes", "PrintForces"),
        ("WriteHS = No", "WriteHS = Yes", "ends the process"),
        ("ProjectStates = {}", "ProjectStates = {\n Region = {\n Label = a\n }\n }", "ProjectStates"),
        ("ElectricField = {}", "ElectricField = {\n External = {\n Strength = 1\n }\n }", "ElectricField"),
        ("Charge = 0.0", "Charge = 1", "charge="),
        ("Temperature = 0.0", "Temperature [Kelvin] = 0.0", "smearing="),
        ("Temperature = 0.0", "Temperature = 0.0\n FixedFermiLevel = 1", "smearing="),
        ("Filling = Fermi", "Filling = Gaussian", "smearing="),
        ("Hamiltonian = DFTB", "Hamiltonian = xTB", "must be DFTB"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(tmp_path, old, new, message):
    (tmp_path / "dftb_pin.hsd").write_text(PROCESSED)
    check_processed(tmp_path, ZERO_TEMPERATURE, 0.0)
    assert old in PROCESSED
    (tmp_path / "dftb_pin.hsd").write_text(PROCESSED.replace(old, new))
    with pytest.raises(UserError, match=f"settings: .*{message}"):
        check_processed(tmp_path, ZERO_TEMPERATURE, 0.0)


BAND = """ KPT            1  SPIN            1  KWEIGHT    1.0000000000000000
     1   -514.7251  2.00000
     2    -28.1290  1.99999
     3      5.4423  0.00001

"""


def test_band_file(tmp_path):
    path = tmp_path / "band.out"
    path.write_text(BAND)
    energies, fillings = read_band_file(path)
    assert np.allclose(energies * 27.2113845, [-514.7251, -28.1290, 5.4423]) and fillings.tolist() == [2, 1.99999, 1e-5]
    for text in (
        "",
        BAND.replace("KPT", "K"),
        BAND.replace("     2 ", "     7 "),
        BAND * 2,
        BAND.replace("5.44", "**"),
        BAND.replace("  1.99999", ""),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"band\.out"):
            read_band_file(path)
    with pytest.raises(UserError, match="none"):
        read_band_file(tmp_path / "none")


def test_band_file_with_the_core_of_a_heavy_atom(tmp_path):
    """Fortran's columns have a fixed width: numbers that fill it touch, wider ones are stars."""
    path = tmp_path / "band.out"
    path.write_text(BAND.replace("  -514.7251", "**********").replace("  2    -28.1290", "  2-13474.1290"))
    energies, fillings = read_band_file(path)
    assert np.isnan(energies[0]) and np.allclose(energies[1:] * 27.2113845, [-13474.1290, 5.4423])
    assert fillings.tolist() == [2.0, 1.99999, 0.00001]


def test_eigenvectors(tmp_path):
    path, c = tmp_path / "eigenvec.bin", np.arange(9.0).reshape(3, 3)
    path.write_bytes(np.int32(5).tobytes() + c.T.tobytes())
    assert np.array_equal(read_eigenvectors(path, 3), c)
    with pytest.raises(UserError, match="76 bytes are not 4 orbitals"):
        read_eigenvectors(path, 4)
    with pytest.raises(UserError, match="none"):
        read_eigenvectors(tmp_path / "none", 3)


def test_energies(tmp_path):
    path = tmp_path / "detailed.out"
    lines = [
        "Fermi level:                        -0.1068452759 H           -2.9074 eV",
        "Band energy:                       -65.9406009909 H        -1794.3350 eV",
        "TS:                                  0.0000000010 H            0.0000 eV",
    ]
    path.write_text("\n".join(["", " Fermi distribution function", *lines, "Extrapolated E(0K): 1 H 2 eV", ""]))
    assert read_energies(path) == {"fermi level": -0.1068452759, "band energy": -65.9406009909, "ts": 1e-9}
    path.write_text("\n".join(lines[:2]))
    with pytest.raises(UserError, match=r"detailed\.out: has no TS"):
        read_energies(path)


def test_symbols_are_those_of_the_gen_file():
    text = input_text(Basis("salt", {11: (0, 0, 0, 1), 17: (0, 0, 0, 1, 1)}), [17, 11], ZERO_TEMPERATURE, 0.0, False)
    assert all(f"{chemical_symbols[z]} = SelectedShells" in text for z in (11, 17))
