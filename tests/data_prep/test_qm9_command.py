import numpy as np
import pytest
from ase.io import read

from schnorb_t.structures import read_for_labels
from tests.data_prep.commands import run
from tests.reference.test_qm9 import ACETYLENE, METHANE, archive, damaged


@pytest.fixture
def qm9(tmp_path):
    return archive(
        tmp_path / "dsgdb9nsd.xyz.tar.bz2",
        {"dsgdb9nsd_000001.xyz": METHANE, "dsgdb9nsd_000004.xyz": ACETYLENE.replace("C#C\tC#C", "C\\C=C/C\tF")},
    )


def test_index_smiles_and_properties_come_through(qm9, tmp_path):
    done = run("qm9.py", qm9, "-o", tmp_path / "out.xyz")
    assert done.returncode == 0, done.stderr
    methane, acetylene = read(tmp_path / "out.xyz", ":")
    assert methane.info["qm9_index"] == 1 and methane.info["name"] == "qm9:1"
    assert methane.info["homo"] == -0.3877 and methane.info["Cv"] == 6.469 and methane.info["U0"] == -40.47893
    assert methane.info["smiles"] == "C" and acetylene.info["smiles"] == "C\\C=C/C"
    assert np.abs(acetylene.arrays["mulliken_charges"] - [-0.207019, -0.207019, 0.207019, 0.207019]).max() < 1e-8
    assert [s.name for s in read_for_labels([tmp_path / "out.xyz"])] == ["qm9:1", "qm9:4"]


def test_uncharacterised_molecules_are_left_out(qm9, tmp_path):
    (tmp_path / "u.txt").write_text("header\n   1  C  C\n")
    done = run("qm9.py", qm9, "-o", tmp_path / "out.xyz", "--uncharacterized", tmp_path / "u.txt")
    assert done.returncode == 0 and "1 uncharacterised" in done.stdout
    assert [a.info["qm9_index"] for a in read(tmp_path / "out.xyz", ":")] == [4]


def test_malformed_members_stop_or_are_skipped(tmp_path):
    path = archive(
        tmp_path / "a.tar.bz2",
        {"dsgdb9nsd_000001.xyz": damaged("holds NaN"), "dsgdb9nsd_000004.xyz": ACETYLENE},
    )
    refused = run("qm9.py", path, "-o", tmp_path / "out.xyz")
    assert refused.returncode == 2 and "dsgdb9nsd_000001.xyz, line 4: holds NaN" in refused.stderr
    assert "Traceback" not in refused.stderr and not list(tmp_path.glob("out.xyz*"))
    done = run("qm9.py", path, "-o", tmp_path / "out.xyz", "--skip-bad")
    assert done.returncode == 0 and "1 malformed" in done.stdout and "skipped: dsgdb9nsd_000001" in done.stderr


def test_ranks_follow_the_fixed_random_order(qm9, tmp_path):
    done = run("qm9.py", qm9, "-o", tmp_path / "out.xyz", "--ranks", "1:2")
    assert done.returncode == 0, done.stderr
    [only] = read(tmp_path / "out.xyz", ":")
    expected = [1, 4][np.random.default_rng(2026).permutation(2)[1]]
    assert only.info["qm9_index"] == expected and only.info["split"] == "test"
    refused = run("qm9.py", qm9, "-o", tmp_path / "x.xyz", "--ranks", "5")
    assert refused.returncode == 2 and "START:STOP" in refused.stderr
