"""Folders of ORCA results -> one file of checked molecules: find, read, check, store."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from ase.data import chemical_symbols

from ..basis import Basis, GaussianShell, all_electrons
from ..data.records import MoleculeRecord
from ..data.store import Header, StoreWriter, journal_path
from ..errors import UserError
from ..files import atomic_write, removed_at_the_end, temporary_name
from ..structures import Structure, fault_of, graph_key
from .orca_calculation import OrcaCalculation, refuse
from .orca_checks import CheckedMolecule, check
from .orca_json import read_json
from .orca_output import (
    OrcaOutput,
    basis_name,
    energy,
    geometry,
    level_of_theory,
    mulliken,
    printed_energies,
    read_output,
)
from .orca_text import read_text

OUTPUT_SUFFIXES = (".out", ".log")
#: What schedulers call their logs: ``slurm-123456.out``, ``job.123.log``.
_SCHEDULER = re.compile(r"(slurm|job|pbs|sge|lsf|condor)?[-_.]?\d+([-_.]\d+)*", re.IGNORECASE)
#: Group of the HDF5 file that holds every residual of every molecule.
CHECKS_GROUP = "orca_checks"


@dataclass(frozen=True)
class Job:
    """One calculation on disk.

    Attributes:
        name: path below the folder that all jobs share, without suffix.
        path: the ``orca_2json`` file or the output.
        output: ORCA's output beside an ``orca_2json`` file, if there is one.
    """

    name: str
    path: Path
    output: Path | None = None


def find_jobs(paths: Sequence[str | Path], on_foreign: Callable[[Path], None] = lambda path: None) -> list[Job]:
    """Files as given, folders searched for ``*.json``, ``*.out`` and ``*.log``; ``x.json`` and ``x.out`` are one job.

    ORCA 6's ``*.property.json`` hold no matrices and are passed over in folders, and so are files of other programs
    (a scheduler's ``slurm-*.out``, settings in JSON).

    Args:
        paths: files and folders.
        on_foreign: called with each file of another program.

    Raises:
        UserError: a path that is not there, nothing found, or two files of one name.
    """
    files: dict[Path, None] = {}
    foreign: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            found = [p for p in sorted(given.rglob("*")) if p.suffix in (".json", *OUTPUT_SUFFIXES) and p.is_file()]
            for p in found:
                if p.name.endswith((".property.json", "_property.json")):
                    continue
                if _of_orca(p):
                    files[p] = None
                else:
                    foreign.append(p)
        elif given.is_file():
            files[given] = None
        else:
            raise UserError(f"{given}: no such file or folder")
    if not files:
        others = f" (of other programs: {', '.join(p.name for p in foreign[:5])})" if foreign else ""
        raise UserError(f"no *.json, *.out or *.log file of ORCA in {', '.join(map(str, paths))}{others}")
    for p in foreign:
        on_foreign(p)
    beside = {p: _output_beside(p) for p in files if p.suffix == ".json"}
    taken = {output for output in beside.values() if output is not None}
    chosen = [p for p in files if p not in taken]
    folders = [str(p.resolve().parent) for p in chosen]
    root = Path(os.path.commonpath(folders))
    jobs = [
        Job((p.resolve().parent / p.name).relative_to(root).with_suffix("").as_posix(), p, beside.get(p))
        for p in chosen
    ]
    twice = [name for name, n in Counter(job.name for job in jobs).items() if n > 1]
    if twice:
        which = ", ".join(str(job.path) for job in jobs if job.name == twice[0])
        raise UserError(f"{which}: two files for the molecule {twice[0]!r}; keep one")
    return jobs


def _of_orca(path: Path) -> bool:
    """Whether a file found in a folder is ORCA's: by its own sign, or by an input or orbitals of its name beside it."""
    if any(path.with_suffix(s).is_file() for s in (".inp", ".gbw")):
        return True  # also where it is empty or damaged: then it is refused by name
    if path.stat().st_size == 0:
        return _SCHEDULER.fullmatch(path.stem) is None
    is_json = path.suffix == ".json"
    signs = (b'"Molecule"', b'"ORCA Header"') if is_json else (b"* O   R   C   A *", b"Program Version")
    try:
        with open(path, "rb") as file:
            tail = b""
            while block := file.read(1 << 20):
                if any(sign in tail + block for sign in signs):
                    return True
                if not is_json:
                    return False  # a banner stands at the beginning
                tail = block[-32:]
    except OSError:
        return True
    return False


def _output_beside(path: Path) -> Path | None:
    return next((p for p in (path.with_suffix(s) for s in OUTPUT_SUFFIXES) if p.is_file()), None)


def load(job: Job, ignore_fock: bool = False) -> CheckedMolecule:
    """Read and check one job.

    Args:
        job: from ``find_jobs``.
        ignore_fock: build H from the orbitals even where the file has a Fock matrix.

    Raises:
        UserError: why it is refused.
    """
    calculation = read_json(job.path) if job.path.suffix == ".json" else read_text(job.path)
    if job.output is not None:
        calculation = joined(calculation, read_output(job.output))
    return check(replace(calculation, fock=None) if ignore_fock else calculation)


def joined(calculation: OrcaCalculation, output: OrcaOutput) -> OrcaCalculation:
    """An ``orca_2json`` file with what its output adds: convergence, energies, level of theory, charges.

    Raises:
        UserError: they are not of the same calculation.
    """
    numbers, positions = geometry(output)
    energies, _ = printed_energies(output)
    if numbers != calculation.atomic_numbers.tolist() or output.charge != calculation.charge:
        refuse(calculation.path, f"has other atoms or another charge than {output.path} beside it")
    if np.abs(positions - calculation.positions).max() > 1e-4:
        refuse(calculation.path, f"has another geometry than {output.path} beside it")
    if len(energies) > len(calculation.energies):
        refuse(calculation.path, f"has fewer orbitals than {output.path} beside it")
    difference = np.abs(energies - calculation.energies[: len(energies)]).max()
    if difference > 2e-6:
        refuse(
            calculation.path,
            f"orbital energies differ by {difference:.1e} Eh from those printed in {output.path} beside it; "
            "export again from the .gbw of that run",
        )
    charges = calculation.mulliken if calculation.mulliken is not None else mulliken(output, numbers)
    return replace(
        calculation,
        version=output.version,
        basis_name=basis_name(output),
        mulliken=charges,
        level=level_of_theory(output),
        total_energy=energy(output, "Total Energy"),
        one_electron_energy=energy(output, "One Electron Energy"),
        nuclear_repulsion=energy(output, "Nuclear Repulsion"),
        converged=True,
    )


# ---- one basis, one level ------------------------------------------------------------------------------------


def _same_functions(a: Sequence[GaussianShell], b: Sequence[GaussianShell]) -> bool:
    """Equal up to the digits that an output prints; ORCA normalises contractions in JSON, not in the printed basis."""
    return len(a) == len(b) and all(
        f.l == g.l
        and len(f.exponents) == len(g.exponents)
        and np.allclose(f.exponents, g.exponents, rtol=1e-6, atol=1e-9)
        and np.allclose(f.normalised_coefficients(), g.normalised_coefficients(), rtol=1e-5, atol=1e-7)
        for f, g in zip(a, b, strict=True)
    )


@dataclass
class Collection:
    """What all imported molecules share, grown molecule by molecule; a molecule of another kind is refused."""

    shells: dict[int, tuple[int, ...]] = field(default_factory=dict)
    functions: dict[int, tuple[GaussianShell, ...]] = field(default_factory=dict)
    level: dict[str, str] = field(default_factory=dict)
    basis_name: str | None = None
    versions: set[str] = field(default_factory=set)
    without_functions: bool = False
    first: str = ""

    def join(self, molecule: CheckedMolecule, compare_level: bool = True) -> None:
        """Take a molecule in.

        Raises:
            UserError: its basis or level of theory is another one than that of the molecules before.
        """
        c = molecule.calculation
        self.first = self.first or c.path
        for z, ls in molecule.shells.items():
            functions = (molecule.functions or {}).get(z)
            known = self.functions.get(z)
            other = self.shells.get(z, ls) != ls
            if other or (functions and known and not _same_functions(functions, known)):
                refuse(
                    c.path,
                    f"has another basis for {chemical_symbols[z]} than the files before it (first: {self.first}); "
                    "one file holds one basis: import the others into a file of their own",
                )
        names = (self.basis_name or "", c.basis_name or "")
        if all(names) and names[0].lower() != names[1].lower():
            refuse(c.path, f"is in basis {names[1]}, the files before it in {names[0]}; import it into its own file")
        if compare_level:
            for key in sorted(self.level.keys() & molecule.level.keys()):
                if self.level[key] != molecule.level[key]:
                    refuse(
                        c.path,
                        f"is of another level of theory than {self.first}: {key} {molecule.level[key]} | "
                        f"{self.level[key]}; import it into a file of its own",
                    )
            self.level = {**molecule.level, **self.level}
        self.shells.update(molecule.shells)
        for z, functions in (molecule.functions or {}).items():
            self.functions.setdefault(z, functions)
        self.basis_name = self.basis_name or c.basis_name
        self.versions.add(c.version)

    def header(self, level: str | None = None) -> Header:
        """The header of the file; ``level`` replaces what the outputs say."""
        complete = self.functions.keys() == self.shells.keys()
        name = self.basis_name or "ORCA basis"
        basis = Basis(name, dict(self.shells), dict(self.functions) if complete else None)
        stated = dict(sorted(self.level.items())) if level is None else {"method": level}
        return Header(basis, "full", {**stated, "basis": name}, {"orca": ", ".join(sorted(self.versions))})


# ---- import --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One line of the table: a job with its residuals, or the reason why it was refused."""

    job: Job
    molecule: CheckedMolecule | None = None
    reason: str = ""
    mixed: bool = False


def record_of(job: Job, molecule: CheckedMolecule, order: int) -> MoleculeRecord:
    """The molecule as the store takes it; its group is its graph, so conformers never straddle a split."""
    numbers = molecule.calculation.atomic_numbers
    return MoleculeRecord(
        atomic_numbers=numbers,
        positions=molecule.positions,
        hamiltonian=molecule.hamiltonian,
        overlap=molecule.overlap,
        large_basis_energies=molecule.energies,
        total_energy=molecule.total_energy,
        n_electrons=all_electrons(numbers, molecule.calculation.charge),
        charge=molecule.calculation.charge or None,
        name=job.name,
        group=graph_key(numbers, molecule.positions),
        order=order,
    )


def import_orca(
    jobs: Sequence[Job],
    output: str | Path,
    *,
    skip_bad: bool = False,
    level: str | None = None,
    ignore_fock: bool = False,
    on_report: Callable[[Report], None] = lambda report: None,
) -> list[Report]:
    """Read, check and store jobs; the file appears whole or not at all.

    Checked molecules wait in a temporary file until the basis of all elements is known, so memory stays flat.

    Args:
        jobs: from ``find_jobs``.
        output: the HDF5 file to write; it must not exist.
        skip_bad: write the good ones although others were refused; those stand among the file's failures.
        level: name of the level of theory, in place of what the outputs say; the user vouches that all are of it.
        ignore_fock: build H from the orbitals even where a file has a Fock matrix.
        on_report: called after each job.

    Returns:
        One report per job. Nothing is written if any was refused (unless ``skip_bad``), if the levels or bases are
        mixed, or if none is good.

    Raises:
        UserError: the output exists or cannot be written.
    """
    output = Path(output)
    if output.exists() or journal_path(output).exists():
        raise UserError(f"{output}: exists already; remove it or choose another name")
    reports, collection = [], Collection()
    with _spool(output) as spool:
        for order, job in enumerate(jobs):
            report = _try(job, collection, level, ignore_fock)
            if report.molecule is not None:
                pickle.dump(record_of(job, report.molecule, order), spool)
                # the matrices are on disk now
                report = replace(report, molecule=replace(report.molecule, hamiltonian=None, overlap=None))
                bare = replace(report.molecule.calculation, overlap=None, coefficients=None, fock=None)
                report = replace(report, molecule=replace(report.molecule, calculation=bare, functions=None))
            reports.append(report)
            on_report(report)
        good = [r for r in reports if r.molecule is not None]
        bad = [r for r in reports if r.molecule is None]
        if not good or any(r.mixed for r in bad) or (bad and not skip_bad):
            return reports
        spool.seek(0)
        temporary = temporary_name(output)
        with atomic_write(output, temporary=temporary), removed_at_the_end(journal_path(temporary)):
            with StoreWriter(temporary, collection.header(level), append=False) as writer:
                for _ in good:
                    writer.add(pickle.load(spool))
                for order, report in enumerate(reports):
                    if report.molecule is None:
                        writer.add_failure(report.job.name, report.reason, order)
            _write_checks(temporary, good)
    return reports


def _spool(output: Path):
    """A temporary file on the disk of the output, where there is room for the matrices."""
    try:
        return tempfile.TemporaryFile(dir=output.resolve().parent)
    except OSError as error:
        raise UserError(f"{output}: cannot be written there ({error.strerror or error})") from None


def _try(job: Job, collection: Collection, level: str | None, ignore_fock: bool) -> Report:
    try:
        molecule = load(job, ignore_fock)
        c = molecule.calculation
        structure = Structure(c.atomic_numbers, molecule.positions, charge=c.charge, charge_from="Total Charge")
        if fault := fault_of(structure, charges=None):
            raise UserError(f"{c.path}: {fault}")
    except UserError as error:
        return Report(job, reason=str(error))
    try:
        collection.join(molecule, compare_level=level is None)
    except UserError as error:
        return Report(job, reason=str(error), mixed=True)
    return Report(job, molecule)


def residual_names(reports: Iterable[Report]) -> list[str]:
    """The checks that were made, in order of first appearance."""
    return list(dict.fromkeys(r.name for report in reports if report.molecule for r in report.molecule.residuals))


def _write_checks(path: Path, good: list[Report]) -> None:
    """Group ``orca_checks``: per molecule the file, ORCA's version, the source of H, and each residual with its limit.

    A residual that does not apply or was not checked is NaN.
    """
    with h5py.File(path, "r+") as file:
        group = file.create_group(CHECKS_GROUP)
        text = h5py.string_dtype()
        group.create_dataset("name", data=[r.job.name for r in good], dtype=text)
        group.create_dataset("file", data=[str(r.job.path) for r in good], dtype=text)
        group.create_dataset("version", data=[r.molecule.calculation.version for r in good], dtype=text)
        group.create_dataset("fock_source", data=[r.molecule.fock_source for r in good], dtype=text)
        for name in residual_names(good):
            found = [next((x for x in r.molecule.residuals if x.name == name), None) for r in good]
            values = [np.nan if x is None or x.value is None else x.value for x in found]
            group.create_dataset(f"residual/{name}", data=np.array(values))
            group.create_dataset(f"limit/{name}", data=np.array([np.nan if x is None else x.limit for x in found]))
