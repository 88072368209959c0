from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from onnxmerge.runtime import cuda


def driver(started: int = 0, counted: int = 0, gpus: int = 1) -> SimpleNamespace:
    """A stand-in for the driver's library; the numbers are what its functions return, and the GPUs it counts."""

    def count(pointer: Any) -> int:
        pointer._obj.value = gpus
        return counted

    return SimpleNamespace(cuInit=lambda _: started, cuDeviceGetCount=count)


def libraries(**found: object) -> Callable[[str], object]:
    """A stand-in for the loader: the driver, cuBLAS, or neither."""

    def load(name: str) -> object:
        for key, library in found.items():
            if key in name.lower():
                return library
        raise OSError(f"{name}: cannot open shared object file")

    return load


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({}, "no NVIDIA driver is installed"),
        ({"cuda": driver(started=100)}, "the NVIDIA driver cannot start (error 100)"),
        ({"cuda": driver(counted=3)}, "the NVIDIA driver cannot start (error 3)"),
        ({"cuda": driver(gpus=0)}, "the NVIDIA driver finds no GPU"),
        ({"cuda": driver()}, "CUDA 13 is not installed ("),
        ({"cuda": driver(), "cublaslt": object()}, ""),
    ],
)
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, found: dict[str, object], problem: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", libraries(**found))
    said = cuda.cuda_problem(SimpleNamespace(cuda_version="13.0"))
    assert said.startswith(problem)
    assert bool(said) is bool(problem)


@pytest.mark.parametrize("version", [{}, {"cuda_version": None}, {"cuda_version": ""}])
def test_a_version_that_is_not_known_is_left_to_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch, version: dict[str, object]
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", libraries(cuda=driver()))
    assert cuda.cuda_problem(SimpleNamespace(**version)) == ""


def test_loading_the_libraries_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def preload_dlls(cuda: bool = True) -> None:
        called.append(cuda)
        print("Failed to load libcublasLt.so.13", end="\n")  # noqa: T201 - as ONNX Runtime does

    monkeypatch.setattr(ctypes, "CDLL", libraries(cuda=driver()))
    assert cuda.cuda_problem(SimpleNamespace(cuda_version="13.0", preload_dlls=preload_dlls)) != ""
    assert called == [True]
    assert capsys.readouterr() == ("", "")
    preload_dlls()
    assert capsys.readouterr().out != ""  # the function itself is as it was
