"""From a minimal basis back to a large one: the contraction A (large x minimal) of a molecule, by linear functions.

A projected model predicts orbitals c in a minimal basis; in the large basis they are A c, and without A a large-basis
SCF cannot start from them. The free-atom contraction A0 = S^-1 S12 knows nothing of bonds. ``ContractionModel`` adds
what the geometry alone explains, in Löwdin's orthogonal functions of the large basis, where small eigenvalues of S do
no harm:

    S^(1/2) A = S^(-1/2) S12 + T

    T_ij (i != j) = f_ab,m(r_ij), the Slater-Koster form (Phys. Rev. 94, 1498 (1954)), for each element pair
    T_ii          = constants of the element + sum over neighbours j of such functions about the axis i -> j

All functions are linear in their coefficients, so that the fit to labelled molecules is one linear system per element
pair, and the file is small. T turns with the molecule exactly.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.harmonics import bond_frames, wigner_d
from schnorb_t.linalg import matrix_power, ridge_regression
from schnorb_t.nn.two_centre import BondFunctions
from schnorb_t.reference.pyscf import cross_overlap, overlap_integrals

FORMAT = 1
#: Of ``nn.two_centre.BondFunctions`` in files of this format: shortest centre (Å), width, decay (Å).
FUNCTIONS = 0.7, 1.3, 1.0
#: Coefficients that come with the package, one file per pair of bases.
SHIPPED = Path(__file__).parents[1] / "models"


class ContractionModel:
    """T of the module's formula for any molecule of its elements.

    Args:
        large, minimal: bases with Gaussian functions and the same elements; ``minimal`` is the projected one.
        cutoff: Å, of all functions of distance.
        n_radial: Gaussians per function.
    """

    def __init__(self, large: Basis, minimal: Basis, cutoff: float = 8.0, n_radial: int = 16):
        if large.elements != minimal.elements:
            raise UserError(f"{large} and {minimal} are for different elements")
        self.large, self.minimal, self.cutoff, self.n_radial = large, minimal, float(cutoff), int(n_radial)
        self._radial = BondFunctions(self.cutoff, self.n_radial, *FUNCTIONS)
        #: (shell of the large slots, shell of the minimal slots, |m|) of every function
        self.components = [
            (a, b, m)
            for a, la in enumerate(large.layout)
            for b, lb in enumerate(minimal.layout)
            for m in range(min(la, lb) + 1)
        ]
        n, c = len(large.elements), len(self.components)
        self.offsite = torch.zeros(n * n, self.n_radial, c, dtype=torch.float64)
        self.neighbours = torch.zeros(n * n, self.n_radial, c, dtype=torch.float64)
        self.constants = torch.zeros(n, c, dtype=torch.float64)  # of shells of equal l, in the place of m = 0
        self._row = torch.from_numpy(large.element_row_table)

    # ---- geometry --------------------------------------------------------------------------------------------------

    def _geometry(self, z: np.ndarray, positions: np.ndarray):
        """Batch dictionaries of both bases, pairs i, j, D^l, radial functions [P, n_radial] and element rows [N]."""
        large, minimal = (structures_to_batch([z], [positions], basis, self.cutoff) for basis in self._bases())
        i, j = large[keys.PAIR_INDEX]
        bond = large[keys.POSITIONS][j] - large[keys.POSITIONS][i]
        wigner = wigner_d(bond_frames(bond), max(self.large.l_max, self.minimal.l_max))
        return large, minimal, i, j, wigner, self._radial(bond.norm(dim=1)), self._row[large[keys.ATOMIC_NUMBERS]]

    def _bases(self) -> tuple[Basis, Basis]:
        return self.large, self.minimal

    def _pattern(self, a: int, b: int, m: int) -> Tensor:
        """Bond-frame block [2 l_a + 1, 2 l_b + 1] of one function."""
        la, lb = self.large.layout[a], self.minimal.layout[b]
        block = torch.zeros(2 * la + 1, 2 * lb + 1, dtype=torch.float64)
        for sign in {-1, 1} if m else {1}:
            block[la + sign * m, lb + sign * m] = 1.0
        return block

    def _shell_pairs(self):
        """Of every (large shell, minimal shell): both, their slots and the numbers of their functions."""
        for a, la in enumerate(self.large.layout):
            for b, lb in enumerate(self.minimal.layout):
                rows = slice(self.large.layout_offsets[a], self.large.layout_offsets[a] + 2 * la + 1)
                columns = slice(self.minimal.layout_offsets[b], self.minimal.layout_offsets[b] + 2 * lb + 1)
                members = [k for k, (p, q, _) in enumerate(self.components) if (p, q) == (a, b)]
                yield (a, la), (b, lb), rows, columns, members

    def _turned(self, a: int, b: int, la: int, lb: int, members: list[int], wigner: list[Tensor]) -> Tensor:
        """Patterns of a shell pair's functions in the molecule's frame, [P, functions, 2 l_a + 1, 2 l_b + 1]."""
        patterns = torch.stack([self._pattern(a, b, self.components[k][2]) for k in members])
        return torch.einsum("pxu,fxy,pyv->pfuv", wigner[la], patterns, wigner[lb])

    # ---- prediction ------------------------------------------------------------------------------------------------

    def change(self, atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """T [m, n] of one molecule, our order; ``positions`` [N, 3] in Å.

        Raises:
            KeyError: an element that the model does not know.
        """
        z = np.asarray(atomic_numbers, dtype=np.int64)
        large, minimal, i, j, wigner, radial, element = self._geometry(z, positions)
        n_elements = len(self.large.elements)
        pair = element[i] * n_elements + element[j]
        n, k_large, k_minimal = len(z), self.large.n_slots, self.minimal.n_slots
        off = torch.zeros(len(i), k_large, k_minimal, dtype=torch.float64)
        on = torch.zeros(n, k_large, k_minimal, dtype=torch.float64)
        values = torch.einsum("pk,pkc->pc", radial, self.offsite[pair])
        about = torch.einsum("pk,pkc->pc", radial, self.neighbours[pair])
        for (a, la), (b, lb), rows, columns, members in self._shell_pairs():
            turned = self._turned(a, b, la, lb, members, wigner)
            off[:, rows, columns] = torch.einsum("pf,pfuv->puv", values[:, members], turned)
            field = torch.einsum("pf,pfuv->puv", about[:, members], turned)
            on[:, rows, columns] = torch.zeros(n, *field.shape[1:], dtype=torch.float64).index_add_(0, i, field)
            if la == lb:
                eye = torch.eye(2 * la + 1, dtype=torch.float64)
                on[:, rows, columns] += self.constants[element, members[0]][:, None, None] * eye
        m_large, m_minimal = int(large[keys.ORBITAL_MASK].sum()), int(minimal[keys.ORBITAL_MASK].sum())
        out = torch.zeros(m_large + 1, m_minimal + 1, dtype=torch.float64)  # the last ones take unfilled slots
        row, column = large[keys.ORBITAL_INDEX], minimal[keys.ORBITAL_INDEX]
        out[row[:, :, None], column[:, None]] = on
        out[row[i][:, :, None], column[j][:, None]] = off
        return out[:-1, :-1].numpy()

    def orbitals(self, coefficients: np.ndarray, atomic_numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Orthonormal large-basis orbitals [m, k] nearest to A c for minimal-basis coefficients c [n, k], our order.

        Löwdin's orthonormalisation (J. Chem. Phys. 18, 365 (1950)); the span is what an SCF starts from.
        """
        overlap = overlap_integrals(self.large, atomic_numbers, positions)
        cross = cross_overlap(self.large, self.minimal, atomic_numbers, positions)
        inverse_root = matrix_power(overlap, -0.5)
        orthogonal = (inverse_root @ cross + self.change(atomic_numbers, positions)) @ coefficients
        orthogonal = orthogonal @ matrix_power(orthogonal.T @ orthogonal, -0.5)
        return inverse_root @ orthogonal

    # ---- fit -------------------------------------------------------------------------------------------------------

    def fit(
        self, molecules: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], ridge: float = 1e-4
    ) -> int:
        """Least squares to labelled molecules.

        Args:
            molecules: (atomic numbers [N], positions [N, 3] in Å, A [m, n], S [m, m]), our order.
            ridge: added to the normal matrices, relative to their mean diagonal.

        Returns:
            how many molecules there were.
        """
        n_elements, n_radial, count = len(self.large.elements), self.n_radial, 0
        normal = torch.zeros(n_elements**2, n_radial, n_radial, dtype=torch.float64)
        right = torch.zeros_like(self.offsite)
        pairs = list(self._shell_pairs())
        sizes = [n_elements * n_radial * len(members) + (la == lb) for (_, la), (_, lb), *_, members in pairs]
        on_normal = [torch.zeros(n_elements, s, s, dtype=torch.float64) for s in sizes]
        on_right = [torch.zeros(n_elements, s, dtype=torch.float64) for s in sizes]
        for z, positions, contraction, overlap in molecules:
            cross = cross_overlap(self.large, self.minimal, z, positions)
            target = matrix_power(overlap, 0.5) @ contraction - matrix_power(overlap, -0.5) @ cross
            target = torch.nn.functional.pad(torch.from_numpy(target), (0, 1, 0, 1))
            large, minimal, i, j, wigner, radial, element = self._geometry(np.asarray(z), positions)
            pair = element[i] * n_elements + element[j]
            row, column = large[keys.ORBITAL_INDEX], minimal[keys.ORBITAL_INDEX]
            on, off = target[row[:, :, None], column[:, None]], target[row[i][:, :, None], column[j][:, None]]
            normal.index_add_(0, pair, radial[:, :, None] * radial[:, None])
            for k, ((a, la), (b, lb), rows, columns, members) in enumerate(pairs):
                turned = self._turned(a, b, la, lb, members, wigner)
                size = turned.square().sum((2, 3))
                numbers = torch.einsum("pfuv,puv->pf", turned, off[:, rows, columns]) / size
                part = torch.zeros(n_elements**2, n_radial, len(members), dtype=torch.float64)
                right[:, :, members] += part.index_add_(0, pair, radial[:, :, None] * numbers[:, None])
                design = self._neighbour_design(i, element[j], radial, turned, len(z))
                if la == lb:
                    eye = torch.eye(2 * la + 1, dtype=torch.float64).reshape(1, 1, -1)
                    design = torch.cat((design, eye.expand(len(z), -1, -1)), 1)
                wanted = on[:, rows, columns].flatten(1)
                on_normal[k].index_add_(0, element, design @ design.mT)
                on_right[k].index_add_(0, element, (design @ wanted[:, :, None])[:, :, 0])
            count += 1
        self.offsite = ridge_regression(normal, right, ridge)
        for k, ((_, la), (_, lb), *_, members) in enumerate(pairs):
            solution = ridge_regression(on_normal[k], on_right[k][:, :, None], ridge)[:, :, 0]
            if la == lb:
                self.constants[:, members[0]] = solution[:, -1]
                solution = solution[:, :-1]
            self.neighbours[:, :, members] = solution.reshape(n_elements**2, n_radial, len(members))
        return count

    def _neighbour_design(self, i: Tensor, element_j: Tensor, radial: Tensor, turned: Tensor, n: int) -> Tensor:
        """[N, elements * n_radial * functions, entries]: what each neighbour function puts on an atom's block."""
        n_elements = len(self.large.elements)
        entries = turned.flatten(2)
        each = radial[:, :, None, None] * entries[:, None]  # [P, n_radial, functions, entries]
        out = torch.zeros(n * n_elements, *each.shape[1:], dtype=torch.float64)
        out.index_add_(0, i * n_elements + element_j, each)
        return out.reshape(n, -1, entries.shape[2])

    # ---- to and from a file ----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Everything into an ``.npz`` file, coefficients in single precision.

        Raises:
            UserError: the system refuses.
        """
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                format=FORMAT,
                large=self.large.to_json(),
                minimal=self.minimal.to_json(),
                cutoff=self.cutoff,
                offsite=self.offsite.float().numpy(),
                neighbours=self.neighbours.float().numpy(),
                constants=self.constants.float().numpy(),
            )

    @classmethod
    def load(cls, path: str | Path) -> ContractionModel:
        """From a file; nothing in it is executed.

        Raises:
            UserError: not there or not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["format"]) > FORMAT:
                    raise UserError(f"{path}: format {int(file['format'])} is newer than this package's {FORMAT}")
                large, minimal = Basis.from_json(str(file["large"])), Basis.from_json(str(file["minimal"]))
                model = cls(large, minimal, float(file["cutoff"]), file["offsite"].shape[1])
                for name in ("offsite", "neighbours", "constants"):
                    values = torch.from_numpy(file[name].astype(np.float64))
                    if values.shape != getattr(model, name).shape:
                        raise ValueError(f"{name} has the shape {tuple(values.shape)}")
                    setattr(model, name, values)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path}: no contraction coefficients ({error})") from None
        return model

    def __repr__(self):
        count = sum(int((t != 0).sum()) for t in (self.offsite, self.neighbours, self.constants))
        return f"ContractionModel {self.minimal.name} -> {self.large.name}, {count:,} coefficients"


@cache
def shipped_contractions() -> tuple[ContractionModel, ...]:
    """All that come with the package, read once per process."""
    return tuple(ContractionModel.load(path) for path in sorted(SHIPPED.glob("*.npz")))
