"""What every network is to the rest of the package: training, checkpoints, prediction and exports know this alone."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import scipy.sparse
from torch import Tensor, nn

from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockMatrix
from schnorb_t.nn.constants import Constants

#: H, S [B, M, M], orbital mask [B, M], electrons [B], temperature in K -> density matrix [B, M, M]. Electronic
#: structure that a network takes as input is handed in as such a function: networks know no physics.
DensityMatrix = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
_NETWORKS: dict[str, type[Network]] = {}


@dataclass(frozen=True)
class Transfer:
    """What another training may take of a network's weights (``training.transfer``), by their names.

    Attributes:
        trunk: parts (first word of a name) that have nothing to do with the basis.
        closed_form: parts that follow from labels in closed form; labels of another level of theory give them anew.
        doubt: parts that are drawn for one model; taken where they fit, left as they are elsewhere.
        prior: parts that exist only with a prior.
        ions: parts that exist only in networks that know the total charge; they begin anew where the other has none.
        per_element, per_pair: expressions for names of tables with a row per element, per ordered pair of elements.
    """

    trunk: tuple[str, ...] = ()
    closed_form: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()
    prior: tuple[str, ...] = ()
    ions: tuple[str, ...] = ()
    per_element: re.Pattern[str] = re.compile(r"(?!)")
    per_pair: re.Pattern[str] = re.compile(r"(?!)")


class Network(nn.Module, ABC):
    """Molecules in, what was learned of them out. ``class Mine(MatrixNetwork, known_as="mine")`` makes one known.

    Attributes:
        name: what checkpoints call the architecture.
        basis: shells of the elements that it knows.
        cutoff: Å, pairs farther apart do not see each other.
        constants: numbers that decide what it computes, beside arguments and weights; checkpoints name them.
        transfer: what a training that starts from it takes over.
    """

    name: ClassVar[str]
    transfer: ClassVar[Transfer] = Transfer()
    basis: Basis
    cutoff: float
    constants: Constants

    # not ``name``, which Python 3.10's ABCMeta keeps to itself
    def __init_subclass__(cls, known_as: str | None = None, **more: Any):
        super().__init_subclass__(**more)
        if known_as is not None:
            cls.name = known_as
            _NETWORKS[known_as] = cls

    @classmethod
    def build(cls, basis: Basis, arguments: Mapping[str, Any], density: DensityMatrix) -> Network:
        """A network with random weights.

        Args:
            basis: of what it predicts.
            arguments: of the class besides the basis, as checkpoints hold them.
            density: for networks that take electronic structure as input.

        Raises:
            ValueError: arguments that cannot be.
        """
        return cls(basis, **arguments)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The arguments that checkpoints hold, with their defaults; None stands also for what has none."""
        skipped = ("self", "basis", "density")
        parameters = [p for name, p in inspect.signature(cls.__init__).parameters.items() if name not in skipped]
        return {p.name: None if p.default is p.empty else p.default for p in parameters}

    @classmethod
    def faults(cls, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(argument, what it must be) of each value that no network of this kind can have."""
        return iter(())

    @abstractmethod
    def fit_reference(self, batches: Callable[[], Iterable[dict[str, Tensor]]]) -> None:
        """Whatever has a closed form, from labelled batches, which ``batches`` gives anew at every call."""

    def slow_parameters(self) -> list[nn.Parameter]:
        """Those that start near their optimum and take small steps without weight decay; none unless overridden."""
        return []

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What is trained at full rate, and ``slow_parameters``; frozen ones are in neither."""
        slow = [p for p in self.slow_parameters() if p.requires_grad]
        known = {id(p) for p in slow}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in known], slow

    @property
    def knows_charge(self) -> bool:
        """Whether it reads the total charge of molecules; others know neutral ones only."""
        return False

    @property
    def knows_doubt(self) -> bool:
        """Whether it tells a standard deviation of each level."""
        return False

    def n_parameters(self) -> int:
        """Numbers in the network, those of a prior included."""
        return sum(p.numel() for p in self.parameters())


class EnergyNetwork(Network):
    """Molecules in, energies and forces out.

    Attributes:
        forces: how it makes them, ``"conservative"`` (minus the gradient of its energy) or ``"direct"``.
    """

    forces: str

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``total_energy`` [B], Eh, and ``forces`` [N, 3], Eh/Bohr, float64, from ``structures_to_batch``."""


class MatrixNetwork(Network):
    """Molecules in, Hamiltonian and overlap out.

    Attributes:
        cutoff: Å, pairs farther apart have no block.
        orthogonal: H is learned in Löwdin's orthogonal functions.
        prior: what it takes of a cheaper method's electronic structure (``nn.prior``), or None.
    """

    orthogonal: bool
    prior: nn.Module | None

    @abstractmethod
    def blocks(self, batch: dict[str, Tensor]) -> dict[str, BlockMatrix]:
        """A batch -> blocks of every field that it predicts, float64."""

    @abstractmethod
    def matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> padded ``hamiltonian`` (Eh) and positive definite ``overlap`` [B, M, M], float64."""

    @abstractmethod
    def learned_matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> what losses compare, padded float64 [B, M, M]."""

    @abstractmethod
    def drop_learned(self) -> None:
        """Silence what gradients have trained, so that the closed-form start alone predicts, in place."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``hamiltonian`` (Eh) and ``overlap``, padded float64 [B, M, M], from ``data.batch.structures_to_batch``."""
        return self.matrices(self.blocks(batch), batch)

    @property
    def gives_sparse(self) -> bool:
        """Whether it has ``sparse_matrices``."""
        return False

    def sparse_matrices(self, blocks: dict[str, BlockMatrix]) -> dict[str, scipy.sparse.csr_array]:
        """Blocks of one molecule -> ``hamiltonian`` (Eh; of an ``orthogonal`` network in Löwdin's orthogonal functions)
        and positive definite ``overlap``, as ``matrices`` gives them, without anything dense."""
        raise NotImplementedError(f"{self.name} has no sparse matrices")

    def standard_deviations(
        self, out: dict[str, Tensor], energies: Tensor, coefficients: Tensor, mask: Tensor
    ) -> Tensor | None:
        """Of each level, [B, M], Eh; None of a network that cannot tell.

        Args:
            out: its matrices (``forward``), in evaluation.
            energies: [B, M], Eh.
            coefficients: [B, M, M], columns are orbitals, C^T S C = 1.
            mask: [B, M] bool, real orbitals.
        """
        return None


def networks(kind: type[Network] = Network) -> dict[str, type[Network]]:
    """Every architecture of this package, and of modules imported so far, by name; those of one kind alone."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return {name: found for name, found in sorted(_NETWORKS.items()) if issubclass(found, kind)}


def network(name: str) -> type[Network]:
    """The architecture of that name.

    Raises:
        ValueError: unknown; lists those there are.
    """
    if name not in _NETWORKS and name not in networks():
        raise ValueError(f"no network is called {name!r}; known: {', '.join(networks())}")
    return _NETWORKS[name]
