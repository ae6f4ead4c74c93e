"""``schnorb_t selftest``: does this installation predict and train? Needs nothing but the package."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from schnorb_t.errors import UserError
from schnorb_t.units import HARTREE

#: Labelled molecules that each model predicts.
N_MOLECULES = 6
#: eV; a model whose HOMOs are farther from their labels on average has not arrived whole. (The worst of those that
#: ship is off by 0.15 eV on small molecules.)
HOMO_LIMIT = 0.5
#: Eh; what a rotation may change in a level: float32 rounding.
ROTATION_LIMIT = 2e-5
#: A network that trains in seconds.
SMALL = {"irreps": "8x0e+4x1o+4x2e", "pair_channels": [8, 4, 4, 4], "hidden": 16, "product_channels": 4}


def selftest() -> dict[str, Any]:
    """Check this installation: every model that ships predicts, files are written and read back, a training runs.

    Molecules and labels are those that come with the package. Takes about half a minute and leaves nothing behind.

    Returns:
        ``checks``, a list of ``name``, ``passed``, ``detail`` and ``seconds``; ``passed``, whether all did.
    """
    from schnorb_t.training.checkpoint import MODELS

    todo: list[tuple[str, Callable[[], str]]] = [
        (f"model {path.stem}", partial(_model, path.stem)) for path in sorted(MODELS.glob("*.ckpt"))
    ]
    todo += [("files", _files), ("training", _training)]
    checks = []
    for name, check in todo:
        start = time.perf_counter()
        try:
            passed, detail = True, check()
        except (AssertionError, UserError) as error:
            passed, detail = False, str(error)
        checks.append({"name": name, "passed": passed, "detail": detail, "seconds": time.perf_counter() - start})
    return {"checks": checks, "passed": all(check["passed"] for check in checks)}


def _require(condition: object, message: str) -> None:
    """An assertion that ``python -O`` keeps."""
    if not condition:
        raise AssertionError(message)


def _records(elements: tuple[int, ...]) -> list[Any]:
    """Test molecules of the sample, at equilibrium, whose elements are all known."""
    from schnorb_t.data.datamodule import SAMPLE
    from schnorb_t.data.store import Store

    store, found, groups = Store(SAMPLE), [], set()
    for index in store.indices("test"):
        record = store[int(index)]
        if record.group in groups or not set(record.atomic_numbers.tolist()) <= set(elements):
            continue
        groups.add(record.group)
        found.append(record)
        if len(found) == N_MOLECULES:
            break
    _require(found, "the sample has no molecule of the model's elements")
    return found


def _model(name: str) -> str:
    """Symmetry, positive definite overlap, and HOMOs against the labels, of one model."""
    from ase import Atoms

    from schnorb_t import load

    predictor = load(name, "cpu")
    records = _records(predictor.basis.elements)
    molecules = [Atoms(r.atomic_numbers, r.positions) for r in records]
    turned = [atoms.copy() for atoms in molecules]
    for atoms in turned:
        atoms.rotate(77.0, (1.0, 2.0, 3.0))
    predictions, rotated = predictor.predict(molecules), predictor.predict(turned)
    for p, q in zip(predictions, rotated, strict=True):
        _require((p.hamiltonian == p.hamiltonian.T).all(), f"{p.formula}: H is not symmetric")
        _require(np.linalg.eigvalsh(p.overlap)[0] > 0, f"{p.formula}: S is not positive definite")
        change = np.abs(p.orbital_energies - q.orbital_energies)[: p.n_occupied + 1].max()
        _require(change < ROTATION_LIMIT, f"{p.formula}: a rotation changes a level by {change:.1e} Eh")
    if (
        str(predictor.card.level.get("functional")).upper() != "B3LYP"
    ):  # a stand-in for another method: the labels say nothing of it
        return f"{len(records)} molecules: symmetric, positive definite"
    errors = []
    for p, r in zip(predictions, records, strict=True):
        homo = r.large_basis_energies[int(r.atomic_numbers.sum()) // 2 - 1]
        errors.append(abs(p.homo - homo) * HARTREE)
    _require(np.mean(errors) < HOMO_LIMIT, f"HOMOs are off by {np.mean(errors):.2f} eV on average")
    return f"{len(records)} molecules: symmetric, positive definite, HOMO within {np.mean(errors):.3f} eV of B3LYP"


def _files() -> str:
    """``predict`` writes a file that says what Python says."""
    from ase.build import molecule
    from ase.io import write

    from schnorb_t import load
    from schnorb_t.commands.predict import predict
    from schnorb_t.prediction_file import read_predictions

    atoms = [molecule("H2O"), molecule("C2H6")]
    with tempfile.TemporaryDirectory() as folder:
        structures, output, molden = (Path(folder) / name for name in ("in.xyz", "out.h5", "molden"))
        write(structures, atoms)
        predict("organic", structures, output=output, molden=molden, device="cpu")
        read = dict(read_predictions(output))
        for k, direct in enumerate(load("organic", "cpu").predict(atoms)):
            difference = np.abs(read[k]["hamiltonian"] - direct.hamiltonian).max()
            _require(difference < 1e-5, f"H of structure {k} differs by {difference:.1e} Eh from its file")
        n = len(list(molden.glob("*.molden")))
        _require(n == len(atoms), f"{n} Molden files of {len(atoms)} structures")
    return "predictions written as HDF5 and Molden, and read back"


def _training() -> str:
    """One short epoch on the sample."""
    from schnorb_t.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(
            {
                "config": "sample",
                "runs": folder,
                "data": {"max_train": 60},
                "model": {"network": SMALL},
                "trainer": {
                    "accelerator": "cpu",
                    "max_epochs": 1,
                    "check_val_every_n_epoch": 1,
                    "enable_progress_bar": False,
                    "limit_val_batches": 1,
                },
            },
            tell=lambda text: None,
        )
        error = result.metrics["model"]["h_mae"] if "h_mae" in result.metrics["model"] else math.nan
        _require(result.finished and result.best and result.best.is_file(), "the training left no checkpoint")
    return f"one epoch of 60 geometries{f', H error {1e3 * error:.1f} mEh' if math.isfinite(error) else ''}"


def show(result: dict[str, Any]) -> None:
    """Print what ``selftest`` returned; leaves with exit code 1 where a check failed."""
    for check in result["checks"]:
        print(
            f"{'ok    ' if check['passed'] else 'FAILED'} {check['name']}: {check['detail']} ({check['seconds']:.1f} s)"
        )
    failed = sum(not check["passed"] for check in result["checks"])
    if failed:
        print(f"{failed} of {len(result['checks'])} checks failed; please report it with the output of schnorb_t info")
        raise SystemExit(1)
    print(f"all {len(result['checks'])} checks passed")
