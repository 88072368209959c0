"""Check whether CUDA can run here, before ONNX Runtime is asked for it.

ONNX Runtime answers a request for CUDA that it cannot meet with an error in its default log. That log belongs to the
host process and its level cannot be read, so it cannot be changed temporarily and restored. Possible causes of an error
are therefore checked first:

1. The driver: its library loads, starts, and counts at least one GPU.
2. The CUDA libraries, which pip installs outside the loader's search path: they are loaded into the process.
3. cuBLAS of the major version that ONNX Runtime was built with: the first library that its provider needs.

Other causes (a missing cuDNN, a GPU that is too old) are logged by ONNX Runtime itself, at the host's level.
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
    """Why no session of this ONNX Runtime can run on CUDA; empty if no obstacle is known."""
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
    """Why the driver offers no GPU; empty if it offers one."""
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
    """Load the CUDA libraries as ONNX Runtime does, without its output.

    The function runs as a copy with its own `print`: redirecting standard output would affect all other threads.
    """
    preload = getattr(ort, "preload_dlls", None)
    if not isinstance(preload, FunctionType):
        return
    silent = {**preload.__globals__, "print": lambda *_args, **_options: None}
    FunctionType(preload.__code__, silent, preload.__name__, preload.__defaults__, preload.__closure__)()
