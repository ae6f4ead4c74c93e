"""Where the tests find real reference data that the repository does not hold."""

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """Path of a file in ``$SCHNORB_T_DATA`` or ``../shared/data``; skips the test where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SCHNORB_T_DATA", default)) / name
    if not path.exists():
        pytest.skip(f"reference data {name} is not here; set SCHNORB_T_DATA to its folder")
    return path
