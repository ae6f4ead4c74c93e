"""ASE calculator of DFTB2 and DFTB3 with Slater-Koster files: optimisers, vibrations and dynamics of ASE run on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols

from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.physics.dftb import DFTB as Model
from schnorb_t.physics.energies import RepulsiveEnergy
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.units import BOHR, HARTREE

#: Å, atoms nearer than this are taken for one atom given twice.
COINCIDING = 0.1


class DFTB(Calculator):
    """``atoms.calc = DFTB("3ob-3-1", order=3)``.

    ``free_energy`` (eV) is what ``forces`` (eV/Å) are derivatives of, and so what dynamics conserve: Mermin's where
    levels are smeared. ``energy`` (eV) is without the electrons' entropy, the same without smearing.
    ``charges`` [n] (Mulliken, e); ``dipole`` [3] (e*Å, from the charges, about the centre of mass);
    ``orbital_energies`` and ``occupations`` [m] (eV; electrons), ``homo``, ``lumo``, ``gap`` (eV).

    Args:
        skf: folder of the set. Only files of the elements that are met are read.
        order: 2 or 3.
        charge: e, of the whole molecule. ``atoms.info["charge"]`` goes before it.
        smearing: Eh, width of Fermi-Dirac filling (k_B T), or a ``Smearing``; 0 for none.
        shell_resolved, hubbard_derivatives, damping_exponent: see ``schnorb_t.physics.dftb.DFTB``.
        repulsion: instead of the set's own: the checkpoint of a network that learned it (``schnorb_t fit --config
            nnrep``), or a function or module, batch -> [B] Eh, differentiable in the positions of the batch
            (``schnorb_t.physics.energies.RepulsiveEnergy``).
        tolerance, max_iterations, mixing: of the charges, see ``self_consistent_charges``.

    Raises:
        UserError: no such folder. Later, in one line: a missing or damaged file, an element without parameters, an odd
            number of electrons without smearing, a periodic structure, atoms that coincide, charges that do not
            converge.
    """

    implemented_properties = [
        "energy",
        "free_energy",
        "forces",
        "charges",
        "dipole",
        "orbital_energies",
        "occupations",
        "homo",
        "lumo",
        "gap",
    ]

    def __init__(
        self,
        skf: str | Path,
        order: int = 3,
        charge: float = 0.0,
        smearing: float | Smearing = 0.0,
        shell_resolved: bool = False,
        hubbard_derivatives: Mapping[str | int, float] | None = None,
        damping_exponent: float | None = None,
        repulsion: RepulsiveEnergy | str | Path | None = None,
        tolerance: float = 1e-10,
        max_iterations: int = 200,
        mixing: float = 0.3,
    ):
        super().__init__()
        self.folder, self.charge = Path(skf), charge
        if not self.folder.is_dir():
            raise UserError(f"{skf}: no such folder; give the folder of a Slater-Koster set (files A-B.skf)")
        if order not in (2, 3):
            raise UserError(f"order={order!r}: DFTB is there in second and third order; give 2 or 3")
        if isinstance(repulsion, str | Path):
            from schnorb_t.interfaces.learned_repulsion import LearnedRepulsion

            repulsion = LearnedRepulsion(repulsion, self.folder.resolve().name, order)
        self.repulsion = repulsion
        if not isinstance(smearing, Smearing):
            smearing = Smearing("fermi-dirac", smearing) if smearing else ZERO_TEMPERATURE
        self.options: dict[str, Any] = {
            "order": order,
            "shell_resolved": shell_resolved,
            "hubbard_derivatives": hubbard_derivatives,
            "damping_exponent": damping_exponent,
            "smearing": smearing,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
            "mixing": mixing,
        }
        self._models: dict[frozenset[int], Model] = {}
        self._last_charge: float | None = None

    def model(self, numbers: np.ndarray) -> Model:
        """The method with tables of these elements; read once."""
        elements = frozenset(map(int, numbers))
        if elements not in self._models:
            model = Model(read_skf_set(self.folder, elements), repulsion=self.repulsion, **self.options)
            self._models[elements] = model.requires_grad_(False) if self.repulsion is None else model
        return self._models[elements]

    def check_state(self, atoms, tol=1e-15):
        """As ASE's, which does not look at ``atoms.info``."""
        changes = super().check_state(atoms, tol)
        if self._charge_of(atoms) != self._last_charge and "initial_charges" not in changes:
            changes.append("initial_charges")
        return changes

    def _charge_of(self, atoms: Atoms) -> float:
        charge = atoms.info.get("charge", self.charge)
        try:
            return float(charge)
        except (TypeError, ValueError):
            raise UserError(f"{_name(atoms)}: charge {charge!r} is no number") from None

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        """Solve one structure; everything is computed at once."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # the line above sets it
        atoms, name = self.atoms, _name(self.atoms)
        charge = self._charge_of(atoms)
        _check(atoms, name)
        model = self.model(atoms.numbers)
        electrons = float(model.valence_charges[atoms.numbers].sum()) - charge
        capacity = 2 * int(model.basis.n_orbitals(atoms.numbers).sum())
        if not 0 < electrons < capacity:
            raise UserError(
                f"{name}: charge {charge:+g} leaves {electrons:g} electrons for {capacity // 2} orbitals; mend it"
            )
        if self.options["smearing"].kind == "none" and abs(electrons / 2 - round(electrons / 2)) > 1e-9:
            raise UserError(
                f"{name}: {electrons:g} valence electrons fill no closed shell; is an atom missing? Else give "
                "charge=... or smearing=0.001 (Eh), which fills levels in part"
            )
        batch = structures_to_batch([atoms.numbers], [atoms.positions], model.basis, 1.0)
        result, forces = model.energy_and_forces(batch, torch.tensor([charge], dtype=torch.float64), [name])
        state = result.scc.state
        levels, occupations = state.energies[0].numpy() * HARTREE, state.occupations[0].numpy()
        n_occupied = int(np.ceil(electrons / 2 - 1e-9))
        homo, lumo = levels[n_occupied - 1], levels[n_occupied] if n_occupied < len(levels) else np.nan
        free = result.energy.item() * HARTREE
        charges = result.charges.numpy()
        self.results = {
            "energy": free - result.parts["mermin"].item() * HARTREE,
            "free_energy": free,
            "forces": forces.numpy() * (HARTREE / BOHR),
            "charges": charges,
            "dipole": charges @ (atoms.positions - atoms.get_center_of_mass()),
            "orbital_energies": levels,
            "occupations": occupations,
            "homo": homo,
            "lumo": lumo,
            "gap": lumo - homo,
        }
        self._last_charge = charge


def _name(atoms: Atoms) -> str:
    return str(atoms.info.get("name") or atoms.get_chemical_formula() or "structure")


def _check(atoms: Atoms, name: str) -> None:
    if len(atoms) == 0:
        raise UserError(f"{name}: has no atoms")
    if (atoms.numbers == 0).any():
        raise UserError(f"{name}: holds an atom X without element; remove it")
    if not np.isfinite(atoms.positions).all():
        raise UserError(f"{name}: positions are not finite; mend them (did an optimisation or dynamics run away?)")
    if atoms.pbc.any():
        raise UserError(f"{name}: is periodic, and this DFTB is for molecules; switch periodicity off (pbc)")
    distances = atoms.get_all_distances() + np.diag(np.full(len(atoms), np.inf))
    i, j = divmod(int(distances.argmin()), len(atoms))
    if distances[i, j] < COINCIDING:
        a, b = (chemical_symbols[atoms.numbers[k]] for k in (i, j))
        raise UserError(f"{name}: atoms {i} ({a}) and {j} ({b}) are {distances[i, j]:.3f} Å apart; is one there twice?")
