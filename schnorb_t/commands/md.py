"""``schnorb_t md MODEL start.xyz -o run.traj``: dynamics with a model of energies and forces, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def md(
    model: Path,
    start: Path,
    *,
    output: Path,
    steps: int = 10_000,
    temperature: float = 300.0,
    ensemble: str = "nve",
    time_step: float = 0.5,
    every: int = 10,
    equilibrate: int = 0,
    friction: float = 0.01,
    seed: int = 0,
    orbitals: str = "",
    stop_above: float | None = None,
    reference: Path | None = None,
    picture: Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Molecular dynamics of one molecule with a model of energies and forces, and a report as one picture.

        schnorb_t md best.ckpt toluene.xyz -o toluene.traj --temperature 300 --steps 200000
        schnorb_t md best.ckpt toluene.xyz -o hot.traj --ensemble langevin --temperature 500 --reference frames.extxyz

    The trajectory (ASE's format; ``ase gui`` and ``ase convert`` read it) holds every saved step. Stopped at any
    moment, the same command goes on where it stopped, as if it had not; with more ``--steps`` it goes on after its end.

    Args:
        model: checkpoint of a model of energies and forces
        start: file with the molecule; of several the first is taken
        output: trajectory to begin or to continue, in ASE's format (.traj)
        steps: in all
        temperature: of the first velocities and of the thermostat, K
        ensemble: nve (constant energy) or langevin (constant temperature)
        time_step: fs
        every: steps between two that are saved; 2 fs between two resolve all vibrations
        equilibrate: steps of Langevin dynamics before constant energy begins
        friction: of Langevin dynamics, 1/fs
        seed: of velocities and random forces
        orbitals: model of matrices (organic) whose HOMO and LUMO are computed at every saved step
        stop_above: end where that model's doubt is larger, eV; the structure is saved beside the trajectory
        reference: file with frames of the same molecule, to compare distances with
        picture: report (default: OUTPUT with .png)
        device: cpu, cuda (default: CUDA where there is one)

    Returns:
        ``output``, ``picture``, ``steps``, and what ``interfaces.dynamics_report.summary`` returns; of a trajectory
        that was stopped ``stopped`` (doubt, eV).

    Raises:
        UserError: a model without energies, a structure that it cannot treat, other settings than the trajectory's.
    """
    from schnorb_t.errors import UserError
    from schnorb_t.files import check_output
    from schnorb_t.interfaces import dynamics, dynamics_report
    from schnorb_t.interfaces.ase import SchNOrbT, write_frame
    from schnorb_t.progress import progress_bar
    from schnorb_t.structures import check_structures, read_structures

    check_output(output, [Path(start), Path(model)], force=True)
    if steps < 1:
        raise UserError(f"--steps {steps}: must be 1 or more")
    settings = dynamics.Settings(ensemble, temperature, time_step, every, equilibrate, friction, seed)
    if stop_above is not None and not orbitals:
        raise UserError("--stop-above needs --orbitals MODEL, whose doubt it is about (organic)")
    calculator = SchNOrbT(orbitals or model, device, energies=model if orbitals else None, stop_above=stop_above)
    if calculator.energies is None:
        raise UserError(f"{model}: predicts matrices, no forces; train a model of these: schnorb_t fit --config forces")
    # doubt is looked at where frames are saved, which is what limits the time that it takes
    calculator.stop_above = None
    structures = read_structures([start])
    check_structures(structures[:1], calculator.energies.basis.elements, start)
    atoms = structures[0].to_atoms()
    facts = {"model": str(model), "atomic_numbers": [int(z) for z in atoms.numbers], "orbitals": orbitals}
    names = [name for name in ("homo", "lumo", "doubt") if name in calculator.implemented_properties]

    def levels(frame: Any) -> dict[str, float]:
        return {name: float(calculator.get_property(name, frame)) for name in names}

    stopped: float | None = None
    with progress_bar(steps, "dynamics", True) as advance:
        before = 0
        for step, frame in dynamics.run_dynamics(atoms, calculator, output, steps, settings, facts, levels):
            advance(step - before)
            before = step
            doubt = frame.info.get("doubt")
            if stop_above is not None and doubt is not None and not doubt <= stop_above:
                write_frame(output.with_suffix(".stopped.extxyz"), frame)
                stopped = float(doubt)
                break
    frames = dynamics.read_trajectory(output)
    result = dynamics_report.summary(frames, time_step, equilibrate, ensemble == "nve")
    others = [s.to_atoms() for s in read_structures([reference])] if reference is not None else []
    if others:
        if any(len(a) != len(atoms) for a in others):
            raise UserError(f"{reference}: holds structures of another size than {start}")
        result["distance_overlap"] = dynamics_report.overlap_of_distributions(frames, others)
    target = picture or output.with_suffix(".png")
    title = f"{atoms.get_chemical_formula()}, {ensemble}, {temperature:g} K"
    dynamics_report.write_picture(target, frames, time_step, result, others, title)
    more = {} if stopped is None else {"stopped": stopped}
    return {"output": str(output), "picture": str(target), "steps": int(frames[-1].info["step"]), **result, **more}


def show(result: dict[str, Any]) -> None:
    """Print what ``md`` returned."""
    print("{output}: {steps} steps, {frames} frames, mean temperature {mean_temperature:.0f} K".format(**result))
    if "drift" in result:
        print(f"drift of the total energy {result['drift']:.3g} K/ps, fluctuation {result['fluctuation']:.3g} meV/atom")
    broken = result["broken_bonds"]
    print(
        "no bond broke" if not broken else f"{len(broken)} bonds broke, the first at step {min(b[2] for b in broken)}"
    )
    if "distance_overlap" in result:
        print(f"distances overlap the reference by {result['distance_overlap']:.3f}")
    if "stopped" in result:
        print(f"stopped: doubt {result['stopped']:.3f} eV; the structure is saved beside the trajectory")
    print(f"report: {result['picture']}")
