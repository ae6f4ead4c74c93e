"""Damaged ORCA files: never a hang, never another exception than the clear error, never a wrong matrix.

A damage that leaves the meaning alone (a blank, a matrix nobody reads) or is below what the checks can see may pass;
then the matrices must be those of the undamaged file.
"""

import copy
import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schnorb_t.errors import UserError
from schnorb_t.reference.orca_checks import check
from schnorb_t.reference.orca_json import parse_json, read_json
from schnorb_t.reference.orca_output import parse_output
from schnorb_t.reference.orca_text import parse_text
from tests.reference.orca_examples import orca_json, orca_text, run
from tests.shared_data import shared_data

pytest.importorskip("pyscf")

FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: S and H (Eh) of a damaged file that passes may differ so much: S is compared with PySCF at 1e-8 and 1e-6; a JSON
#: file's H with the Hartree-Fock operator at 1e-3, a text's numbers with each other at some units of the last digit.
TOLERANCE = {"json": (2e-7, 2e-3), "text": (5e-6, 2e-3)}
SECONDS = 10


def survives(read, source: str, reference) -> bool:
    """Whether the damaged file was imported; fails if it was imported wrongly, crashed or hung."""
    start = time.perf_counter()
    try:
        molecule = check(read())
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return False
    finally:
        assert time.perf_counter() - start < SECONDS
    overlap, hamiltonian = TOLERANCE[source]
    assert molecule.calculation.atomic_numbers.tolist() == reference.calculation.atomic_numbers.tolist()
    assert molecule.shells == reference.shells
    assert np.abs(molecule.overlap - reference.overlap).max() < overlap
    assert np.abs(molecule.hamiltonian - reference.hamiltonian).max() < hamiltonian
    return True


# ---- JSON ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def json_file():
    path = shared_data("orca/json/orca_h2o_sto3g.json")
    return path.read_bytes(), check(read_json(path))


def from_bytes(folder, raw: bytes):
    path = folder / "damaged.json"
    path.write_bytes(raw)
    return lambda: read_json(path)


@FUZZ
@given(at=st.integers(0, 12_907))
def test_json_truncated_at_any_byte(json_file, tmp_path, at):
    raw, reference = json_file
    whole = not raw[at:].strip()
    assert survives(from_bytes(tmp_path, raw[:at]), "json", reference) == whole


@FUZZ
@given(at=st.integers(0, 12_907), byte=st.integers(0, 255))
def test_json_with_another_byte(json_file, tmp_path, at, byte):
    raw, reference = json_file
    survives(from_bytes(tmp_path, raw[:at] + bytes([byte]) + raw[at + 1 :]), "json", reference)


@FUZZ
@given(start=st.integers(0, 12_907), length=st.integers(1, 4000), to=st.integers(0, 12_907), cut=st.booleans())
def test_json_with_a_piece_moved_or_doubled(json_file, tmp_path, start, length, to, cut):
    raw, reference = json_file
    piece = raw[start : start + length]
    rest = raw[:start] + raw[start + length :] if cut else raw
    survives(from_bytes(tmp_path, rest[:to] + piece + rest[to:]), "json", reference)


def places(node, path=()):
    """Every container of a JSON tree, as paths."""
    if isinstance(node, dict | list):
        yield path
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


BAD_VALUES = [None, "x", "", -1, 0, 1, 3, 2.0, 1e300, 10**400, True, [], {}, [[1.0]], float("nan"), float("inf")]


@FUZZ
@given(data=st.data())
def test_json_tree_damaged(json_file, data):
    """Entries swapped, doubled, dropped or replaced anywhere in the tree; exactly one damage or three."""
    raw, reference = json_file
    tree = copy.deepcopy(json.loads(raw))
    for _ in range(data.draw(st.sampled_from([1, 1, 3]))):
        container = at(tree, data.draw(st.sampled_from([p for p in places(tree) if at(tree, p)] or [()])))
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            continue
        a, b = data.draw(st.sampled_from(keys)), data.draw(st.sampled_from(keys))
        what = data.draw(st.sampled_from(["swap", "double", "drop", "replace", "insert"]))
        if what == "swap":
            container[a], container[b] = container[b], container[a]
        elif what == "double":
            container[a] = copy.deepcopy(container[b])
        elif what == "drop":
            del container[a]
        elif what == "replace":
            container[a] = data.draw(st.sampled_from(BAD_VALUES))
        elif isinstance(container, list):
            container.insert(a, copy.deepcopy(container[b]))
    survives(lambda: parse_json("x.json", tree), "json", reference)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"Molecule": ' * 50_000,
        b"9" * 10_000,
        b'{"Molecule": {"Charge": 1e999}}',
        b'{"Molecule": {}, "Molecule": {}}',
        b"\xff\xfe{}",
        b'{"Molecule": NaN}',
    ],
    ids=range(11),
)
def test_json_monsters(tmp_path, raw):
    with pytest.raises(UserError, match="damaged.json"):
        from_bytes(tmp_path, raw)()


def test_json_with_nan(json_file, tmp_path):
    raw, _ = json_file
    number = json.loads(raw)["Molecule"]["S-Matrix"][1][0]
    with pytest.raises(UserError, match="holds NaN"):
        from_bytes(tmp_path, raw.replace(repr(number).encode(), b"NaN"))()


