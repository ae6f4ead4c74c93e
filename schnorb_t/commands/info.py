"""``schnorb_t info``: what to say with a report of a problem."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: Packages whose versions are told; the last ones are optional.
PACKAGES = (
    "torch e3nn pytorch-lightning numpy scipy h5py ase jsonargparse torchmetrics rich matplotlib "
    "pyscf tblite rdkit dask distributed torch-scatter"
).split()


def info() -> dict[str, Any]:
    """Versions of this package and of what it uses, platform, devices and the models that come with the package.

    Returns:
        ``schnorb_t``, ``python``, ``platform``, ``packages`` (name -> version or None), ``devices``, ``models``.
    """
    import torch

    from schnorb_t import __version__
    from schnorb_t.training.checkpoint import MODELS, load_model

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    models = {}
    for path in sorted(MODELS.glob("*.ckpt")):
        model, card = load_model(path)
        models[path.stem] = {
            "target": card.target,
            "basis": str(card.basis),
            "level": dict(card.level),
            "parameters": model.n_parameters(),
        }
    return {
        "schnorb_t": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": packages,
        "devices": [f"cpu ({torch.get_num_threads()} threads)", *cuda],
        "models": models,
    }


def show(result: dict[str, Any]) -> None:
    """Print what ``info`` returned."""
    print(f"schnorb_t {result['schnorb_t']}, Python {result['python']}, {result['platform']}")
    for name, number in result["packages"].items():
        print(f"  {name} {number or '(not installed)'}")
    print(f"devices: {', '.join(result['devices'])}")
    for name, model in result["models"].items():
        level = "/".join(str(model["level"][key]) for key in ("functional", "basis") if key in model["level"])
        print(f"model {name}: {model['target']} of {level}, {model['basis']}, {model['parameters']:,} parameters")
