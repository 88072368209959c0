"""Whether two versions of the code write the same files: a digest for each model and method.

    python benchmarks/same_bytes.py DIGESTS.json [FOLDER …]             write digests
    python benchmarks/same_bytes.py --against DIGESTS.json [FOLDER …]     compare with them; exit status 1 if any differ

The bundled models are cut with their own calibration samples; those of the folders by their weights alone, and those
below 1 MB on synthetic inputs too, where they read images. Everything at a ratio of 0.3 and seed 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import onnxmerge
from onnxmerge.errors import OnnxMergeError

BUNDLED = Path(__file__).resolve().parents[1] / "sample_models"
SAMPLES = {
    "lenet_300_100": "fashion_mnist_calibration.npz", "vgg_bn": "fashion_mnist_calibration.npz",
    "resnet": "cifar10_calibration.npz", "vgg_receding": "fashion_mnist_calibration.npz",
}  # fmt: skip
BY_WEIGHTS = ("prune", "neuron-merging", "reprune", "reprune-2024", "fold")
SMALL = 1_000_000


def digest(model: Path, **options: Any) -> str:  # noqa: ANN401 - the options of onnxmerge.compress
    """SHA-256 of the written model, or the class of the error that was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxmerge.OnnxMergeWarning)
        try:
            result = onnxmerge.compress(model, 0.3, verify=False, provider="cpu", **options)
        except OnnxMergeError as error:
            return type(error).__name__
    return hashlib.sha256(result.model.SerializeToString(deterministic=True)).hexdigest()


def digests(folders: list[Path]) -> dict[str, str]:
    """Digests by model and method, printed as they come."""
    jobs: list[tuple[Path, dict[str, Any]]] = []
    for name, samples in SAMPLES.items():
        model = BUNDLED / f"{name}.onnx"
        jobs += [(model, {"method": method}) for method in BY_WEIGHTS]
        fitted = {"calibration": BUNDLED / samples, "calib_size": 128, "effort": "fast"}
        jobs += [(model, {"method": method, **fitted}) for method in ("auto", "refit")]
    for folder in folders:
        for model in sorted(folder.glob("*.onnx")):
            jobs += [(model, {"method": method}) for method in BY_WEIGHTS]
            if model.stat().st_size < SMALL:
                jobs.append((model, {"method": "refit", "effort": "fast"}))
    found = {}
    for model, options in jobs:
        key = f"{model.stem} {options['method']}"
        found[key] = digest(model, **options)
        print(f"{key}: {found[key][:16]}", flush=True)
    return found


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digests", type=Path)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--against", action="store_true", help="compare with the digests instead of writing them")
    arguments = parser.parse_args()
    found = digests(arguments.folders)
    if not arguments.against:
        arguments.digests.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return
    expected = json.loads(arguments.digests.read_text(encoding="utf-8"))
    different = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    print(f"{len(found) - len(different)} of {len(found)} the same" + "".join(f"\n  {key}" for key in different))
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
