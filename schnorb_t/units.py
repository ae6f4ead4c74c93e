"""The few constants and conversions. Doors speak Å and Eh; Bohr lives only inside integrals and ``physics``.

CODATA 2018 through ASE, except the DFTB+ door, which needs the constants compiled into DFTB+ itself
(``lib_common/constants.F90``), or numbers disagree in the 8th digit.
"""

from ase.units import create_units

_codata = create_units("2018")

#: Å per Bohr.
BOHR = float(_codata["Bohr"])
#: eV per Hartree.
HARTREE = float(_codata["Hartree"])
#: kcal/mol per Hartree.
KCAL_PER_MOL = float(_codata["Hartree"] / (_codata["kcal"] / _codata["mol"]))
#: Debye per e*Bohr.
DEBYE = float(BOHR / _codata["Debye"])
#: What numbers in Eh and eV are multiplied by to be printed in mEh and meV.
MILLI = 1e3
#: Hartree per Kelvin (Boltzmann's constant).
KELVIN = float(_codata["kB"] / HARTREE)

#: DFTB+'s own values of the first two.
DFTBPLUS_BOHR = 0.529177249
DFTBPLUS_HARTREE = 27.2113845


def angstrom_to_bohr(length):
    """Å -> Bohr, for floats, arrays and tensors."""
    return length / BOHR


def hartree_to_ev(energy):
    """Eh -> eV, for floats, arrays and tensors."""
    return energy * HARTREE
