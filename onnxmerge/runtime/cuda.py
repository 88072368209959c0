"""Whether CUDA can run here, found out before ONNX Runtime is asked.

ONNX Runtime answers a request for CUDA that it cannot meet with an error in its default log. That log belongs to the
host process and its level cannot be read back, so it cannot be turned down for a moment and restored. What ONNX Runtime
would complain about is therefore looked up first:

1. The driver: its library loads, starts, and counts at least one GPU.
2. The CUDA libraries, which pip installs where the loader does not look: they are loaded into the process.
3. cuBLAS of the major version that ONNX Runtime was built with: the first library that its provider needs.

What these leave open (a cuDNN that is missing, a GPU that is too old) ONNX Runtime says itself, at the host's level.
"""

from __future__ import annotations

import ctypes
import sys
from types import FunctionType
from typing import Any

__all__ = ["cuda_problem", "has_gpu"]

_DRIVER, _CUBLAS = (
    ("nvcuda.dll", "cublasLt64_{}.dll") if sys.platform == "win32" else ("libcuda.so.1", "libcublasLt.so.{}")
)


def cuda_problem(ort: Any) -> str:  # noqa: ANN401 - the module has no types
    """Why no session of this ONNX Runtime can run on CUDA; empty where nothing is known against it."""
    problem = driver_problem()
    if problem:
        return problem
    _preload(ort)
    version = str(getattr(ort, "cuda_version", None) or "").partition(".")[0]
    if not version.isdecimal():
        return ""
    try:
        ctypes.CDLL(_CUBLAS.format(version))
    except OSError as error:
        return f"CUDA {version} is not installed ({error})"
    return ""


def has_gpu() -> bool:
    """Whether the driver offers a GPU that CUDA could run on."""
    return not driver_problem()


def driver_problem() -> str:
    """Why the driver offers no GPU; empty where it offers one."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"the NVIDIA driver cannot start (error {status})"
    return "" if count.value else "the NVIDIA driver finds no GPU"


def _preload(ort: Any) -> None:  # noqa: ANN401
    """Loads the CUDA libraries as ONNX Runtime does, without what it prints.

    The function runs as a copy with a `print` of its own: redirecting standard output would take that of every other
    thread away, too.
    """
    preload = getattr(ort, "preload_dlls", None)
    if not isinstance(preload, FunctionType):
        return
    silent = {**preload.__globals__, "print": lambda *_args, **_options: None}
    FunctionType(preload.__code__, silent, preload.__name__, preload.__defaults__, preload.__closure__)()
