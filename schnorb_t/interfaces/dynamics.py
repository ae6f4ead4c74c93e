"""Molecular dynamics with ASE's integrators: in steps that are saved, so that a stopped run goes on as if it had not.

A trajectory is ASE's own format (``.traj``), with positions, momenta, energy and forces of every saved step; beside it
``.json`` holds the settings. Between two saved steps nothing is remembered but what the trajectory holds, random
forces included, whose generator is seeded by seed and step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from schnorb_t.errors import UserError, system_fault
from schnorb_t.files import write_text

ENSEMBLES = ("nve", "langevin")


@dataclass(frozen=True)
class Settings:
    """What decides on a trajectory besides model and start.

    Attributes:
        ensemble: ``"nve"``, constant energy (velocity Verlet), or ``"langevin"``, constant temperature.
        temperature: K, of the first velocities and of the thermostat.
        time_step: fs.
        every: steps between two saved ones.
        equilibrate: steps of Langevin dynamics before constant energy begins.
        friction: 1/fs, of Langevin dynamics.
        seed: of velocities and random forces.
    """

    ensemble: str = "nve"
    temperature: float = 300.0
    time_step: float = 0.5
    every: int = 10
    equilibrate: int = 0
    friction: float = 0.01
    seed: int = 0

    def __post_init__(self):
        if self.ensemble not in ENSEMBLES:
            raise UserError(f"ensemble {self.ensemble}: must be one of {', '.join(ENSEMBLES)}")
        for name, least in (("every", 1), ("equilibrate", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: must be {least} or more")
        for name in ("time_step", "friction"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name)}: must be above 0")
        if not 0 <= self.temperature < np.inf:
            raise UserError(f"temperature {self.temperature}: must be 0 K or more")
        if self.equilibrate % self.every:
            raise UserError(f"equilibrate {self.equilibrate}: must be a multiple of every, {self.every}")


class _Noise:
    """Random numbers of Langevin dynamics between two saved steps."""

    def __init__(self, seed: int, step: int):
        self._generator = np.random.default_rng([seed, step])

    def standard_normal(self, size=None):
        return self._generator.standard_normal(size)


def start_velocities(atoms: Atoms, settings: Settings) -> None:
    """Maxwell-Boltzmann velocities at exactly the temperature, without translation and rotation, in place."""
    rng = np.random.default_rng([settings.seed, 2**31])
    MaxwellBoltzmannDistribution(atoms, temperature_K=settings.temperature, rng=rng)
    Stationary(atoms, preserve_temperature=False)
    if len(atoms) > 2:
        ZeroRotation(atoms, preserve_temperature=False)
    freedom = degrees_of_freedom(atoms)
    kinetic = atoms.get_kinetic_energy()
    if kinetic > 0 and freedom:
        wanted = 0.5 * freedom * units.kB * settings.temperature
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(wanted / kinetic))


def degrees_of_freedom(atoms: Atoms) -> int:
    """3N less translation and rotation."""
    n = len(atoms)
    if n < 3:
        return max(0, n - 1)
    moments = np.linalg.svd(atoms.positions - atoms.positions.mean(0), compute_uv=False)
    return 3 * n - (5 if moments[1] < 1e-6 * max(moments[0], 1e-12) else 6)


def temperature(atoms: Atoms) -> float:
    """K, of the internal motion."""
    freedom = degrees_of_freedom(atoms)
    return 2 * atoms.get_kinetic_energy() / (units.kB * freedom) if freedom else 0.0


def settings_path(trajectory: Path) -> Path:
    """Where the settings of a trajectory stand."""
    return trajectory.with_name(trajectory.name + ".json")


def read_trajectory(path: Path) -> list[Atoms]:
    """All frames.

    Raises:
        UserError: not a trajectory of ASE.
    """
    try:
        with Trajectory(str(path)) as found:
            return list(found)
    except Exception as error:  # ASE's reader raises whatever it meets
        raise UserError(f"{path}: cannot be read as a trajectory of ASE ({error}); remove it to begin anew") from None


def _last_frame(path: Path, facts: dict[str, Any]) -> Atoms | None:
    """Where a trajectory stopped; None if there is none.

    Raises:
        UserError: it was made with other settings, or cannot be read.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    beside = settings_path(path)
    if not beside.is_file():
        raise UserError(f"{path}: exists, but {beside}, which tells its settings, does not; choose another name")
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{beside}: is no JSON; remove {path} and it to begin anew") from None
    if differ := [k for k in facts if before.get(k) != facts[k]]:
        k = differ[0]
        raise UserError(f"{path}: was begun with {k} {before.get(k)}, now {facts[k]}; give the same or another name")
    frames = read_trajectory(path)
    return frames[-1] if frames else None


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What the system refuses, a full disk for example, in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(system_fault(error, path) or f"{path}: cannot be written ({error})") from None


def run_dynamics(
    start: Atoms,
    calculator: Calculator,
    path: Path,
    steps: int,
    settings: Settings,
    facts: dict[str, Any],
    observe: Callable[[Atoms], Mapping[str, float]] | None = None,
) -> Iterator[tuple[int, Atoms]]:
    """Dynamics up to ``steps`` steps in all, from the last saved one where there is one.

    Args:
        start: first structure, as it is (not relaxed).
        calculator: gives energy and forces.
        path: trajectory, ``.traj``, to begin or to continue.
        steps: in all, counted from the start.
        settings: see there.
        facts: of model and start, kept with the settings; a run that goes on must have the same.
        observe: called with every structure that is saved; what it returns is kept in its ``info``.

    Yields:
        number of the step and the structure, after each saved step.

    Raises:
        UserError: the trajectory was made with other settings, or atoms flew apart.
    """
    facts = {**asdict(settings), **facts}
    last = _last_frame(path, facts)
    if last is None:
        atoms = start.copy()
        atoms.calc = calculator
        start_velocities(atoms, settings)
        write_text(settings_path(path), json.dumps(facts, indent=2) + "\n")
        step, mode = 0, "w"
    else:
        step, mode = int(last.info["step"]), "a"
        atoms = last.copy()
        atoms.calc = calculator
    with _refused(path), Trajectory(str(path), mode, atoms) as trajectory:

        def save() -> None:
            atoms.get_forces()
            atoms.info.update({} if observe is None else observe(atoms), step=step)
            trajectory.write()

        if last is None:
            save()
            yield 0, atoms
        dt = settings.time_step * units.fs
        while step < steps:
            n = min(settings.every, steps - step)
            if settings.ensemble == "langevin" or step < settings.equilibrate:
                dynamics: Any = Langevin(
                    atoms,
                    dt,
                    temperature_K=settings.temperature,
                    friction=settings.friction / units.fs,
                    rng=_Noise(settings.seed, step),
                )
            else:
                dynamics = VelocityVerlet(atoms, dt)
            dynamics.run(n)
            step += n
            if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.get_potential_energy()):
                raise UserError(f"{path}: atoms flew apart after step {step}; the frames before are in the file")
            save()
            yield step, atoms
