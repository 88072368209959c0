"""``python -m onnxmerge`` is ``onnxmerge``."""

from __future__ import annotations

import sys

from onnxmerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
