"""What every network is to the rest of the package: training, checkpoints, prediction and exports know this alone."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from schnorb_t.basis import Basis

#: On-site [N, K, K] and off-site [P, K, K] blocks.
Blocks = tuple[Tensor, Tensor]
_NETWORKS: dict[str, type[MatrixNetwork]] = {}


@dataclass(frozen=True)
class Transfer:
    """What another training may take of a network's weights (``training.transfer``), by their names.

    Attributes:
        trunk: parts (first word of a name) that have nothing to do with the basis.
        closed_form: parts that follow from labels in closed form; labels of another level of theory give them anew.
        doubt: parts that are drawn for one model; taken where they fit, left as they are elsewhere.
        prior: parts that exist only with a prior.
        per_element, per_pair: expressions for names of tables with a row per element, per ordered pair of elements.
    """

    trunk: tuple[str, ...] = ()
    closed_form: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()
    prior: tuple[str, ...] = ()
    per_element: re.Pattern[str] = re.compile(r"(?!)")
    per_pair: re.Pattern[str] = re.compile(r"(?!)")


class MatrixNetwork(nn.Module, ABC):
    """Molecules in, Hamiltonian and overlap out. ``class Mine(MatrixNetwork, known_as="mine")`` makes it known.

    Attributes:
        name: what checkpoints call the architecture.
        basis: shells of the elements that it knows.
        cutoff: Å, pairs farther apart have no block.
        orthogonal: H is learned in Löwdin's orthogonal functions.
        constants: numbers that decide what it computes, beside arguments and weights; checkpoints name them.
        transfer: what a training that starts from it takes over.
    """

    name: ClassVar[str]
    transfer: ClassVar[Transfer] = Transfer()
    basis: Basis
    cutoff: float
    orthogonal: bool
    constants: dict[str, Any]

    # not ``name``, which Python 3.10's ABCMeta keeps to itself
    def __init_subclass__(cls, known_as: str | None = None, **more: Any):
        super().__init_subclass__(**more)
        if known_as is not None:
            cls.name = known_as
            _NETWORKS[known_as] = cls

    @abstractmethod
    def blocks(self, batch: dict[str, Tensor]) -> dict[str, Blocks]:
        """A batch -> blocks of every field that it predicts, float64."""

    @abstractmethod
    def matrices(self, blocks: dict[str, Blocks], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> padded ``hamiltonian`` (Eh) and positive definite ``overlap`` [B, M, M], float64."""

    @abstractmethod
    def learned_matrices(self, blocks: dict[str, Blocks], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> what losses compare, padded float64 [B, M, M]."""

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

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``hamiltonian`` (Eh) and ``overlap``, padded float64 [B, M, M], from ``data.batch.structures_to_batch``."""
        return self.matrices(self.blocks(batch), batch)

    def n_parameters(self) -> int:
        """Numbers in the network, those of a prior included."""
        return sum(p.numel() for p in self.parameters())


def network(name: str) -> type[MatrixNetwork]:
    """The architecture of that name.

    Raises:
        ValueError: unknown; lists those there are.
    """
    if name not in _NETWORKS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(sorted(_NETWORKS))}")
    return _NETWORKS[name]
