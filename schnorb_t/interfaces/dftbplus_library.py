"""DFTB+'s C interface (``dftbplus.h``, DFTB+ 25.1 or newer) over ctypes: one calculation, matrices through callbacks.

DFTB+ ends the whole process when it finds an input at fault. ``rehearse`` therefore lets a process of its own read
each new input first: this module run as a command, ``python -m schnorb_t.interfaces.dftbplus_library LIBRARY``.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from schnorb_t.errors import UserError

#: The environment variable that names the shared library.
ENVIRONMENT = "DFTBPLUS_LIBRARY"
INPUT_FILE = "dftb_in.hsd"
LOG_FILE = "dftbplus.log"
#: Seconds that DFTB+ may take to read an input.
PATIENCE = 120


class _Handle(ctypes.Structure):
    """``DftbPlus`` and ``DftbPlusInput``: each one opaque pointer."""

    _fields_ = [("pointer", ctypes.c_void_p)]


class _MatrixDescriptor(ctypes.Structure):
    """``DftbPlusMatrixDescr``."""

    _fields_ = [("matrix_type", ctypes.c_int), ("storage_type", ctypes.c_int)]


#: ``storage_type``: which part of a column-major matrix holds its elements.
_FULL, _LOWER, _UPPER = 0, 1, 2
_int, _double, _char_p, _void_p = ctypes.c_int, ctypes.c_double, ctypes.c_char_p, ctypes.c_void_p
_handle = ctypes.POINTER(_Handle)
_arguments = _void_p, _int, _int, _void_p, _void_p, ctypes.POINTER(_MatrixDescriptor)
_GetMatrix = ctypes.CFUNCTYPE(None, *_arguments)
_SetMatrix = ctypes.CFUNCTYPE(_int, *_arguments)
#: name -> result, arguments
_FUNCTIONS = {
    "dftbp_init": (None, (_handle, _char_p)),
    "dftbp_final": (None, (_handle,)),
    "dftbp_get_input_from_file": (None, (_handle, _char_p, _handle)),
    "dftbp_process_input": (None, (_handle, _handle)),
    "dftbp_input_final": (None, (_handle,)),
    "dftbp_get_nr_atoms": (_int, (_handle,)),
    "dftbp_get_nr_spin": (_int, (_handle,)),
    "dftbp_nr_kpoints": (_int, (_handle,)),
    "dftbp_is_hs_real": (ctypes.c_bool, (_handle,)),
    "dftbp_get_nr_orbitals": (None, (_handle, ctypes.POINTER(_int))),
    "dftbp_get_energy": (None, (_handle, ctypes.POINTER(_double))),
    "dftbp_register_set_s_callback": (None, (_handle, _SetMatrix, _void_p)),
    "dftbp_register_set_h_callback": (None, (_handle, _SetMatrix, _void_p)),
    "dftbp_register_dm_callback": (None, (_handle, _GetMatrix, _void_p)),
}


def find_library(library: str | Path | None = None) -> Path:
    """The shared library: the argument, or what ``DFTBPLUS_LIBRARY`` names.

    Raises:
        UserError: neither, or no such file.
    """
    name = library or os.environ.get(ENVIRONMENT)
    if not name:
        raise UserError(
            f"no DFTB+ library is named: set {ENVIRONMENT} (or library=) to the shared library libdftbplus.so of "
            "DFTB+ 25.1 or newer, built with WITH_API and BUILD_SHARED_LIBS and without MPI"
        )
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{name}: no such file; {'library=' if library else ENVIRONMENT} must name libdftbplus.so")
    return path


def load_library(path: Path) -> ctypes.CDLL:
    """The library with all signatures declared.

    Raises:
        UserError: it cannot be loaded, or a function is missing (an older DFTB+). Symbols are probed: development
            versions call themselves like the release before.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be loaded as a shared library ({error})") from None
    missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; H and S can be handed to DFTB+ 25.1 or newer, "
            "built with WITH_API and BUILD_SHARED_LIBS"
        )
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@dataclass(frozen=True)
class Setup:
    """What DFTB+ made of an input.

    Attributes:
        orbitals: of each atom.
        spins: 1 unless spin-polarised (2) or non-collinear (4).
        k_points: 1 for a molecule.
        real: H and S are real.
    """

    orbitals: tuple[int, ...]
    spins: int
    k_points: int
    real: bool


