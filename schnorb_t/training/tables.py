"""Training of Slater-Koster tables on labels: H0, S, U, on-site energies and repulsions of a published set.

Charges are self-consistent in every step (``physics.scc`` differentiates the fixed point). Energies are compared about
an energy per element, which is refitted in closed form after every epoch. One folder holds everything: ``last.pt``
(goes on from there), ``tables.pt`` (the best epoch; ``load_tables`` reads it, ``schnorb_t export-skf`` makes files of
it), ``metrics.csv``, ``result.json``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from schnorb_t import keys
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, brief
from schnorb_t.files import atomic_write, write_text
from schnorb_t.physics.band_pass import BandPassLoss
from schnorb_t.physics.dftb import DFTBResult
from schnorb_t.physics.dipole import sum_over_molecules
from schnorb_t.physics.occupations import ZERO_TEMPERATURE, Smearing
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.physics.trainable_dftb import FEEDS, TrainableDFTB
from schnorb_t.training.table_targets import TableTarget, deviations

FORMAT = "schnorb_t trained tables 1"
#: Å, no pair of atoms is left out of anything here, so that the list of pairs plays no part.
_CUTOFF = 1.0


@dataclass
class TableSettings:
    """What ``configs/dftb.yaml`` may hold.

    Attributes:
        skf: folder of the published set that training starts from.
        data: store with the labels, ``sample`` for the one of this package; its splits train, val and test.
        folder: what the training leaves.
        train: what is trained, of ``hamiltonian, overlap, onsite, hubbard, hubbard_derivatives, repulsion``.
        pairs: whose: ``null`` for all, or names: ``Au`` (every pair with gold), ``C-H``.
        targets: names and weights, see ``TableTarget``.
        order: of DFTB, 2 or 3.
        shell_resolved: charges and U of shells.
        smearing: Eh, width of Fermi-Dirac filling; 0: none.
        table_spacing, repulsion_spacing: Bohr, between knots of corrections.
        repulsion_cutoff: Bohr, where repulsions end; ``null``: where each file's own does.
        smooth_tables, smooth_repulsion: weights of the integrated squared curvature of corrections.
        convex: weight of repulsions' concave parts.
        band_pass_below, band_pass_above: levels on either side of the gap that ``band_pass`` compares.
        rates: feed -> learning rate, Eh or pure numbers per step, where it is not ``learning_rate``.
        learning_rate: of Adam.
        epochs, batch_size, seed, threads: as in ``schnorb_t fit``.
        max_train: molecules to train with, the first of the store; ``null``: all.
    """

    skf: str
    data: str
    folder: str = "runs/dftb"
    train: list[str] = field(default_factory=lambda: ["hamiltonian", "overlap", "onsite", "hubbard", "repulsion"])
    pairs: list[str] | None = None
    targets: list[TableTarget] = field(default_factory=lambda: [TableTarget("energy")])
    order: int = 3
    shell_resolved: bool = False
    smearing: float = 0.0
    table_spacing: float = 0.4
    repulsion_spacing: float = 0.2
    repulsion_cutoff: float | None = None
    smooth_tables: float = 10.0
    smooth_repulsion: float = 1.0
    convex: float = 1000.0
    band_pass_below: int = 2
    band_pass_above: int = 1
    rates: dict[str, float] = field(default_factory=lambda: {"onsite": 3e-5, "hubbard": 3e-4, "repulsion": 3e-4})
    learning_rate: float = 1e-4
    epochs: int = 20
    batch_size: int = 16
    seed: int = 0
    threads: int = 1
    max_train: int | None = None


# ---- the file of a trained model -------------------------------------------------------------------------------------


def _published_texts(folder: Path, model: TrainableDFTB) -> dict[str, str]:
    """The set itself goes along, so that one file is all that is needed."""
    texts = {f.path.name: f.path.read_text() for f in model.tables.files.values()}
    for name in ("README", "README.txt", "README.md", "readme.txt"):
        if (folder / name).is_file():
            texts[name] = (folder / name).read_text(encoding="utf-8", errors="replace")
            break
    return texts


def model_options(settings: TableSettings) -> dict[str, Any]:
    """Of ``TrainableDFTB``, from the settings of a training."""
    smearing = Smearing("fermi-dirac", settings.smearing) if settings.smearing else ZERO_TEMPERATURE
    return {
        "feeds": tuple(settings.train),
        "pairs": settings.pairs,
        "table_spacing": settings.table_spacing,
        "repulsion_spacing": settings.repulsion_spacing,
        "repulsion_cutoff": settings.repulsion_cutoff,
        "order": settings.order,
        "shell_resolved": settings.shell_resolved,
        "smearing": smearing,
    }


def save_tables(path: Path, model: TrainableDFTB, settings: TableSettings, reference: Tensor, texts: dict[str, str]):
    """Write a trained model: the published set, settings, parameters, energies per element."""
    content = {
        "format": FORMAT,
        "settings": json.dumps(asdict(settings)),
        "elements": list(model.basis.elements),
        "texts": texts,
        "parameters": {name: p.detach().clone() for name, p in model.trained().items()},
        "reference": reference,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def is_tables(path: str | Path) -> bool:
    """Whether a file is one that ``save_tables`` wrote."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever else it is, somebody else will say
        return False
    return isinstance(content, Mapping) and content.get("format") == FORMAT


