"""``schnorb_t info``: what to say with a report of a problem."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Packages whose versions are told: what the package needs, then what is optional.
PACKAGES = (
    "torch e3nn pytorch-lightning numpy scipy h5py ase jsonargparse torchmetrics rich matplotlib tensorboard "
    "pyscf tblite rdkit dask distributed torch-scatter"
).split()

#: Settings of the environment that change results, speed or what is found.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "DFTBPLUS_LIBRARY",
    "PYSCF_MAX_MEMORY",
)


def info() -> dict[str, Any]:
    """Versions of this package and of what it uses, platform, threads, devices and the models that come with it.

    Returns:
        ``schnorb_t``, ``location``, ``python``, ``platform``, ``processor``, ``packages`` (name -> version or None),
        ``threads``, ``settings`` (environment variables that are set), ``devices``, ``models`` and
        ``configurations`` (of ``schnorb_t fit --config NAME``).
    """
    import torch

    from schnorb_t import __version__
    from schnorb_t.training.checkpoint import MODELS, load_model
    from schnorb_t.training.configuration import shipped_configurations

    models = {}
    for path in sorted(MODELS.glob("*.ckpt")):
        model, card = load_model(path)
        models[path.stem] = {
            "target": card.target,
            "basis": str(card.basis),
            "level": dict(card.level),
            "charges": list(card.charges),
            "parameters": model.n_parameters(),
            "bytes": path.stat().st_size,
        }
    return {
        "schnorb_t": __version__,
        "location": str(Path(__file__).parents[1]),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": {"torch": torch.get_num_threads(), "cores": _cores()},
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "devices": _devices(),
        "models": models,
        "configurations": list(shipped_configurations()),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _devices() -> list[str]:
    import torch

    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *cuda, *mps]


def show(result: dict[str, Any]) -> None:
    """Print what ``info`` returned."""
    print(f"schnorb_t {result['schnorb_t']} in {result['location']}")
    print(f"Python {result['python']}, {result['platform']}, {result['processor']}")
    for name, number in result["packages"].items():
        print(f"  {name} {number or '(not installed)'}")
    threads = result["threads"]
    settings = "".join(f", {name}={value}" for name, value in result["settings"].items())
    print(f"devices: {', '.join(result['devices'])}; {threads['torch']} threads, {threads['cores']} cores{settings}")
    for name, model in result["models"].items():
        level = "/".join(str(model["level"][key]) for key in ("functional", "basis") if key in model["level"])
        size = f"{model['parameters']:,} parameters, {model['bytes'] / 1e6:.1f} MB"
        print(f"model {name}: {model['target']} of {level}, {model['basis']}, {size}")
    print(f"configurations: {', '.join(result['configurations'])}")
