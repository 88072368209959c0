"""Label-free recovery: the weights of a cut network, trained towards the outputs of the original.

The one step of a compression that needs torch (the extra `recover`), and an option. The modules that
import torch are imported when it is asked for: `pipeline.recovering` imports `distillation` after `require_torch`.

1. `network` computes a `graph.Model` with torch, node by node; `operators`, `windows` and `layout` are its operators.
2. `inputs` stacks the samples, and varies them: flips, shifts, mixtures of two.
3. `targets` are the tensors of the original that are trained towards.
4. `recipe` holds the number of steps and the rate.
5. `distillation` trains. Only initializers change: graph, names and shapes stay.
"""

from __future__ import annotations

from onnxmerge.errors import RuntimeMissingError
from onnxmerge.suggestions import installing

__all__ = ["require_torch"]


def require_torch() -> None:
    """Say what is missing if torch is not installed.

    Raises:
        RuntimeMissingError: torch is not installed.
    """
    try:
        import torch  # noqa: F401, PLC0415 - imported only if it is asked for
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise RuntimeMissingError(
            f"--recover needs torch, which is not installed; try: {installing('recover')}"
        ) from error
