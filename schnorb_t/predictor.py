"""A trained model at work: structures in, Hamiltonians, overlaps and orbitals out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from ase import Atoms

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import structures_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.errors import UserError
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.nn.ensemble import EnsembleModel
from schnorb_t.physics.eigen import orbitals_checked
from schnorb_t.prediction import Origin, Prediction
from schnorb_t.progress import progress_bar
from schnorb_t.sparse_prediction import SparsePrediction
from schnorb_t.structures import Structure, as_structure, check_structures, describe
from schnorb_t.training.checkpoint import ModelCard, find_model, load_model

#: Atoms above which H and S are sparse matrices.
SPARSE_ABOVE = 1000


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; by default CUDA where there is one.

    Raises:
        UserError: no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {str(device)!r} cannot be used here ({reason}); take --device cpu") from None
    return chosen


class Predictor:
    """Predicts molecules with a trained model.

    Args:
        model: is moved to ``device`` and switched to evaluation.
        card: what the checkpoint says of it.
        device: by default CUDA where there is one.
        dtype: of the network, ``torch.float32`` or ``torch.float64``; orbitals are always computed in float64.
        name: what to call it in pages and messages.
        sparse_above: atoms (default: ``SPARSE_ABOVE``); larger molecules become a ``SparsePrediction``, others a
            ``Prediction``.
    """

    def __init__(
        self,
        model: MatrixNetwork,
        card: ModelCard,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        name: str = "",
        sparse_above: int | None = None,
    ):
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.device, self.card = choose_device(device), card
        self.sparse_above = SPARSE_ABOVE if sparse_above is None else sparse_above
        self.origin = Origin(name, card.target, card.method, not isinstance(model, EnsembleModel))
        # float32 is what checkpoints hold; a cast would spoil the tables that are float64 in any case
        self.model = (model.double() if dtype == torch.float64 else model).to(self.device).eval()

    @property
    def basis(self) -> Basis:
        """Shells of the elements that the model knows."""
        return self.model.basis

    @property
    def charges(self) -> tuple[int, ...]:
        """Total charges (e) of molecules that the model can treat: those it was trained on."""
        return self.card.charges if self.model.knows_charge else (0,)

    @property
    def knows_doubt(self) -> bool:
        """Whether predictions carry a standard deviation of each level."""
        return self.model.knows_doubt

    @overload
    def predict(
        self, structures: Atoms | Structure, batch_size: int | None = None, progress: bool = False
    ) -> Prediction: ...

    @overload
    def predict(
        self, structures: Sequence[Atoms | Structure], batch_size: int | None = None, progress: bool = False
    ) -> list[Prediction]: ...

    def predict(self, structures, batch_size=None, progress=False):
        """Predict one molecule or a list of molecules.

        Args:
            structures: ASE ``Atoms`` (positions in Å), a ``Structure``, or a sequence of them, of any size and
                composition.
            batch_size: molecules at once; by default as many small or few large ones as go well together.
            progress: show a progress bar.

        Returns:
            a ``Prediction``, or a list of them in input order; in place of it a ``SparsePrediction`` for molecules of
            more than ``sparse_above`` atoms.

        Raises:
            UserError: a structure that the model cannot treat (``schnorb_t.structures``), before any work.
        """
        if isinstance(structures, Atoms | Structure):
            return self.predict([structures], batch_size)[0]
        structures = list(structures)
        out: list[Prediction | None] = [None] * len(structures)
        with progress_bar(len(structures), "predicting", progress) as advance:
            for batch in self.predict_batches(structures, batch_size):
                for place, prediction in batch:
                    out[place] = prediction
                advance(len(batch))
        return out

    def predict_batches(
        self,
        structures: Sequence[Atoms | Structure],
        batch_size: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Iterator[list[tuple[int, Prediction]]]:
        """Predict many molecules, batch after batch, holding the matrices of one batch only.

        Args:
            structures: all are checked before the first is predicted.
            batch_size: as in ``predict``.
            indices: what to call each structure in the results and messages; its place in the list if left out.

        Yields:
            for each batch the index and prediction of each of its molecules (``SparsePrediction`` above
            ``sparse_above`` atoms); large molecules come first.

        Raises:
            UserError: as ``predict``.
        """
        indices = range(len(structures)) if indices is None else indices
        structures = [as_structure(x) for x in structures]
        check_structures(structures, self.basis.elements, charges=self.charges)
        sizes = [len(atoms) for atoms in structures]
        for places in batches_by_size(sizes, batch_size, self.device.type, self.sparse_above) if sizes else []:
            yield from self._predict(structures, indices, places)

    def _predict(self, structures, indices, places) -> Iterator[list[tuple[int, Prediction]]]:
        """One batch; in halves where the device has not the memory for it."""
        try:
            result = self._predict_batch([structures[p] for p in places], [indices[p] for p in places])
        except torch.OutOfMemoryError:
            if len(places) == 1:
                name = describe(indices[places[0]], structures[places[0]])
                raise UserError(f"{name}: does not fit into the memory of {self.device}; take --device cpu") from None
        else:
            yield result
            return
        half = len(places) // 2
        yield from self._predict(structures, indices, places[:half])
        yield from self._predict(structures, indices, places[half:])

    @torch.no_grad()
    def _predict_batch(self, structures: list[Structure], indices: list[int]) -> list[tuple[int, Any]]:
        batch = structures_to_batch(
            [a.numbers for a in structures],
            [a.positions for a in structures],
            self.basis,
            self.model.cutoff,
            [a.charge for a in structures],
        )
        batch = to_device(batch, self.device)
        if len(structures) == 1 and len(structures[0]) > self.sparse_above and self.model.gives_sparse:
            return [(indices[0], self._sparse(structures[0], batch))]
        out = self.model(batch)
        hamiltonian, overlap = out[keys.HAMILTONIAN].double(), out[keys.OVERLAP].double()
        names = [describe(i, a) for i, a in zip(indices, structures, strict=True)]
        energies, coefficients = orbitals_checked(out, batch[keys.ORBITAL_MASK], names)
        arrays = [x.cpu().numpy() for x in (hamiltonian, overlap, energies, coefficients)]
        deviations = self.model.standard_deviations(out, energies, coefficients, batch[keys.ORBITAL_MASK])
        spread = None if deviations is None else deviations.cpu().numpy()
        result = []
        for k, (index, atoms) in enumerate(zip(indices, structures, strict=True)):
            m = int(self.basis.n_orbitals(atoms.numbers).sum())
            h, s, e, c = (x[k][(slice(m),) * (x.ndim - 1)].copy() for x in arrays)
            z = atoms.numbers.astype(np.int64)
            d = None if spread is None else spread[k, :m].copy()
            more = {} if (masses := atoms.isotope_masses) is None else {"masses": masses}
            found = Prediction(
                z, atoms.positions.copy(), self.basis, h, s, e, c, atoms.name, d, more, self.origin, atoms.charge
            )
            result.append((index, found))
        return result

    def _sparse(self, atoms: Structure, batch: dict[str, torch.Tensor]) -> SparsePrediction:
        """Of one large molecule."""
        made = self.model.sparse_matrices(self.model.blocks(batch))
        more = {} if (masses := atoms.isotope_masses) is None else {"masses": masses}
        return SparsePrediction(
            atoms.numbers.astype(np.int64),
            atoms.positions.copy(),
            self.basis,
            made[keys.OVERLAP],
            made[keys.HAMILTONIAN],
            self.model.orthogonal,
            atoms.name,
            more,
            self.origin,
            atoms.charge,
        )

    def __repr__(self):
        return f"Predictor of {self.basis} on {self.device}: {self.model.n_parameters():,} parameters"


def load(
    model: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    sparse_above: int | None = None,
) -> Predictor:
    """A trained model, ready to predict.

    Args:
        model: path of a checkpoint, or the name of a model that comes with the package (``"qm9"``).
        device, dtype, sparse_above: see ``Predictor``.

    Raises:
        UserError: no such model, or not a checkpoint of this package.
    """
    path = find_model(model)
    return Predictor(*load_model(path), device=device, dtype=dtype, name=path.stem, sparse_above=sparse_above)
