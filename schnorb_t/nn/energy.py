"""Energies and forces of molecules: an atomwise model on the package's interactions.

The energy is a sum over atoms, E = E_0 + sum_i (e_Z(i) + s eps_i): e_Z are energies per element, fitted to the labels
in closed form, E_0 a mean, s the root mean square of the labelled forces, and eps_i is read from the invariant features
of atom i after the interactions (SchNet, Schütt et al., J. Chem. Phys. 148, 241722 (2018), with equivariant messages).
Forces are

- ``conservative``: F = -dE/dR, by automatic differentiation; energy is conserved in dynamics;
- ``direct``: a vector per atom read from its 1o features (as Tensor Field Networks do, Thomas et al., 2018), from which
  net force and net torque of each molecule are projected out. Three times as fast, and no gradient of any energy.

Messages, electrostatics and whatever else depends on a distance end with continuous slope and curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.harmonics import bond_frames, wigner_d
from schnorb_t.nn.base import EnergyNetwork
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.electrostatics import Electrostatics, Response
from schnorb_t.nn.embedding import AtomEmbedding
from schnorb_t.nn.interaction import Interaction
from schnorb_t.nn.o2 import Features
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.units import BOHR

#: How forces are made.
CONSERVATIVE, DIRECT = "conservative", "direct"
_COUNTS = ("charge_channels",)
_POSITIVE = ("interactions", "n_radial", "hidden", "product_channels")


@dataclass
class MessageGeometry:
    """What interactions read of a batch (``nn.geometry.PairGeometry`` without the blocks of matrices).

    Attributes:
        batch: the batch itself.
        element, element_i, element_j: [N], [P], [P], rows of tables over the elements.
        distance: [P], Å.
        wigner: D^l [P, 2l+1, 2l+1] of the rotations into the bonds' frames.
    """

    batch: dict[str, Tensor]
    element: Tensor
    element_i: Tensor
    element_j: Tensor
    distance: Tensor
    wigner: list[Tensor]
    _cast: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)

    def near(self, cutoff: float) -> MessageGeometry:
        """Itself: it has no pairs but those that messages are for (``nn.geometry.PairGeometry.near``)."""
        return self

    def rotations(self, dtype: torch.dtype) -> list[Tensor]:
        """The D^l in the network's precision."""
        if dtype not in self._cast:
            self._cast[dtype] = [d.to(dtype) for d in self.wigner]
        return self._cast[dtype]


