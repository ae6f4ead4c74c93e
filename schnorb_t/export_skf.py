"""``python -m schnorb_t.export_skf MODEL -o DIR``: Slater-Koster files of a model's two-centre functions."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from schnorb_t.errors import UserError, run_command


def spacing(text: str) -> float:
    """An argument in Bohr."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0.005 <= value <= 0.1:
        raise argparse.ArgumentTypeError(f"must lie between 0.005 and 0.1 Bohr, got {text}")
    return value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m schnorb_t.export_skf",
        description="Write Slater-Koster files (.skf) of a model's two-centre functions, valence shells only, "
        "without repulsive and Hubbard U (for SCC = No).",
    )
    parser.add_argument("model", help="checkpoint of schnorb_t.fit, or the name of a model that comes with the package")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--spacing", type=spacing, default=0.02, help="of the tables, Bohr (default: 0.02)")
    parser.add_argument("--force", action="store_true", help="replace .skf files in DIR")
    arguments = parser.parse_args(argv)

    from schnorb_t.interfaces.dftbplus_files import write_text
    from schnorb_t.interfaces.slater_koster_files import slater_koster_files, valence_shells
    from schnorb_t.training.checkpoint import find_model, load_model
    from schnorb_t.units import HARTREE

    folder = arguments.output
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder")
    model, card = load_model(find_model(arguments.model))
    there = sorted(p.name for p in folder.glob("*.skf"))
    if there and not arguments.force:
        raise UserError(f"{folder}: holds {there[0]} already; name another folder, or replace files with --force")
    files = slater_koster_files(model, arguments.spacing, f"{Path(arguments.model).name}, target {card.target}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error})") from None
    for name, text in files.items():
        write_text(folder / name, text)
    console = Console(highlight=False)
    from ase.data import chemical_symbols

    for z, shells in valence_shells(model).items():
        levels = ", ".join(f"{'spdf'[s.l]} {s.energy * HARTREE:.3f} eV" for s in shells)
        core = len(model.basis.shells[z]) - len(shells)
        frozen = f"; {core} core shell{'s' if core > 1 else ''} left out" if core else ""
        console.print(f"{chemical_symbols[z]}: {levels}{frozen}", markup=False, soft_wrap=True)
    console.print(
        f"{folder}: {len(files)} files up to {model.cutoff:g} Å; repulsive and Hubbard U are zero "
        "(no energies and forces, SCC = No)",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main)
