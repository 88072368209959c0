"""Many ratios with importance measured once give, ratio by ratio, what one compression each gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.errors import GateError, NothingToCutError, UsageError
from onnxmerge.pipeline import compress_each
from onnxmerge.plan.options import Options
from onnxmerge.runtime.session import Session
from onnxmerge.runtime.threads import THREADS
from onnxmerge.verify import Verification
from onnxmerge.verify import measure as timing
from tests.calls import compress, request
from tests.plan.test_plan import network


def samples(model: onnx.ModelProto) -> dict[str, Any]:
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    values = np.random.default_rng(0).standard_normal((60, *dims)).astype(np.float32)
    return {model.graph.input[0].name: values}


def written(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize("method", ["prune", "refit"])
def test_each_is_what_compress_gives(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_timing(*_: object, **__: object) -> None:
        raise AssertionError("timed")

    model, verification = network(), Verification(provider="cpu")
    options = Options(method=method, round_to=1)
    asked = request(model, options, calibration=samples(model), verification=verification)
    with monkeypatch.context() as patch:
        patch.setattr(timing, "compare_latency", no_timing)
        tried = list(compress_each(asked, (0.4, 0.2)))
    assert [each.ratio for each in tried] == [0.4, 0.2]
    for each in tried:
        assert each.result is not None
        alone = compress(
            model, Options(ratio=each.ratio, method=method, round_to=1), calibration=samples(model),
            verification=Verification(enabled=False),
        )  # fmt: skip
        assert written(each.result.model) == written(alone.model)
        assert f"calibration=samples, ratio={each.ratio}, method='{method}'" in each.result.report.call
        assert each.result.report.latency is None
        assert "arrays" in each.result.report.samples
        assert each.result.report.fidelity is not None


def test_the_original_runs_once_for_all_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    model, counts = network(), list[int]()
    original = Session.run

    def counted(self: Session, feed: Any) -> Any:
        counts[-1] += 1
        return original(self, feed)

    monkeypatch.setattr(Session, "run", counted)
    asked = request(model, Options(method="prune", round_to=1), verification=Verification(provider="cpu"))
    for ratios in ((0.4,), (0.4, 0.2), (0.4, 0.2, 0.3)):
        counts.append(0)
        assert all(each.result is not None for each in compress_each(asked, ratios))
    one, two, three = counts
    assert three - two == two - one < one


def test_a_refused_ratio_does_not_end_the_others() -> None:
    model = network()
    asked = request(model, Options(method="prune"), verification=Verification(min_cosine=1.0))
    found = list(compress_each(asked, (0.001, 0.5)))
    assert [each.result for each in found] == [None, None]
    assert [type(each.error) for each in found] == [NothingToCutError, GateError]
    assert getattr(found[1].error, "account", None) is not None


def test_what_would_be_timed_is_refused() -> None:
    with pytest.raises(UsageError, match="many models at once are not timed"):
        next(compress_each(request(network(), Options(of="latency")), (0.5,)))


def test_the_environment_limits_the_threads_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    import onnxruntime as ort

    original = ort.InferenceSession

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(options["sess_options"].intra_op_num_threads)
        return original(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    monkeypatch.setenv(THREADS, "1")
    data = network().SerializeToString()
    with Session.open(data, "cpu"), Session.open(data, "cpu", threads=3):
        pass
    assert seen == [1, 3]
    monkeypatch.setenv(THREADS, "many")
    with pytest.raises(UsageError, match="ONNXMERGE_NUM_THREADS is 'many'"):
        Session.open(data, "cpu")