@FUZZ
@given(data=st.data())
def test_swapped_coefficients_of_a_functional(data):
    """With ORCA's output beside it the energies are compared, but only S, C and the charges guard the coefficients."""
    mf = DFT["mf"] = DFT.get("mf") or run("b3lyp", "sto-3g")
    tree = DFT["json"] = DFT.get("json") or orca_json(mf, fock=True)
    tree = copy.deepcopy(tree)
    mos = tree["Molecule"]["MolecularOrbitals"]["MOs"]
    a, b = data.draw(st.lists(st.integers(0, len(mos) - 1), min_size=2, max_size=2, unique=True))
    mos[a]["MOCoefficients"], mos[b]["MOCoefficients"] = mos[b]["MOCoefficients"], mos[a]["MOCoefficients"]
    from dataclasses import replace

    calculation = replace(parse_json("x.json", tree), converged=True, total_energy=mf.e_tot)
    with pytest.raises(UserError, match="given Fock"):
        check(calculation)


DFT: dict = {}


# ---- text ----------------------------------------------------------------------------------------------------


def _text(path) -> tuple[str, object]:
    text = path.read_bytes().decode()
    return text, check(parse_text(parse_output("x.out", text)))


@pytest.fixture(scope="module", params=["2.6 STO-3G", "6.0 def2-SVP with Fock matrix"])
def text_file(request):
    if request.param.startswith("2.6"):
        return _text(shared_data("orca/text/orca2.6_water_mp2.out"))
    text = orca_text(run("HF"), fock=True)
    return text, check(parse_text(parse_output("x.out", text)))


def from_text(text: str):
    return lambda: parse_text(parse_output("x.out", text))


@FUZZ
@given(share=st.floats(0, 1))
def test_text_truncated_at_any_byte(text_file, share):
    text, reference = text_file
    cut = text[: int(share * len(text))]
    assert survives(from_text(cut), "text", reference) == ("TERMINATED NORMALLY" in cut)


@FUZZ
@given(data=st.data())
def test_text_lines_damaged(text_file, data):
    """Lines swapped, doubled, dropped, blocks of lines moved or doubled, mostly where the matrices stand."""
    text, reference = text_file
    lines = text.split("\n")
    place = st.integers(0, len(lines) - 1)
    digits = [i for i, line in enumerate(lines) if sum(c.isdigit() for c in line) > 12]
    place = st.one_of(place, st.sampled_from(digits))
    for _ in range(data.draw(st.sampled_from([1, 1, 3]))):
        a, b = data.draw(place), data.draw(place)
        length = data.draw(st.sampled_from([1, 1, 2, 7, 25, 60]))
        what = data.draw(st.sampled_from(["swap", "double", "drop", "move"]))
        block = lines[a : a + length]
        if what == "swap":
            if b >= len(lines) or a >= len(lines):
                continue
            lines[a], lines[b] = lines[b], lines[a]
        elif what == "double":
            lines[b:b] = block
        elif what == "drop":
            del lines[a : a + length]
        else:
            del lines[a : a + length]
            lines[b:b] = block
    survives(from_text("\n".join(lines)), "text", reference)


@FUZZ
@given(data=st.data())
def test_text_numbers_damaged(text_file, data):
    """One number becomes NaN, stars, another number, or loses or changes a digit."""
    text, reference = text_file
    lines = text.split("\n")
    i = data.draw(st.sampled_from([i for i, line in enumerate(lines) if any(c.isdigit() for c in line)]))
    words = lines[i].split()
    numbers = [w for w in words if any(c.isdigit() for c in w)]
    old = data.draw(st.sampled_from(numbers))
    changed = st.tuples(st.integers(0, len(old) - 1), st.sampled_from("0123456789.-")).map(
        lambda t: old[: t[0]] + t[1] + old[t[0] + 1 :]
    )
    new = data.draw(
        st.one_of(st.sampled_from(["NaN", "nan", "inf", "*********", "0.000000", "-0.5", "99999999"]), changed)
    )
    lines[i] = lines[i].replace(old, new, 1)
    survives(from_text("\n".join(lines)), "text", reference)


@FUZZ
@given(data=st.data())
def test_text_with_rows_of_two_blocks_swapped(text_file, data):
    """The nastiest swap: the same row (same label) of two blocks of one matrix."""
    text, reference = text_file
    lines = text.split("\n")
    same: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        head = line[:15]
        if line.count(".") == 6 and head.strip():
            same.setdefault(head.split(".")[0][:11], []).append(i)
    pairs = [v for v in same.values() if len(v) > 1]
    if not pairs:
        return
    rows = data.draw(st.sampled_from(pairs))
    a, b = data.draw(st.lists(st.sampled_from(rows), min_size=2, max_size=2, unique=True))
    lines[a], lines[b] = lines[b], lines[a]
    survives(from_text("\n".join(lines)), "text", reference)


@FUZZ
@given(text=st.text(max_size=300))
def test_no_orca_at_all(text):
    with pytest.raises(UserError, match="no ORCA output"):
        parse_output("x.out", text)


def test_real_output_truncated_and_doubled():
    """A real large one: every tenth of it, and the whole of it twice in one file."""
    text = shared_data("orca/text/orca4.2_dvb_sp.out").read_text()
    for tenth in range(10):
        with pytest.raises(UserError):
            from_text(text[: len(text) * tenth // 10])()
    with pytest.raises(UserError, match="holds 2 SCF calculations"):
        from_text(text + text)()


def test_very_long_lines_do_not_hang():
    start = time.perf_counter()
    for text in ("Program Version 6\n" + " " * 5_000_000, "Program Version 6\n" + (" " * 1900 + "\n") * 500):
        with pytest.raises(UserError):
            parse_output("x.out", text)
    assert time.perf_counter() - start < SECONDS
