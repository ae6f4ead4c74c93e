"""What a trajectory says: temperature, drift of energy, broken bonds, distances, vibrations, levels; one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from schnorb_t.files import atomic_write
from schnorb_t.interfaces.dynamics import degrees_of_freedom, temperature
from schnorb_t.structures import bonds

#: A bond longer than so many times its length in the first frame is broken.
BROKEN = 1.5
#: Å, bins of the distribution of distances.
BIN = 0.05
#: cm^-1 per 1/fs.
_WAVENUMBER = 1e15 / 2.99792458e10


def distance_distribution(frames: Sequence[Atoms], width: float = BIN, longest: float | None = None):
    """h(r) (Chmiela et al., Sci. Adv. 3, e1603015 (2017)): all distances between atoms of all frames.

    Args:
        frames: of one molecule.
        width: of the bins, Å.
        longest: end of the last bin, Å; by default the longest distance there is.

    Returns:
        centres of the bins [n], Å, and the distribution [n], 1/Å, of integral 1.
    """
    positions = np.array([a.positions for a in frames])
    i, j = np.triu_indices(positions.shape[1], 1)
    r = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1).ravel()
    end = float(r.max()) if longest is None else longest
    edges = np.arange(0.0, end + 2 * width, width)
    counts, _ = np.histogram(r, edges)
    return 0.5 * (edges[1:] + edges[:-1]), counts / max(1, counts.sum()) / width


def overlap_of_distributions(one: Sequence[Atoms], other: Sequence[Atoms], width: float = BIN) -> float:
    """Common area of two distributions of distances, 0 to 1: integral of the smaller of both."""
    longest = max(np.ptp(a.positions, axis=0).max() * 2 for a in (*one, *other))
    h = [distance_distribution(x, width, longest)[1] for x in (one, other)]
    return float(np.minimum(*h).sum() * width)


def broken_bonds(frames: Sequence[Atoms]) -> list[tuple[int, int, int]]:
    """(atom, atom, frame) of every bond of the first frame that is ``BROKEN`` later, with the first such frame."""
    first = frames[0]
    pairs = [(int(i), int(j)) for i, j in bonds(first.numbers, first.positions)]
    if not pairs:
        return []
    i, j = np.array(pairs).T
    x = np.array([a.positions for a in frames])
    length = np.linalg.norm(x[:, i] - x[:, j], axis=-1)
    wide = length > BROKEN * length[0]
    return [(*pairs[k], int(np.argmax(wide[:, k]))) for k in np.flatnonzero(wide.any(0))]


def vibrational_density(frames: Sequence[Atoms], interval: float):
    """Power spectrum of mass-weighted velocities, of integral 1.

    Args:
        frames: at equal times.
        interval: between two, fs.

    Returns:
        wavenumbers [n], cm^-1, and density [n], cm.
    """
    v = np.array([a.get_velocities() * np.sqrt(a.get_masses())[:, None] for a in frames])
    v = (v - v.mean(0)).reshape(len(v), -1) * np.hanning(len(v))[:, None]
    power = np.square(np.abs(np.fft.rfft(v, axis=0))).sum(1)
    wavenumber = np.fft.rfftfreq(len(v), interval) * _WAVENUMBER
    step = wavenumber[1] if len(wavenumber) > 1 else 1.0
    return wavenumber, power / max(power.sum() * step, 1e-300)


def summary(frames: Sequence[Atoms], time_step: float, skip: int = 0, constant_energy: bool = True) -> dict[str, Any]:
    """Numbers of a trajectory.

    Args:
        frames: with ``info["step"]``, momenta and energies.
        time_step: fs.
        skip: steps at the start that do not count (equilibration).
        constant_energy: report the drift of the total energy.

    Returns:
        ``picoseconds``, ``mean_temperature`` (K), ``broken_bonds``; at constant energy ``drift`` (K per ps: slope of
        the total energy, as a temperature of all internal degrees of freedom, E = f k T / 2) and
        ``fluctuation`` (meV per atom, standard deviation about that slope).
    """
    frames = [a for a in frames if a.info["step"] >= skip]
    time = np.array([a.info["step"] for a in frames]) * time_step / 1000
    out: dict[str, Any] = {
        "picoseconds": float(time[-1] - time[0]),
        "frames": len(frames),
        "mean_temperature": float(np.mean([temperature(a) for a in frames])),
        "broken_bonds": [[i, j, frames[k].info["step"]] for i, j, k in broken_bonds(frames)],
    }
    if constant_energy and len(frames) > 2:
        total = np.array([a.get_potential_energy() + a.get_kinetic_energy() for a in frames])
        slope, offset = np.polyfit(time, total, 1)
        freedom = max(1, degrees_of_freedom(frames[0]))
        out["drift"] = float(2 * slope / (units.kB * freedom))
        out["fluctuation"] = float(1e3 * np.std(total - slope * time - offset) / len(frames[0]))
    return out


def write_picture(
    path: Path,
    frames: Sequence[Atoms],
    time_step: float,
    facts: dict[str, Any],
    reference: Sequence[Atoms] = (),
    title: str = "",
) -> None:
    """The report as one picture.

    Args:
        path: PNG, PDF or SVG.
        frames: of the trajectory; ``info`` may have ``homo``, ``lumo`` and ``doubt`` (eV).
        time_step: fs.
        facts: of ``summary``.
        reference: frames of the same molecule, whose distances are drawn beside.
        title: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    (t_axis, e_axis, b_axis), (h_axis, v_axis, o_axis) = figure.subplots(2, 3)
    steps = np.array([a.info["step"] for a in frames])
    time = steps * time_step / 1000
    t_axis.plot(time, [temperature(a) for a in frames], linewidth=0.7)
    t_axis.set(xlabel="time, ps", ylabel="temperature, K", title=f"mean {facts['mean_temperature']:.0f} K")
    total = np.array([a.get_potential_energy() + a.get_kinetic_energy() for a in frames])
    e_axis.plot(time, 1e3 * (total - total[0]), linewidth=0.7)
    drift = f"drift {facts['drift']:.3g} K/ps" if "drift" in facts else "thermostat"
    e_axis.set(xlabel="time, ps", ylabel="total energy less the first, meV", title=drift)
    pairs = np.array([(i, j) for i, j in bonds(frames[0].numbers, frames[0].positions)])
    if len(pairs):
        x = np.array([a.positions for a in frames])
        length = np.linalg.norm(x[:, pairs[:, 0]] - x[:, pairs[:, 1]], axis=-1)
        b_axis.plot(time, length, linewidth=0.4, alpha=0.7)
    broken = len(facts["broken_bonds"])
    b_axis.set(
        xlabel="time, ps", ylabel="bond lengths, Å", title=f"{broken} bonds broken" if broken else "no bond broken"
    )
    h_axis.plot(*distance_distribution(frames), label="this trajectory")
    if reference:
        h_axis.plot(*distance_distribution(reference), "--", label="reference")
        h_axis.set_title(f"overlap {facts.get('distance_overlap', np.nan):.3f}")
        h_axis.legend(frameon=False)
    h_axis.set(xlabel="distance, Å", ylabel="h(r), 1/Å")
    if len(frames) > 8:
        interval = float(np.median(np.diff(steps))) * time_step
        wavenumber, density = vibrational_density(frames, interval)
        v_axis.plot(wavenumber, density, linewidth=0.8)
        v_axis.set_xlim(0, min(4500, wavenumber[-1]))
    v_axis.set(xlabel="wavenumber, 1/cm", ylabel="vibrational density of states, cm")
    known = [k for k, a in enumerate(frames) if "homo" in a.info]
    for name, colour in (("homo", "tab:blue"), ("lumo", "tab:red")):
        level = np.array([frames[k].info[name] for k in known])
        o_axis.plot(time[known], level, color=colour, linewidth=0.8, label=name.upper())
        if known and "doubt" in frames[known[0]].info:
            doubt = np.array([frames[k].info["doubt"] for k in known])
            o_axis.fill_between(time[known], level - doubt, level + doubt, color=colour, alpha=0.25, linewidth=0)
    if known:
        o_axis.legend(frameon=False)
    else:
        o_axis.text(0.5, 0.5, "no model of orbitals given", ha="center", transform=o_axis.transAxes)
    o_axis.set(xlabel="time, ps", ylabel="orbital energies and their doubt, eV")
    figure.suptitle(title)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format=path.suffix[1:] or "png")