def load_tables(path: str | Path) -> tuple[TrainableDFTB, TableSettings, Tensor]:
    """A trained model, the settings of its training, and energies per element [119], Eh.

    Raises:
        UserError: no such file, or another one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; schnorb_t fit-dftb leaves tables.pt in its folder")
    if not is_tables(path):
        raise UserError(f"{path}: holds no trained tables; give tables.pt from the folder of schnorb_t fit-dftb")
    content = torch.load(path, map_location="cpu", weights_only=True)
    settings = settings_of(json.loads(content["settings"]))
    with TemporaryDirectory() as folder:
        for name, text in content["texts"].items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        tables = read_skf_set(folder, content["elements"])
        model = TrainableDFTB(tables, **model_options(settings))
    with torch.no_grad():
        for name, p in model.trained().items():
            p.copy_(content["parameters"][name])
    return model, settings, content["reference"]


def settings_of(content: Mapping[str, Any]) -> TableSettings:
    """Settings from plain values."""
    targets = [TableTarget(**t) for t in content.get("targets", [{"name": "energy"}])]
    return TableSettings(**{**content, "targets": targets})


# ---- the training ----------------------------------------------------------------------------------------------------


class TableTraining:
    """One training; ``run`` does it.

    Args:
        settings: of ``configs/dftb.yaml``.
        tell: called with every line about the run.

    Raises:
        UserError: a set, store or folder that cannot be used; labels that are missing.
    """

    def __init__(self, settings: TableSettings, tell: Callable[[str], None] = print):
        self.settings, self.tell, self.folder = settings, tell, Path(settings.folder)
        if not Path(settings.skf).is_dir():
            raise UserError(f"skf: {settings.skf}: no such folder; give the folder of a Slater-Koster set")
        store = Store(SAMPLE if settings.data == "sample" else settings.data)
        places = {name: np.flatnonzero(store.splits == name) for name in ("train", "val", "test")}
        self.parts = {name: [store[int(k)] for k in there] for name, there in places.items()}
        if settings.max_train is not None:
            self.parts["train"] = self.parts["train"][: settings.max_train]
        for name in ("train", "val"):
            if not self.parts[name]:
                raise UserError(f"{settings.data}: has no molecules in split {name}; schnorb_t splits divides it")
        for target in settings.targets:
            if not any(r.values.get(target.field) is not None for r in self.parts["train"]):
                raise UserError(f"{settings.data}: no training molecule has {target.field}, which {target.name} needs")
        elements = sorted({int(z) for part in self.parts.values() for r in part for z in r.atomic_numbers})
        self.model = TrainableDFTB(read_skf_set(settings.skf, elements), **model_options(settings))
        self.texts = _published_texts(Path(settings.skf), self.model)
        self.band_pass = BandPassLoss(settings.band_pass_below, settings.band_pass_above, by="total")
        self.reference = torch.zeros(119, dtype=torch.float64)
        self.optimizer = torch.optim.Adam(self._groups())
        self.epoch, self.history, self.best = 0, [], float("inf")
        self._shuffle = np.random.default_rng(settings.seed)
        self.with_forces = any(t.name == "forces" for t in settings.targets)

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        for feed, parameter in self._feeds():
            rate = self.settings.rates.get(feed, self.settings.learning_rate)
            groups.append({"params": [parameter], "lr": rate})
        if unknown := set(self.settings.rates) - set(FEEDS):
            raise UserError(f"rates: {min(unknown)!r} is none of {', '.join(FEEDS)}")
        return groups

    def _feeds(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.trained().items():
            feed = {"slater_koster.correction.coefficients": "hamiltonian", "slater_koster.onsite_shift": "onsite"}
            yield feed.get(name, name.split(".")[0]), parameter

    # ---- one epoch ---------------------------------------------------------------------------------------------------

    def batches(self, records: Sequence[MoleculeRecord], shuffle: bool = False) -> Iterator[dict[str, Tensor]]:
        """Of molecules of like size."""
        sizes = np.array([len(r.atomic_numbers) for r in records])
        order = np.argsort(sizes + (self._shuffle.uniform(0, 3, len(sizes)) if shuffle else 0.0), kind="stable")
        n = self.settings.batch_size
        chunks = [order[k : k + n] for k in range(0, len(order), n)]
        for k in self._shuffle.permutation(len(chunks)) if shuffle else range(len(chunks)):
            bare = [_without_matrices(records[i]) for i in chunks[k]]
            yield records_to_batch(bare, self.model.basis, _CUTOFF)

    def _solve(self, batch: dict[str, Tensor], train: bool) -> tuple[DFTBResult, Tensor | None]:
        charge = batch.get(keys.TOTAL_CHARGE)
        if self.with_forces:
            return self.model.energy_and_forces(batch, charge, check=False, create_graph=train)
        return self.model(batch, charge, check=False), None

    def _compare(self, batch, result: DFTBResult, forces: Tensor | None) -> dict[str, Tensor]:
        z, molecule, b = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE], len(result.energy)
        shift = sum_over_molecules(self.reference[z], molecule, b)
        return {
            t.name: deviations(t, batch, result, forces, shift, self.model.basis, self.band_pass)
            for t in self.settings.targets
        }

    def train_epoch(self) -> float:
        """One pass over the training molecules; mean loss. Molecules without a solution teach nothing."""
        losses = []
        for batch in self.batches(self.parts["train"], shuffle=True):
            result, forces = self._solve(batch, train=True)
            if not bool(result.converged.all()):
                self.tell(f"{int((~result.converged).sum())} molecules of a batch have not converged; it is left out")
                continue
            loss = torch.zeros((), dtype=torch.float64)
            for target, d in zip(self.settings.targets, self._compare(batch, result, forces).values(), strict=True):
                if d.numel():
                    loss = loss + target.weight * torch.nn.functional.smooth_l1_loss(d, torch.zeros_like(d))
            losses.append(loss.item())
            penalties = self.model.penalties()
            weights = {
                "tables": self.settings.smooth_tables,
                "repulsion": self.settings.smooth_repulsion,
                "concavity": self.settings.convex,
            }
            loss = loss + sum(weights[name] * value for name, value in penalties.items())
            self.optimizer.zero_grad()
            if not loss.requires_grad:
                raise UserError("train: nothing that is trained changes any target; see configs/dftb.yaml")
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                self.model.hubbard.clamp_(min=0.0)
        if not losses:
            raise UserError("no batch has converged; smear the levels (smearing: 0.002)")
        self.fit_reference()
        return float(np.mean(losses))

    def fit_reference(self) -> None:
        """Energies per element, by least squares of smallest norm over the training molecules."""
        counts, rest = [], []
        for batch in self.batches(self.parts["train"]):
            with torch.no_grad():
                result = self.model(batch, batch.get(keys.TOTAL_CHARGE), check=False)
            c, r = _energy_residuals(batch, result)
            counts.append(c[r.isfinite()])
            rest.append(r[r.isfinite()])
        y = torch.cat(rest)
        if len(y):
            self.reference = torch.linalg.lstsq(torch.cat(counts), y.unsqueeze(-1), driver="gelsd").solution[:, 0]

    def errors(self, part: str) -> dict[str, float]:
        """Mean absolute errors of a split by target, in its unit, and ``loss``."""
        found: dict[str, list[Tensor]] = {t.name: [] for t in self.settings.targets}
        for batch in self.batches(self.parts[part]):
            with torch.no_grad():
                result, forces = self._solve(batch, train=False)
                for name, d in self._compare(batch, result, forces).items():
                    found[name].append(d)
        out = {name: torch.cat(ds).abs().mean().item() for name, ds in found.items()}
        out["loss"] = sum(t.weight * out[t.name] for t in self.settings.targets)
        return out

    # ---- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train to the end, going on where the folder says; errors of the test molecules before and after.

        Returns:
            ``folder``, ``tables`` (path), ``epochs``, ``before`` and ``after`` (errors by target), ``units``.
        """
        torch.set_num_threads(max(1, self.settings.threads))
        torch.manual_seed(self.settings.seed)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({brief(error)}); name another folder") from None
        judged = "test" if self.parts["test"] else "val"
        if not self._resume():
            self.fit_reference()
            self.before = self.errors(judged)
            first = self.errors("val")
            self.best = first["loss"]
            self._record(first, float("nan"))
            self._save()
            save_tables(self.folder / "tables.pt", self.model, self.settings, self.reference, self.texts)
        while self.epoch < self.settings.epochs:
            self._set_rates()
            train = self.train_epoch()
            self.epoch += 1
            found = self.errors("val")
            self._record(found, train)
            if found["loss"] < self.best:
                self.best = found["loss"]
                save_tables(self.folder / "tables.pt", self.model, self.settings, self.reference, self.texts)
            self._save()
        self.model, _, self.reference = load_tables(self.folder / "tables.pt")
        result = {
            "folder": str(self.folder),
            "tables": str(self.folder / "tables.pt"),
            "epochs": self.epoch,
            "split": judged,
            "before": self.before,
            "after": self.errors(judged),
            "units": {t.name: t.unit for t in self.settings.targets},
        }
        write_text(self.folder / "result.json", json.dumps(result, indent=1))
        return result

    def _set_rates(self) -> None:
        """Cosine to a hundredth at the last epoch."""
        done = self.epoch / max(1, self.settings.epochs)
        factor = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done))
        for group, (feed, _) in zip(self.optimizer.param_groups, self._feeds(), strict=True):
            group["lr"] = float(factor) * self.settings.rates.get(feed, self.settings.learning_rate)

    def _record(self, found: dict[str, float], train: float) -> None:
        self.history.append({"epoch": self.epoch, "train_loss": train, **{f"val_{k}": v for k, v in found.items()}})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.history[0])
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.folder / "metrics.csv", text.getvalue())
        errors = ", ".join(f"{t.name} {found[t.name]:.3f} {t.unit}" for t in self.settings.targets)
        self.tell(f"epoch {self.epoch}: {errors}")

    def _save(self) -> None:
        content = {
            "settings": json.dumps(asdict(self.settings)),
            "parameters": {name: p.detach().clone() for name, p in self.model.trained().items()},
            "optimizer": self.optimizer.state_dict(),
            "reference": self.reference,
            "shuffle": json.dumps(self._shuffle.bit_generator.state),
            "epoch": self.epoch,
            "best": self.best,
            "before": self.before,
            "history": self.history,
        }
        with atomic_write(self.folder / "last.pt") as temporary:
            torch.save(content, temporary)

    def _resume(self) -> bool:
        """Go on with the training in the folder, if there is one."""
        path = self.folder / "last.pt"
        if not path.exists():
            return False
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            there = json.loads(content["settings"])
        except Exception as error:
            raise UserError(f"{path}: cannot be read ({brief(error)}); remove the folder to begin anew") from None
        now, free = asdict(self.settings), ("folder", "epochs", "threads")
        changed = sorted(k for k in now if k not in free and now[k] != there.get(k))
        if changed:
            raise UserError(
                f"{self.folder}: holds a training with another {', '.join(changed)}; name another folder, or remove it"
            )
        with torch.no_grad():
            for name, p in self.model.trained().items():
                p.copy_(content["parameters"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self._shuffle.bit_generator.state = json.loads(content["shuffle"])
        self.reference, self.epoch, self.best = content["reference"], content["epoch"], content["best"]
        self.before, self.history = content["before"], content["history"]
        self.tell(f"{path}: goes on after epoch {self.epoch}")
        return True


def _without_matrices(record: MoleculeRecord) -> MoleculeRecord:
    """H and S of another basis play no part."""
    return MoleculeRecord(
        values={k: v for k, v in record.values.items() if k not in ("hamiltonian", "overlap", "contraction")}
    )


def _energy_residuals(batch: dict[str, Tensor], result: DFTBResult) -> tuple[Tensor, Tensor]:
    """Atoms of each element [B, 119] and labelled less calculated energies [B], NaN without a label."""
    one_hot = torch.nn.functional.one_hot(batch[keys.ATOMIC_NUMBERS], 119).to(torch.float64)
    counts = sum_over_molecules(one_hot, batch[keys.MOLECULE], len(result.energy))
    if keys.TOTAL_ENERGY not in batch:
        return counts, torch.full_like(result.energy, torch.nan)
    rest = (batch[keys.TOTAL_ENERGY] - result.energy).detach()
    return counts, torch.where(result.converged, rest, torch.nan)


def element_energies(model: TrainableDFTB, reference: Tensor) -> dict[str, float]:
    """Symbol -> Eh, what has to be added per atom to compare with the labels' total energies."""
    return {chemical_symbols[z]: reference[z].item() for z in model.basis.elements}
