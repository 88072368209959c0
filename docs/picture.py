"""Draws docs/images/terminal.svg: a real run in a terminal, ``python docs/picture.py``.

The run is the one below, on a bundled model with its own samples; only the latency of the machine differs between runs.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from onnxmerge import pipeline
from onnxmerge.plan.options import Options
from onnxmerge.report.terminal import show_account
from onnxmerge.verify import Verification
from onnxmerge.writing import write_text

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "images" / "terminal.svg"
MODEL = "sample_models/vgg_bn.onnx"
CALIBRATION = "sample_models/fashion_mnist_calibration.npz"
TEST = "sample_models/fashion_mnist_test.npz"
COMMAND = f"""$ onnxmerge {MODEL} out.onnx \\
    --of latency --ratio 0.4 --threads 1 \\
    --calib {CALIBRATION} \\
    --data {TEST}"""


def main() -> int:
    """Runs the command and draws what it prints."""
    os.chdir(ROOT)  # paths in the picture are those of the command
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        options = Options(ratio=0.4, of="latency")
        target = Path(folder) / "out.onnx"
        samples = pipeline.Sampling(CALIBRATION, data=TEST)
        request = pipeline.Request(MODEL, options, samples, verification=Verification(threads=1))
        account = pipeline.compress_file(request, target)
        console = Console(width=80, record=True, highlight=False, file=nowhere, force_terminal=True)
        console.print(COMMAND, markup=False)
        show_account(console, replace(account, target=target.name))
    drawn = console.export_svg(title="onnxmerge")
    # The one font that is fetched from elsewhere; without it the viewer's own is taken.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    TARGET.parent.mkdir(exist_ok=True)
    write_text(TARGET, drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
