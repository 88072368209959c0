"""``onnxmerge`` and ``python -m onnxmerge``: settings that must precede imports, then the command line.

Imports take a second or two, so an interrupt during them is answered here as everywhere else: one line, exit 130.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["run"]

_INTERRUPTED = 130


def run() -> int:
    """Run the command line of this process; returns the exit status."""
    # OpenBLAS threads spin for a while after each product, on the cores that ONNX Runtime needs next: ResNet-56 took
    # 88 s with its default and 57 s with this. It is read when NumPy is imported, and it is our process.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # What a scheduler or a container sends before it kills: clean up as after an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from onnxmerge.cli import main  # noqa: PLC0415 - after the setting above

        return main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not interrupt the answer to the first
        sys.stderr.write("onnxmerge: interrupted\n")
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(run())