class Calculation:
    """One DFTB+ instance that has read ``dftb_in.hsd`` of the current folder; a context manager. One at a time.

    The process ends if DFTB+ does not like the input.
    """

    def __init__(self, library: ctypes.CDLL):
        self._library, self._instance = library, _Handle()

    def __enter__(self) -> Calculation:
        library, data = self._library, _Handle()
        library.dftbp_init(self._instance, LOG_FILE.encode())
        library.dftbp_get_input_from_file(self._instance, INPUT_FILE.encode(), data)
        library.dftbp_process_input(self._instance, data)
        library.dftbp_input_final(data)
        return self

    def __exit__(self, *_) -> None:
        self._library.dftbp_final(self._instance)

    @property
    def setup(self) -> Setup:
        """Orbitals and atoms that DFTB+ has read from its input."""
        library, instance = self._library, self._instance
        orbitals = (_int * library.dftbp_get_nr_atoms(instance))()
        library.dftbp_get_nr_orbitals(instance, orbitals)
        return Setup(
            tuple(orbitals),
            library.dftbp_get_nr_spin(instance),
            library.dftbp_nr_kpoints(instance),
            bool(library.dftbp_is_hs_real(instance)),
        )

    def density(self, hamiltonian: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Solve for given matrices, [m, m] each; Eh. The input must have ``ASI {}``, or the process crashes.

        Returns:
            density matrix [m, m] with electrons of both spins.

        Raises:
            UserError: the library is built with MPI.
            RuntimeError: DFTB+ did not ask for the matrices, or gave none back.
        """
        library, instance, m = self._library, self._instance, len(hamiltonian)
        found: dict[str, np.ndarray] = {}
        errors: list[Exception] = []

        def buffer(blacs, address) -> np.ndarray:
            if blacs:
                raise UserError("this DFTB+ library is built with MPI; take a serial one")
            return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(_double)), (m, m))

        def setter(name: str, matrix: np.ndarray) -> Callable:
            def set_matrix(_, k_point, spin, blacs, address, descriptor):
                try:
                    buffer(blacs, address)[...] = matrix  # the whole square, whatever part the descriptor names
                    found[name] = matrix
                except Exception as error:  # an exception must not pass through Fortran
                    errors.append(error)
                    return 0
                return 1

            return set_matrix

        def get_density(_, k_point, spin, blacs, address, descriptor):
            try:
                storage = descriptor.contents.storage_type
                found["density"] = _whole(buffer(blacs, address), storage)
            except Exception as error:
                errors.append(error)

        # names keep the callbacks alive while DFTB+ holds them
        set_s = _SetMatrix(setter("overlap", overlap))
        set_h = _SetMatrix(setter("Hamiltonian", hamiltonian))
        get_d = _GetMatrix(get_density)
        library.dftbp_register_set_s_callback(instance, set_s, None)
        library.dftbp_register_set_h_callback(instance, set_h, None)
        library.dftbp_register_dm_callback(instance, get_d, None)
        library.dftbp_get_energy(instance, ctypes.byref(_double()))
        if errors:
            raise errors[0]
        missing = [name for name in ("overlap", "Hamiltonian", "density") if name not in found]
        if missing:
            raise RuntimeError(f"DFTB+ exchanged no {', '.join(missing)}; see {LOG_FILE}")
        return found["density"]


def _whole(part: np.ndarray, storage: int) -> np.ndarray:
    """A symmetric matrix from a column-major buffer, which numpy sees transposed; only one triangle may be valid."""
    if storage == _FULL:
        return part.copy()
    if storage not in (_LOWER, _UPPER):
        raise RuntimeError(f"DFTB+ stores its density matrix in an unknown way ({storage})")
    triangle = np.triu(part) if storage == _LOWER else np.tril(part)
    return triangle + triangle.T - np.diag(np.diag(part))


def rehearse(library: Path, folder: Path) -> Setup:
    """Let another process have DFTB+ read the input in ``folder``.

    Raises:
        UserError: DFTB+ ended that process; tells its reason.
    """
    command = [sys.executable, "-m", "schnorb_t.interfaces.dftbplus_library", str(library)]
    package = str(Path(__file__).parents[2])
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True, timeout=PATIENCE)
        answer = done.stdout.strip().splitlines()
        if done.returncode == 0 and answer:
            values = json.loads(answer[-1])
            return Setup(tuple(values.pop("orbitals")), **values)
        reason = (
            _reason(folder / LOG_FILE) or (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PATIENCE} s"
    raise UserError(f"DFTB+ ({library}) does not take this input: {reason}")


def _reason(log: Path) -> str:
    """What DFTB+ wrote after its last ``ERROR!``."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    warnings, mark, reason = text.rpartition("ERROR!")
    unknown = re.findall(r"Path: dftbplusinput/(\S+)", warnings)
    if "Code halting" in reason and unknown:
        return f"it knows nothing of {', '.join(unknown)} there"
    return " ".join(reason.replace("->", " ").split()) if mark else ""


def _main() -> None:
    with Calculation(load_library(Path(sys.argv[1]))) as calculation:
        print(json.dumps(asdict(calculation.setup)), flush=True)


if __name__ == "__main__":
    _main()
