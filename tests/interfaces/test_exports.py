"""``python -m schnorb_t.predict`` with ``--molden``, ``--cube`` and ``--dftbplus``."""

import h5py
import numpy as np
import pytest
from ase.io import read, write

from schnorb_t.errors import run_command
from schnorb_t.interfaces.dftbplus_files import read_square_matrix
from schnorb_t.predict import main
from tests.interfaces.examples import tilted
from tests.interfaces.test_molden import _cube

pytest.importorskip("pyscf")


@pytest.fixture
def structures(tmp_path):
    path = tmp_path / "in.xyz"
    write(path, [tilted("H2O"), tilted("CH3OH")])
    return path


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(a) for a in arguments]))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_all_files_hold_what_the_h5_file_holds(checkpoint, structures, tmp_path, capsys):
    from pyscf.tools import molden

    out = tmp_path / "out.h5"
    folders = tmp_path / "molden", tmp_path / "dftb"
    main(
        [str(checkpoint), str(structures), "-o", str(out), "--cube", "homo, density"]
        + ["--molden", str(folders[0]), "--dftbplus", str(folders[1])]
    )
    printed = capsys.readouterr().out
    assert all(f"{folder}: files of 2 structures" in printed for folder in (*folders, tmp_path / "out_cubes"))
    with h5py.File(out) as file:
        for k, atoms in enumerate(read(structures, ":")):
            group = file[f"{k:06d}"]
            _, energies, *_ = molden.load(str(folders[0] / f"{k:06d}.molden"))
            assert np.abs(energies - group["orbital_energies"][:]).max() < 1e-9
            own = folders[1] / f"{k:06d}"
            assert np.allclose(read_square_matrix(own / "hamsqr1.dat"), group["hamiltonian"][:], rtol=1e-14, atol=0)
            assert np.allclose(read_square_matrix(own / "oversqr.dat"), group["overlap"][:], rtol=1e-14, atol=0)
            assert np.abs(read(own / "geometry.gen").positions - atoms.positions).max() < 1e-9
            cube = _cube(tmp_path / "out_cubes" / f"{k:06d}_homo.cube")
            assert cube["atoms"].numbers.tolist() == atoms.numbers.tolist() and np.ptp(cube["data"]) > 0.01
    assert sorted(p.name for p in (tmp_path / "out_cubes").iterdir()) == [
        f"{k:06d}_{name}.cube" for k in range(2) for name in ("density", "homo")
    ]
    assert not list(tmp_path.glob(".*"))


def test_wrong_arguments_stop_before_any_work(checkpoint, structures, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert "is called 'somo'" in fails(capsys, checkpoint, structures, "-o", out, "--cube", "homo,somo")
    assert "is a file" in fails(capsys, checkpoint, structures, "-o", out, "--molden", structures)
    assert "no such folder" in fails(capsys, checkpoint, structures, "-o", out, "--dftbplus", tmp_path / "no" / "dftb")
    full = tmp_path / "full"
    full.mkdir()
    (full / "000000.molden").write_text("precious")
    assert "--force" in fails(capsys, checkpoint, structures, "-o", out, "--molden", full)
    assert (full / "000000.molden").read_text() == "precious"
    main([str(checkpoint), str(structures), "-o", str(out), "--molden", str(full), "--force"])
    assert (full / "000000.molden").read_text().startswith("[Molden Format]")


def test_a_failure_on_the_way_leaves_nothing_behind(checkpoint, structures, tmp_path, capsys):
    arguments = ["-o", tmp_path / "out.h5", "--cube", "lumo+1,lumo+4", "--molden", tmp_path / "molden"]
    assert "none called 'lumo+4'" in fails(capsys, checkpoint, structures, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["in.xyz"]
