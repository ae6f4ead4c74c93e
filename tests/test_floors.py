"""The floors of the house: nothing imports upward, rooms have no circles, optional packages stay in their rooms.

    units, keys, basis, conventions, ... -> data, structures, nn, physics, reference -> training, interfaces -> commands

Read from the source: every import counts, also one inside a function, but an optional package may be imported there.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import schnorb_t

PACKAGE = Path(schnorb_t.__file__).parent
#: rooms (folders) and the modules that stand beside them, by floor
FLOORS = (
    {
        "units",
        "keys",
        "errors",
        "files",
        "linalg",
        "hdf5",
        "harmonics",
        "basis",
        "conventions",
        "block_matrix",
        "progress",
    },
    {"structures"},
    {"data", "nn", "physics", "reference"},
    {"training"},
    {
        "prediction",
        "sparse_prediction",
        "prediction_file",
        "predictor",
        "energy_predictor",
        "shards",
        "interfaces",
        "active",
    },
    {"commands", "__main__", "__init__", "fit", "predict", "evaluate", "export", "export_skf", "ensemble"},
)
#: Rooms of one floor that may read another of theirs; never both ways.
NEIGHBOURS = {
    ("reference", "data"),  # labels are records
    ("interfaces", "prediction"),
    ("interfaces", "predictor"),
    ("interfaces", "energy_predictor"),
    ("energy_predictor", "predictor"),  # devices
    ("interfaces", "sparse_prediction"),
    ("active", "predictor"),  # a model's view of molecules decides which to label
    ("predictor", "prediction"),
    ("prediction_file", "prediction"),
    ("sparse_prediction", "prediction"),
    ("predictor", "sparse_prediction"),
    ("prediction_file", "sparse_prediction"),
    ("shards", "predictor"),
    ("shards", "prediction_file"),
}
#: What doors of ``python -m`` call, whatever their floor.
DOORS = ("schnorb_t.commands.run", "schnorb_t.commands.door")
#: Methods that call a room above when they are used, as ``Prediction.html`` does: (module, what it imports then).
CALLED_LATER = {
    ("prediction.py", "schnorb_t.interfaces.viewer.write_page"),
    ("prediction.py", "schnorb_t.interfaces.viewer.View"),
}
#: Packages that ``pip install schnorb_t`` does not bring, and modules that may import them at their top, since they are
#: nothing without them.
OPTIONAL: dict[str, set[str]] = {
    "pyscf": {"reference/fast_scf.py"},
    "dask": set(),
    "distributed": set(),
    "tblite": set(),
    "rdkit": set(),
    "skmatter": set(),
    "torch_scatter": set(),
    "scine_sparrow": set(),
}
FLOOR = {room: k for k, floor in enumerate(FLOORS) for room in floor}


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, at the top of the module) of everything that a module imports; only for types is not imported."""
    package = ".".join(("schnorb_t", *path.relative_to(PACKAGE).parent.parts))
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            found.extend((name.name, top) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.extend((f"{base}.{name.name}", top) for name in node.names)
        guarded = isinstance(node, ast.Try) and any(
            h.type is not None and "ImportError" in ast.unparse(h.type) for h in node.handlers
        )
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or guarded
        for child in ast.iter_child_nodes(node):
            visit(child, top and not inner)

    visit(ast.parse(path.read_text()), True)
    return found


def room_of(dotted: str) -> str | None:
    """Folder or module of the package that a name stands in; the package itself is its ``__init__``."""
    parts = dotted.split(".")
    if parts[0] != "schnorb_t" or dotted == "schnorb_t.__version__" or dotted in DOORS:
        return None
    if len(parts) == 1 or not ((PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()):
        return "__init__"
    return parts[1]


MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def edges() -> dict[tuple[str, str], str]:
    """(room, room that it imports from) -> an example."""
    out: dict[tuple[str, str], str] = {}
    for path in MODULES:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        for name, top in imports_of(path):
            room = room_of(name)
            if not top and (path.relative_to(PACKAGE).as_posix(), name) in CALLED_LATER:
                continue
            if room is not None and room != parts[0]:
                out.setdefault((parts[0], room), f"{path.relative_to(PACKAGE)} imports {name}")
    return out


def test_every_module_stands_on_a_floor():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES}
    assert rooms == set(FLOOR)


def test_nothing_imports_upward():
    wrong = [
        example
        for (room, other), example in edges().items()
        if FLOOR[other] > FLOOR[room] or (FLOOR[other] == FLOOR[room] and FLOOR[room] in (2, 4))
        if (room, other) not in NEIGHBOURS
    ]
    assert not wrong, "\n".join(wrong)


def test_networks_and_physics_do_not_know_each_other():
    assert not {("nn", "physics"), ("physics", "nn"), ("nn", "data"), ("physics", "data")} & set(edges())


def test_no_circles():
    """Between rooms, and between modules as they are imported."""
    below: dict[str, set[str]] = {}
    for room, other in edges():
        below.setdefault(room, set()).add(other)

    def reach(room: str, seen: set[str]) -> set[str]:
        for other in below.get(room, set()) - seen:
            seen.add(other)
            reach(other, seen)
        return seen

    assert not [room for room in below if room in reach(room, set())]


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_packages_are_imported_where_they_are_needed(package):
    wrong = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        for name, top in imports_of(path)
        if top and name.split(".")[0] == package
        if path.relative_to(PACKAGE).as_posix() not in OPTIONAL[package]
    ]
    assert not wrong


def test_the_reader_of_imports_sees_what_it_must(tmp_path, monkeypatch):
    """The tests above can fail."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    text = "import pyscf\nfrom ..physics import eigen\ndef f():\n    import dask\ntry:\n    import torch_scatter\n"
    (tmp_path / "nn" / "a.py").write_text(text + "except ImportError:\n    pass\n")
    wanted = [("pyscf", True), ("schnorb_t.physics.eigen", True), ("dask", False), ("torch_scatter", False)]
    assert imports_of(tmp_path / "nn" / "a.py") == wanted


def test_prediction_without_optional_packages():
    """``import schnorb_t``, all commands' parsers and a prediction where none of them can be imported."""
    code = (
        "import sys\n"
        f"for name in {sorted(OPTIONAL)!r}: sys.modules[name] = None\n"
        "import schnorb_t, schnorb_t.commands\n"
        "from ase.build import molecule\n"
        "found = schnorb_t.load('gfn2').predict(molecule('H2O'))\n"
        "assert found.hamiltonian.shape == (6, 6), found.hamiltonian.shape\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
