"""Archives in the exact published layout, malformed members included."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schnorb_t.errors import UserError
from schnorb_t.reference.qm9 import (
    PROPERTIES,
    parse_member,
    ranked,
    read_archive,
    read_table,
    read_uncharacterized,
    structures,
)
from tests.shared_data import shared_data

METHANE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t"
    "-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
ACETYLENE = (  # linear: 3n - 5 frequencies; exponents as Wolfram's programs write them
    "4\n"
    "gdb 4\t0.\t35.6100361\t35.6100361\t0.\t16.28\t-0.2845\t0.0506\t0.3351\t59.5248\t0.026841\t-77.308427\t"
    "-77.305527\t-77.304583\t-77.327429\t8.574\t\n"
    "C\t 0.5995394918\t 0.\t 1.\t-0.207019\n"
    "C\t-0.5995394918\t 0.\t 1.\t-0.207019\n"
    "H\t-1.6616385861\t 6.9*^-6\t 1.\t 2.07019*^-1\n"
    "H\t 1.6616385861\t-1.07*^-5\t 1.\t 0.207019\n"
    "549.7648\t549.7648\t795.2713\t795.2713\t2078.1639\t3415.1291\t3509.8321\n"
    "C#C\tC#C\t\n"
    "InChI=1S/C2H2/c1-2/h1-2H\tInChI=1S/C2H2/c1-2/h1-2H\n"
)


def archive(path, members, mode="w:bz2"):
    with tarfile.open(path, mode) as tar:
        for name, text in members.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_member_as_published():
    m = parse_member(METHANE, "dsgdb9nsd_000001.xyz")
    assert m.index == 1 and m.atomic_numbers.tolist() == [6, 1, 1, 1, 1] and m.smiles == m.smiles_relaxed == "C"
    assert list(m.properties) == list(PROPERTIES) and m.properties["homo"] == -0.3877 and m.properties["Cv"] == 6.469
    assert m.positions[0].tolist() == [-0.0126981359, 1.0858041578, 0.0080009958]
    assert len(m.frequencies) == 9 and m.charges[0] == -0.535689


def test_wolfram_exponents():
    m = parse_member(ACETYLENE, "dsgdb9nsd_000004.xyz")
    assert m.positions[2, 1] == 6.9e-6 and m.positions[3, 1] == -1.07e-5 and m.charges[2] == 0.207019
    assert len(m.frequencies) == 7


def test_an_archive_is_read_in_its_order_without_unpacking(tmp_path, monkeypatch):
    path = archive(
        tmp_path / "dsgdb9nsd.xyz.tar.bz2",
        {"dsgdb9nsd_000004.xyz": ACETYLENE, "README": "no molecule", "dsgdb9nsd_000001.xyz": METHANE},
    )
    monkeypatch.chdir(tmp_path)
    assert [m.index for m in read_archive(path)] == [4, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["dsgdb9nsd.xyz.tar.bz2"]
    assert [(s.name, s.order) for s in structures(path, first_order=3)] == [("qm9:4", 3), ("qm9:1", 4)]


def damaged(kind):
    lines = METHANE.splitlines()
    if kind == "number of atoms":
        lines[0] = "five"
    elif kind == "lines, 10 expected":
        del lines[4]
    elif kind == "15 properties":
        lines[1] = lines[1].replace("\t6.469", "")
    elif kind == "not all numbers":
        lines[3] = lines[3].replace("0.133921", "0.13x921")
    elif kind == "holds NaN":
        lines[3] = lines[3].replace("0.133921", "nan")
    elif kind == "element, x":
        lines[3] = lines[3].replace("H", "Hx")
    elif kind == "8 frequencies":
        lines[7] = lines[7].rsplit("\t", 1)[0]
    elif kind == "two SMILES":
        lines[8] = "C"
    elif kind == "two InChI":
        lines[9] = ""
    elif kind == "text after":
        lines.append("C")
    elif kind == "index 2":
        lines[1] = lines[1].replace("gdb 1", "gdb 2")
    return "\n".join(lines) + "\n"


KINDS = (
    "number of atoms", "lines, 10 expected", "15 properties", "not all numbers", "holds NaN", "element, x",
    "8 frequencies", "two SMILES", "two InChI", "text after", "index 2",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_members_are_named(tmp_path, kind):
    path = archive(tmp_path / "a.tar.bz2", {"dsgdb9nsd_000001.xyz": damaged(kind), "dsgdb9nsd_000004.xyz": ACETYLENE})
    with pytest.raises(UserError, match=f"a.tar.bz2: dsgdb9nsd_000001.xyz, line .*{kind}"):
        list(read_archive(path))
    messages = []
    assert [m.index for m in read_archive(path, messages.append)] == [4]
    assert len(messages) == 1 and kind in messages[0]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncation_anywhere_is_an_error(keep):
    cut = METHANE[: int(keep * len(METHANE))]
    with pytest.raises(UserError, match="line"):
        parse_member(cut, "dsgdb9nsd_000001.xyz")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([METHANE, ACETYLENE]),
    st.integers(0, 600),
    st.integers(0, 30),
    st.text(alphabet="CHN0123456789.-*^\t\n xé", max_size=12),
)
def test_damage_is_an_error_or_a_sound_molecule(text, at, length, instead):
    """Any stretch of a member replaced by anything: the clear error, or a molecule whose arrays fit each other."""
    broken = text[:at] + instead + text[at + length :]
    try:
        m = parse_member(broken, "dsgdb9nsd_000001.xyz" if text is METHANE else "dsgdb9nsd_000004.xyz")
    except UserError as error:
        assert "line" in str(error)
    else:
        assert m.positions.shape == (len(m.atomic_numbers), 3) and np.isfinite(m.positions).all()
        assert len(m.charges) == len(m.atomic_numbers) and all(np.isfinite(list(m.properties.values())))


def test_broken_archives(tmp_path):
    whole = archive(tmp_path / "a.tar.bz2", {f"dsgdb9nsd_{i:06d}.xyz": METHANE for i in (1,) * 50}).read_bytes()
    (tmp_path / "cut.tar.bz2").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar.bz2").write_text("moved permanently")
    for name in ("cut.tar.bz2", "text.tar.bz2", "gone.tar.bz2"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as an archive"):
            list(read_archive(tmp_path / name))
    path = archive(tmp_path / "b.tar.bz2", {"dsgdb9nsd_000001.xyz": b"\xff\xfe\x00"})
    with pytest.raises(UserError, match="not a text"):
        list(read_archive(path))


def test_uncharacterized_list(tmp_path):
    path = tmp_path / "uncharacterized.txt"
    path.write_text(
        "\n3054 molecules that failed the consistency check\n\n   Index   GDB-17   relaxed\n"
        "      21    C#N     [C-]#[NH+]   0.1\n     58    CC(=O)O   CC(=O)O   1.9\n  133 c1ccc1 ccc 2.0\n"
        "3054 compounds\n"
    )
    assert read_uncharacterized(path) == {21, 58, 133}
    path.write_text("nothing to see\n")
    with pytest.raises(UserError, match="no index"):
        read_uncharacterized(path)


def test_geometry_table():
    path = shared_data("qm9/qm9_nofluorine_128744_geometries.npz.xz")
    first = next(read_table(path))
    assert first.index == 1 and first.atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    assert np.abs(first.positions[0] - [-0.01270, 1.08580, 0.00800]).max() < 1e-5


def test_broken_geometry_table(tmp_path):
    (tmp_path / "t.npz.xz").write_bytes(b"not xz")
    with pytest.raises(UserError, match="geometry table"):
        list(read_table(tmp_path / "t.npz.xz"))


def test_random_order_is_the_shared_labels_order():
    assert ranked(128744)[0] == np.random.default_rng(2026).permutation(128744)[0]
    assert sorted(ranked(10)) == list(range(10))
