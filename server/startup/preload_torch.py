"""Load torch's largest library in a thread while the main thread imports other modules."""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

# The system loads one library at a time, so those of modules that are imported meanwhile would wait for torch's.
import tokenizers  # noqa: F401
import uvicorn  # noqa: F401


def preload_torch() -> None:
    """Begin to load libtorch_cpu, which takes 0.2 s and needs nothing of Python.

    `import torch` then finds it loaded, or waits for it. This calls the system's dlopen, because ctypes.CDLL would keep
    the interpreter's lock meanwhile. If it fails, nothing is lost: `import torch` tries again and says what is wrong.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
    if library.is_file():
        Thread(target=_dlopen, args=(library,), name="preload", daemon=True).start()


def _dlopen(library: Path) -> None:
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    dlopen(os.fsencode(library), os.RTLD_NOW)
