"""A model loaded into ONNX Runtime, with the provider that it actually uses.

ONNX Runtime lists CUDA as available when its library was built with it, and silently falls back to the CPU if the
driver, cuDNN or a GPU is missing. So availability is not trusted: a session is created and queried for its providers.

1. ``cpu``: the CPU provider alone.
2. ``auto``: CUDA if a session actually uses it, else the CPU, with a note that says why if there is a GPU.
3. ``cuda``: CUDA if a session actually uses it, else ``RuntimeMissingError``.

A provider also runs only the operators that it supports, so a CUDA session may still run some nodes on the CPU.

The log of these sessions is silenced, errors of ONNX Runtime become one line, and its automatic fallback, which prints,
is disabled. ONNX Runtime's default log belongs to the host process: only `silence_default_log`, for a process of our
own, changes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import FeedError, ModelError, RuntimeMissingError, UsageError
from onnxmerge.runtime.cuda import cuda_problem, has_gpu
from onnxmerge.runtime.session_options import FATAL, session_options
from onnxmerge.runtime.threads import threads_of

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Provider", "Session", "runtime_version", "silence_default_log"]

Provider = Literal["auto", "cpu", "cuda"]
Weights = Mapping[str, NDArray[Any]]
NO_WEIGHTS: Weights = MappingProxyType({})

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_LOGGER = logging.getLogger(__name__)
_FOREIGN = "; if only another runtime has it, compress without verification: --no-verify (verify=False)"
_INSTALL_CUDA = "try: pip install 'onnxruntime-gpu[cuda,cudnn]', and check that nvidia-smi lists a GPU"

# Types without a NumPy equivalent are passed as raw 16-bit values; 16 is TensorProto.BFLOAT16.
_BFLOAT16 = "tensor(bfloat16)"
_BFLOAT16_NUMBER = 16


class Session:
    """A loaded model; ``close`` it, or use it as a context manager.

    Attributes:
        input_names: Names of the required inputs, in graph order.
        output_names: In graph order.
        output_dims: Declared lengths of each output, None for a free one; () if nothing is declared.
        provider: First provider of the session, for example "CPUExecutionProvider".
        threads: Requested threads within one operator; None for the default of ONNX Runtime.
        note: Why ``auto`` did not use CUDA although there is a GPU; else empty.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, threads: int | None, note: str, weights: Weights = NO_WEIGHTS
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._weights = weights  # ONNX Runtime reads them where they are
        self._types = {value.name: str(value.type) for value in (*session.get_inputs(), *session.get_outputs())}
        self.input_names: tuple[str, ...] = tuple(value.name for value in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(value.name for value in session.get_outputs())
        self.output_dims: dict[str, tuple[int | None, ...]] = {
            value.name: tuple(dim if isinstance(dim, int) else None for dim in value.shape or ())
            for value in session.get_outputs()
        }
        self.provider: str = session.get_providers()[0]
        self.threads = threads
        self.note = note

    @classmethod
    def open(
        cls,
        model: bytes | Path,
        provider: Provider = "auto",
        threads: int | None = None,
        *,
        optimize: bool = True,
        spin: bool = True,
        profile: Path | None = None,
        weights: Weights = NO_WEIGHTS,
    ) -> Session:
        """Loads a model.

        Args:
            model: A serialised ``ModelProto``, or the file; only the file may keep weights beside it.
            provider: The requested provider; see the module's docstring.
            threads: Threads within one operator, at least 1; None for `threads_of` the environment.
            optimize: Whether ONNX Runtime may rewrite the graph (fuse, fold constants) before it runs it.
            spin: Whether threads wait for work by spinning, ONNX Runtime's default. A factorisation of 576 unknowns
                between two runs took 65 ms beside spinning threads and 20 ms beside sleeping ones; the runs took as
                long.
            profile: Where ONNX Runtime writes the time of every kernel, see `end_profile`.
            weights: Values of initializers that the model declares as external data.

        Raises:
            ModelError: ONNX Runtime refuses the model.
            RuntimeMissingError: ONNX Runtime cannot be imported, or CUDA was asked for and is not live.
            UsageError: ``threads`` or the variable is below 1, or the provider is unknown.
        """
        threads = threads_of(threads)
        if provider not in {"auto", "cpu", "cuda"}:
            raise UsageError(f"expected provider auto, cpu or cuda, got {provider!r}")
        ort = _import()
        options = partial(session_options, ort, threads, optimize, spin, profile, weights)
        listed = _CUDA in ort.get_available_providers()
        note = "" if listed else "CUDA is not used: this build of ONNX Runtime has no CUDA provider"
        if provider != "cpu" and listed:
            problem = cuda_problem(ort)
            if not problem:
                try:
                    session = _load(ort, model, [_CUDA, _CPU], options())
                    if session.get_providers()[0] == _CUDA:
                        return cls(session, threads, "", weights)
                    problem = "no live session has it"
                except Exception as error:  # whatever error CUDA raises, the CPU decides whether the model is invalid
                    problem = _line(error)
            note = f"CUDA is not used: {problem}; {_INSTALL_CUDA}"
        if provider == "cuda":
            raise RuntimeMissingError(
                f"--provider cuda: {note if not listed else note.removeprefix('CUDA is not used: ')}"
            )
        try:
            session = _load(ort, model, [_CPU], options())
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            hint = _FOREIGN if "not a registered function" in str(error) else ""
            raise ModelError(f"{_name(model)}: ONNX Runtime cannot load it: {_line(error)}{hint}") from error
        if provider == "auto":
            _LOGGER.debug("%s", note)
        told = provider == "auto" and has_gpu()  # without a GPU no note is needed
        return cls(session, threads, note if told else "", weights)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Args:
            feed: One array per input, in the input's element type.

        Returns:
            Every output by name, in graph order; bfloat16 as ``ml_dtypes.bfloat16``.

        Raises:
            FeedError: ONNX Runtime fails on it.
            ModelError: An output is not a tensor.
        """
        session = self._live()
        arrays: list[Any]
        try:
            if _BFLOAT16 in self._types.values():
                arrays = self._run_values(session, feed)
            else:
                arrays = session.run(None, dict(feed))
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            shapes = ", ".join(f"'{name}' {array.dtype} {array.shape}" for name, array in feed.items())
            raise FeedError(
                f"ONNX Runtime cannot run the model on {shapes or 'an empty feed'}: {_line(error)}"
            ) from error
        for name, array in zip(self.output_names, arrays, strict=True):
            if not isinstance(array, np.ndarray):
                kind = self._types[name]
                raise ModelError(f"output '{name}': expected a tensor, got {kind}, which cannot be compared")
        return dict(zip(self.output_names, arrays, strict=True))

    def bound(self, feed: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """A run whose arrays stay on the device: inputs are copied there once, outputs are not copied back.

        Args:
            feed: As for `run`; no bfloat16.

        Returns:
            Runs the model once and waits for it.

        Raises:
            FeedError: ONNX Runtime cannot bind these arrays.
        """
        session, ort = self._live(), _import()
        device = "cuda" if self.provider == _CUDA else "cpu"
        binding = session.io_binding()
        try:
            for name, array in feed.items():
                held = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape), device, 0)
                binding.bind_ortvalue_input(name, held)
            for name in self.output_names:
                binding.bind_output(name, device)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise FeedError(f"ONNX Runtime cannot bind the arrays: {_line(error)}") from error

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    def end_profile(self) -> list[dict[str, Any]]:
        """Events of a session that was opened with `profile`, one for each kernel of each run among them."""
        file = Path(self._live().end_profiling())
        events = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        return list(events)

    def close(self) -> None:
        """Release the memory; a second call does nothing."""
        self._session, self._weights = None, NO_WEIGHTS

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise ModelError("the session is closed; open the model again")
        return self._session

    def _run_values(
        self, session: onnxruntime.InferenceSession, feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        ort = _import()
        values = {}
        for name, array in feed.items():
            if array.dtype == ml_dtypes.bfloat16:
                raw = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
                values[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, _BFLOAT16_NUMBER)
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        return [_array(value) for value in session.run_with_ort_values(None, values)]


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(_import().__version__)


def silence_default_log() -> None:
    """Turn ONNX Runtime's default log off permanently, for a process of our own; does nothing without ONNX Runtime."""
    with contextlib.suppress(RuntimeMissingError):  # said where a session is opened
        _import().set_default_logger_severity(FATAL)


def _array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    if value.data_type() != _BFLOAT16:
        return np.asarray(value.numpy())
    # numpy() and NumPy's own reading of DLPack both refuse bfloat16, so the bytes are copied. Outputs that are not
    # bound to a device are in host memory, whatever the provider.
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, ml_dtypes.bfloat16).reshape(value.shape())


def _import() -> Any:  # noqa: ANN401 - the module has no types
    try:
        import onnxruntime  # noqa: PLC0415 - so that the package imports, and says what is missing, without it
    except ImportError as error:
        raise RuntimeMissingError(
            f"ONNX Runtime cannot be imported ({_line(error)}); try: pip install onnxruntime"
        ) from error
    return onnxruntime


def _load(
    ort: Any,  # noqa: ANN401
    model: bytes | Path,
    providers: list[str],
    options: Any,  # noqa: ANN401
) -> onnxruntime.InferenceSession:
    source = model if isinstance(model, bytes) else str(model)
    # Its own fallback to another provider prints to standard output, and would hide that CUDA failed.
    return ort.InferenceSession(source, sess_options=options, providers=providers, enable_fallback=0)


def _name(model: bytes | Path) -> str:
    return f"model of {len(model)} bytes" if isinstance(model, bytes) else str(model)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