def without_net_force(forces: Tensor, positions: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
    """Forces [N, 3] less the smallest change that makes force and torque of every molecule vanish.

    Net force: its mean is taken from every atom. Net torque tau: F_i - omega x r_i with I omega = tau, r_i from the
    centre of the atoms and I = sum_i (r_i^2 - r_i r_i^T), both of unit masses.

    Args:
        forces: [N, 3].
        positions: [N, 3], any unit.
        molecule: [N], of each atom.
        n_molecules: how many.
    """
    count = scatter_sum(torch.ones_like(forces[:, :1]), molecule, n_molecules)
    forces = forces - (scatter_sum(forces, molecule, n_molecules) / count)[molecule]
    r = positions - (scatter_sum(positions, molecule, n_molecules) / count)[molecule]
    torque = scatter_sum(torch.linalg.cross(r, forces), molecule, n_molecules)
    square = r.square().sum(1)[:, None, None]
    eye = torch.eye(3, dtype=r.dtype, device=r.device)
    inertia = scatter_sum(square * eye - r[:, :, None] * r[:, None], molecule, n_molecules)
    # a linear molecule has no torque about its axis, and no inertia; a single atom has neither
    floor = 1e-10 * inertia.diagonal(dim1=1, dim2=2).sum(1) + 1e-10
    omega = torch.linalg.solve(inertia + floor[:, None, None] * eye, torque)
    return forces - torch.linalg.cross(omega[molecule], r)


class EnergyModel(EnergyNetwork, known_as="energy"):
    """Energy and forces of molecules.

    Args:
        basis: names the elements; its functions play no part.
        irreps: channels of each irrep of an atom's features, ``0e`` among them, ``1o`` too for direct forces.
        interactions: rounds of messages.
        cutoff: Å, range of one round.
        n_radial: Bessel functions of the distance that filter networks read.
        hidden: width of the filter networks and of the readout.
        product_channels: channels of the self-products.
        charge_channels: sets of latent charges and dipoles whose potential every atom feels; 0: none, and what is
            farther than ``interactions * cutoff`` is not felt.
        forces: ``conservative`` or ``direct``.
        constants: numbers of ``nn.constants`` other than today's, as a checkpoint names them.

    Raises:
        ValueError: irreps, channels or constants that cannot be.
    """

    def __init__(
        self,
        basis: Basis,
        irreps: str = "32x0e+16x1o+8x2e",
        interactions: int = 3,
        cutoff: float = 5.0,
        n_radial: int = 8,
        hidden: int = 32,
        product_channels: int = 8,
        charge_channels: int = 0,
        forces: str = CONSERVATIVE,
        constants: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.constants = Constants.of(constants)
        self.basis, self.cutoff, self.forces = basis, cutoff, forces
        parsed = o3.Irreps(irreps)
        n, scalars, vectors = len(basis.elements), parsed.count("0e"), parsed.count("1o")
        self.l_max = max(1, *(ir.l for _, ir in parsed))
        self.register_buffer("lookup", torch.from_numpy(basis.element_row_table), persistent=False)
        self.embedding = AtomEmbedding(n, scalars)
        self.interactions = nn.ModuleList(
            Interaction(
                irreps if k else f"{scalars}x0e",
                irreps,
                n,
                cutoff,
                n_radial,
                hidden,
                product_channels,
                self.constants,
            )
            for k in range(interactions)
        )
        self.electrostatics = self.response = None
        if charge_channels:
            self.electrostatics = Electrostatics(scalars, vectors, charge_channels, cutoff, self.constants)
            self.response = Response(irreps, charge_channels, product_channels, self.constants)
        self.readout = nn.Sequential(nn.Linear(scalars, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        if forces == DIRECT:
            self.vector = nn.Linear(vectors, hidden, bias=False)
            self.vector_gate = nn.Sequential(nn.Linear(scalars, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        #: Eh, of the electrons of a whole molecule; per element; and of eps
        self.register_buffer("mean_energy", torch.zeros((), dtype=torch.float64))
        self.register_buffer("element_energy", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(0.02, dtype=torch.float64))

    @classmethod
    def faults(cls, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """See ``Network.faults``."""
        for names, least in ((_POSITIVE, 1), (_COUNTS, 0)):
            yield from ((n, f"{least} or more") for n in names if n in arguments and not arguments[n] >= least)
        if "cutoff" in arguments and not 0 < arguments["cutoff"] < math.inf:
            yield "cutoff", "a length above 0, Å"
        if arguments.get("forces", DIRECT) not in (CONSERVATIVE, DIRECT):
            yield "forces", f"{CONSERVATIVE} or {DIRECT}"
        try:
            irreps = o3.Irreps(arguments.get("irreps", "1x0e+1x1o"))
        except ValueError:
            yield "irreps", "irreps with channels, such as 32x0e+16x1o+8x2e"
        else:
            if len({ir for _, ir in irreps}) < len(irreps):
                yield "irreps", "irreps of which each stands once"
            if irreps.count("0e") < 1:
                yield "irreps", "irreps with 0e among them"
            if irreps.count("1o") < 1 and (arguments.get("forces") == DIRECT or arguments.get("charge_channels")):
                yield "irreps", "irreps with 1o among them, which direct forces and electrostatics are made of"

    # ---- prediction -----------------------------------------------------------------------------------------------

    def geometry(self, batch: dict[str, Tensor]) -> MessageGeometry:
        """Distances and rotations of the pairs of a batch, in the network's precision."""
        i, j = batch[keys.PAIR_INDEX]
        positions = batch[keys.POSITIONS]
        # differences before rounding, so that translation costs nothing
        bond = (positions.index_select(0, j) - positions.index_select(0, i)).to(self.embedding.table.weight.dtype)
        element = self.lookup[batch[keys.ATOMIC_NUMBERS]]
        wigner = wigner_d(bond_frames(bond), self.l_max)
        return MessageGeometry(batch, element, element[i], element[j], bond.norm(dim=1), wigner)

    def features(self, batch: dict[str, Tensor]) -> tuple[MessageGeometry, Features]:
        """What the readout reads: geometry and features of the atoms after the last interaction."""
        g = self.geometry(batch)
        x = {"0e": self.embedding(g.element)[:, None]}
        for interaction in self.interactions:
            x = interaction(x, g)
        if self.electrostatics is not None:
            x = self.response(x, *self.electrostatics(x, g))
        return g, x

    def _energy(self, g: MessageGeometry, x: Features) -> Tensor:
        """[B], Eh, float64."""
        eps = self.readout(x["0e"][:, 0])[:, 0].double()
        each = self.element_energy[g.element] + self.scale * eps
        return self.mean_energy + scatter_sum(each, g.batch[keys.MOLECULE], len(g.batch[keys.N_ATOMS]))

    def energy(self, batch: dict[str, Tensor]) -> Tensor:
        """[B], Eh, float64; differentiable twice by ``batch["positions"]``."""
        return self._energy(*self.features(batch))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``total_energy`` [B], Eh, and ``forces`` [N, 3], Eh/Bohr, float64.

        Forces are differentiable by the weights where gradients are recorded. Conservative ones are computed under
        ``torch.no_grad`` and ``torch.inference_mode`` too.
        """
        if torch.is_inference_mode_enabled() and self.forces == CONSERVATIVE:
            # tensors made in inference mode can have no gradient: copies can
            with torch.inference_mode(False), torch.no_grad():
                return self({name: x.clone() for name, x in batch.items()})
        if self.forces == DIRECT:
            g, x = self.features(batch)
            vectors = (self.vector(x["1o"]) * self.vector_gate(x["0e"][:, 0])[:, None]).sum(-1)
            # y z x -> x y z
            raw = self.scale * vectors.roll(1, -1).double()
            molecule, n = batch[keys.MOLECULE], len(batch[keys.N_ATOMS])
            forces = without_net_force(raw, batch[keys.POSITIONS].double(), molecule, n)
            return {keys.TOTAL_ENERGY: self._energy(g, x), keys.FORCES: forces}
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            positions = batch[keys.POSITIONS].double()
            positions = positions if positions.requires_grad else positions.detach().requires_grad_()
            energy = self.energy({**batch, keys.POSITIONS: positions})
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=record)
        energy = energy if record else energy.detach()
        return {keys.TOTAL_ENERGY: energy, keys.FORCES: -BOHR * gradient}

    # ---- closed-form start -------------------------------------------------------------------------------------------

    def fit_reference(self, batches: Callable[[], Iterable[dict[str, Tensor]]]) -> None:
        """Energies per element by least squares (smallest norm, about the mean), scale by the forces.

        Of one composition alone everything stands in the mean.
        """
        counts, energies, square, n = [], [], 0.0, 0
        for batch in batches():
            element = self.lookup[batch[keys.ATOMIC_NUMBERS]]
            one_hot = nn.functional.one_hot(element, len(self.basis.elements)).double()
            if keys.TOTAL_ENERGY in batch:
                there = batch[keys.present(keys.TOTAL_ENERGY)]
                counts.append(scatter_sum(one_hot, batch[keys.MOLECULE], len(there))[there])
                energies.append(batch[keys.TOTAL_ENERGY][there])
            if keys.FORCES in batch:
                there = batch[keys.present(keys.FORCES)][batch[keys.MOLECULE]]
                square += float(batch[keys.FORCES][there].square().sum())
                n += 3 * int(there.sum())
        if energies and len(e := torch.cat(energies)):
            c = torch.cat(counts)
            spread = c - c.mean(0)
            self.mean_energy.copy_(e.mean())
            if float(spread.abs().max()) > 0:
                each = torch.linalg.lstsq(spread, (e - e.mean())[:, None], rcond=1e-8, driver="gelsd").solution[:, 0]
                self.element_energy.copy_(each)
                self.mean_energy.copy_(e.mean() - c.mean(0) @ each)
            if not n:
                left = e - self.mean_energy - c @ self.element_energy
                square, n = float(left.square().sum() / c.sum(1).mean()), len(e)
        if n:
            self.scale.fill_(max(1e-4, (square / n) ** 0.5))

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.forces} forces, cutoff {self.cutoff} Å"
