"""``schnorb_t export-skf MODEL -o DIR``: Slater-Koster files of a model's two-centre functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError


def export_skf(model: str, *, output: Path, spacing: float = 0.02, force: bool = False) -> dict[str, Any]:
    """Write Slater-Koster files (.skf) of a model's two-centre functions, or of trained DFTB tables.

    Of a network: valence shells only, without repulsive and Hubbard U (for SCC = No). Of what `schnorb_t fit-dftb`
    trained: the whole set with U and repulsive splines.

    Args:
        model: checkpoint of ``schnorb_t fit``, the name of a model that comes with the package, or tables.pt of
            ``schnorb_t fit-dftb``
        output: folder to write to
        spacing: of a network's tables, Bohr, 0.005 to 0.1; trained tables keep that of their set
        force: replace .skf files in the folder

    Returns:
        ``output``, ``files`` (names), ``cutoff`` in Å (None of trained tables), ``levels`` per element in Eh,
        ``core_shells`` per element.

    Raises:
        UserError: the model has no such functions, or the folder holds files already.
    """
    from ase.data import chemical_symbols

    from schnorb_t.files import write_text
    from schnorb_t.interfaces.slater_koster_files import slater_koster_files, valence_shells
    from schnorb_t.nn.model import MatrixModel
    from schnorb_t.training.checkpoint import find_model, load_single
    from schnorb_t.training.tables import is_tables

    if not 0.005 <= spacing <= 0.1:
        raise UserError(f"--spacing {spacing:g}: must lie between 0.005 and 0.1 Bohr")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; name a folder")
    there = sorted(p.name for p in output.glob("*.skf"))
    if there and not force:
        raise UserError(f"{output}: holds {there[0]} already; name another folder, or replace files with --force")
    if Path(model).is_file() and is_tables(model):
        files, levels, cores, cutoff = _trained(model)
    else:
        network, card = load_single(find_model(model))
        if not isinstance(network, MatrixModel):
            raise UserError(f"{model}: a network of the kind {card.network!r} has no two-centre functions for a file")
        files = slater_koster_files(network, spacing, f"{Path(model).name}, target {card.target}")
        shells, cutoff = valence_shells(network), network.cutoff
        levels = {chemical_symbols[z]: [["spdf"[s.l], s.energy] for s in of] for z, of in shells.items()}
        cores = {chemical_symbols[z]: len(network.basis.shells[z]) - len(of) for z, of in shells.items()}
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made ({error})") from None
    for name, text in files.items():
        write_text(output / name, text)
    return {"output": str(output), "files": sorted(files), "cutoff": cutoff, "levels": levels, "core_shells": cores}


def _trained(path: str) -> tuple[dict[str, str], dict[str, list], dict[str, int], None]:
    """Texts, levels and (no) cores of trained tables."""
    from ase.data import chemical_symbols

    from schnorb_t.interfaces.trained_tables import trained_files, trained_set
    from schnorb_t.training.tables import load_tables

    model, settings, _ = load_tables(path)
    texts = trained_set(model, f"{Path(settings.skf).name}, trained further by schnorb_t ({Path(path).name})")
    onsite = {a: file.onsite for (a, b), file in trained_files(model).items() if a == b}
    levels = {
        chemical_symbols[z]: [["spdf"[l], onsite[z][l][0]] for l in model.basis.shells[z]] for z in model.basis.elements
    }
    return texts, levels, {symbol: 0 for symbol in levels}, None


def show(result: dict[str, Any]) -> None:
    """Print what ``export_skf`` returned."""
    from schnorb_t.units import HARTREE

    for symbol, shells in result["levels"].items():
        levels = ", ".join(f"{letter} {energy * HARTREE:.3f} eV" for letter, energy in shells)
        core = result["core_shells"][symbol]
        frozen = f"; {core} core shell{'s' if core > 1 else ''} left out" if core else ""
        print(f"{symbol}: {levels}{frozen}")
    if result["cutoff"] is None:
        print(f"{result['output']}: {len(result['files'])} files, with Hubbard U and repulsive splines")
        return
    print(
        f"{result['output']}: {len(result['files'])} files up to {result['cutoff']:g} Å; repulsive and Hubbard U are "
        "zero (no energies and forces, SCC = No)"
    )
