"""Byte for byte what DFTB+'s formats prescribe, and back."""

import numpy as np
import pytest
import scipy.linalg
from ase.io import read
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schnorb_t.errors import UserError
from schnorb_t.interfaces.dftbplus_files import (
    gen_text,
    read_square_matrix,
    square_matrix_text,
    write_dftbplus,
    write_square_matrix,
)
from tests.interfaces.examples import tilted

# by the format statements (A1,3A10), (1X,L10,2I10), (A1,A10), (1X,I10), (A1,A), (nES24.15)
SPECIMEN = (
    b"#      REAL   NALLORB   NKPOINT\n"
    b"          T         2         1\n"
    b"#   IKPOINT\n"
    b"          1\n"
    b"# MATRIX\n"
    b"  -5.000000000000000E-01   1.234567890123457E-03\n"
    b"   1.234567890123457E-03   1.200000000000000E+01\n"
)
MATRIX = np.array([[-0.5, 0.001234567890123457], [0.001234567890123457, 12.0]])


def test_the_written_specimen(tmp_path):
    path = tmp_path / "hamsqr1.dat"
    write_square_matrix(path, MATRIX)
    assert path.read_bytes() == SPECIMEN
    assert np.array_equal(read_square_matrix(path), MATRIX)
    assert [p.name for p in tmp_path.iterdir()] == ["hamsqr1.dat"]


def test_fortran_drops_the_letter_of_long_exponents(tmp_path):
    text = square_matrix_text(np.array([[-1.5e-120]]))
    assert text.splitlines()[-1] == "  -1.500000000000000-120"
    (tmp_path / "x").write_text(text)
    assert read_square_matrix(tmp_path / "x") == np.array([[-1.5e-120]])


@given(st.integers(1, 5).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(-1e300, 1e300))))
def test_round_trip_keeps_sixteen_digits(matrix):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.dat"
        write_square_matrix(path, matrix)
        assert all(len(line) == 24 * len(matrix) for line in path.read_text().splitlines()[5:])
        assert np.allclose(read_square_matrix(path), matrix, rtol=1e-15, atol=0)


def test_a_prediction_comes_back(model, tmp_path):
    atoms = tilted("CH3OH")
    found = model.predict(atoms)
    write_dftbplus(tmp_path / "new" / "folder", found)
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == ["geometry.gen", "hamsqr1.dat", "oversqr.dat"]
    h, s = (read_square_matrix(folder / name) for name in ("hamsqr1.dat", "oversqr.dat"))
    assert np.allclose(h, found.hamiltonian, rtol=1e-15, atol=0) and np.allclose(s, found.overlap, rtol=1e-15, atol=0)
    assert np.allclose(scipy.linalg.eigh(h, s, eigvals_only=True), found.orbital_energies, atol=1e-11)
    back = read(folder / "geometry.gen")
    assert back.numbers.tolist() == atoms.numbers.tolist() and np.abs(back.positions - atoms.positions).max() < 1e-11
    assert not back.pbc.any()


def test_gen_specimen():
    assert gen_text(np.array([8, 1, 8]), np.array([[0, 0, 0.5], [-1, 2, 3], [0, 0, 4]])) == (
        "    3  C\n"
        " O H\n"
        "    1  1      0.000000000000      0.000000000000      0.500000000000\n"
        "    2  2     -1.000000000000      2.000000000000      3.000000000000\n"
        "    3  1      0.000000000000      0.000000000000      4.000000000000\n"
    )


def test_what_is_no_matrix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="square"):
        square_matrix_text(np.ones((2, 3)))
    with pytest.raises(ValueError, match="finite"):
        square_matrix_text(np.full((2, 2), np.nan))
    path = tmp_path / "m.dat"

    def refuses(content: bytes, match: str):
        path.write_bytes(content)
        with pytest.raises(UserError, match=match) as error:
            read_square_matrix(path)
        assert "m.dat" in str(error.value)

    refuses(b"", "begin like")
    refuses(b"\xff\xfe\x00", "cannot be read")
    refuses(SPECIMEN.replace(b"         T", b"         F"), "complex")
    refuses(SPECIMEN.replace(b"2         1", b"2         8"), "k-points")
    refuses(b"\n".join(SPECIMEN.split(b"\n")[:-2]), "line 7.*2 rows of 2")
    refuses(SPECIMEN.replace(b"1.200000000000000E+01", b""), "line 7.*2 rows of 2")
    refuses(SPECIMEN.replace(b"1.200000000000000E+01", b"************"), "damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_square_matrix(tmp_path / "none.dat")
    with pytest.raises(UserError, match="cannot be written"):
        write_square_matrix(tmp_path / "none" / "m.dat", MATRIX)
