"""Models whose weights lie beside them: memory, pieces, several files, links.

Memory is what Python's allocator hands out (`tracemalloc`), which is the same on every machine; mapped files are not in
it, and `benchmarks/large_model.py` measures those too, on a model of 6 GB. Blocks are made as small as the layers are.
"""

from __future__ import annotations

import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.apply import absorb
from onnxmerge.decompose import rows as decompose_rows
from onnxmerge.errors import ModelError
from onnxmerge.graph import lazy, load, save
from onnxmerge.pipeline import calibration, compressing, verifying
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Net, random_feed, relative, run
from tests.calls import compress, compress_file

UNVERIFIED = Verification(enabled=False)
HALF = Options(ratio=0.5, method="neuron-merging")
BLOCKS: tuple[tuple[ModuleType, str], ...] = (
    (decompose_rows, "_BLOCK"),
    (absorb, "_BLOCK"),
    (lazy, "_BLOCK"),
    (save, "_PIECE"),
)
METHODS = ("prune", "neuron-merging", "fold")


def stack(*widths: int, norm: bool = True) -> onnx.ModelProto:
    """Fully connected layers, weights of both layouts in turn; with a BatchNormalization behind the first."""
    net = Net(opset=17)
    h = net.input("N", widths[0])
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        if number:
            h = net.add("Relu", h)
        if number % 2:
            h = net.add("Add", net.matmul(h, inputs, outputs, name=f"m{number}"), net.random(outputs))
        else:
            h = net.gemm(h, inputs, outputs, transB=1, name=f"g{number}")
        if norm and not number:
            h = net.batchnorm(h, outputs)
    net.output(h, 2)
    return net.model()


def apart(path: Path, model: onnx.ModelProto, *, files: int = 1) -> Path:
    """Save a model with its weights in files beside it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # onnx.save changes what it saves
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    if files > 1:
        written = onnx.load(path, load_external_data=False)
        whole = path.with_name(f"{path.name}.data").read_bytes()
        for number, tensor in enumerate(written.graph.initializer):
            entries = {entry.key: entry for entry in tensor.external_data}
            start, length = int(entries["offset"].value), int(entries["length"].value)
            other = path.with_name(f"part{number % files}.bin")
            with other.open("ab") as stream:
                entries["location"].value, entries["offset"].value = other.name, str(stream.tell())
                stream.write(whole[start : start + length])
        path.with_name(f"{path.name}.data").unlink()
        path.write_bytes(written.SerializeToString())
    return path


def small_blocks(patch: pytest.MonkeyPatch, elements: int) -> None:
    for module, name in BLOCKS:
        patch.setattr(module, name, elements)


@pytest.mark.parametrize("method", METHODS)
def test_memory_holds_no_whole_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Four layers are cut with little more than one of them in memory; held whole in float64, a layer takes two.

    Clustering would hold all rows of a layer, so `fold` goes by their norms here.
    """
    width = 1024
    layer = 4 * width * width
    source = apart(tmp_path / "in.onnx", stack(*[width] * 5, norm=False))
    small_blocks(monkeypatch, layer // 64)
    for module in (compressing, calibration, verifying):
        monkeypatch.setattr(module, "MEMORY_LIMIT", 3 * layer)
    options = Options(ratio=0.5, method=method, select="l2")
    compress_file(apart(tmp_path / "warm.onnx", stack(8, 8, 8)), tmp_path / "w.onnx", options, verification=UNVERIFIED)
    tracemalloc.start()
    try:
        compress_file(source, tmp_path / "out.onnx", options, verification=UNVERIFIED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * layer, f"{peak / layer:.2f} layers"
    # Beside the model without being asked: its source is above the limit, though it is not.
    assert (tmp_path / "out.onnx.data").stat().st_size > layer


@pytest.mark.parametrize("elements", [1, 100, 1000])
@pytest.mark.parametrize("method", [*METHODS, "reprune"])
def test_pieces_make_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, elements: int
) -> None:
    """Whatever the pieces, the same channels stay and the same weights are written, in whichever file."""
    source = apart(tmp_path / "in.onnx", stack(12, 40, 23, 31, 6))
    options = Options(ratio=0.5, method=method)
    whole = compress(source, options, verification=UNVERIFIED)
    small_blocks(monkeypatch, elements)
    pieces = compress(source, options, verification=UNVERIFIED)
    assert [entry.kept for entry in pieces.plan.groups] == [entry.kept for entry in whole.plan.groups]
    assert [entry.target for entry in pieces.plan.groups] == [entry.target for entry in whole.plan.groups]
    written = onnx.load(pieces.save(tmp_path / "out.onnx", external_data=True))
    assert arrays(written).keys() == arrays(whole.model).keys()
    for name, array in arrays(whole.model).items():
        np.testing.assert_allclose(arrays(written)[name], array, rtol=1e-6, atol=1e-7)


def test_distances_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stack(12, 40, 23, 31, 6)
    options = Options(ratio=0.5, method="prune", select="gm")
    whole = compress(model, options, verification=UNVERIFIED)
    small_blocks(monkeypatch, 100)
    pieces = compress(model, options, verification=UNVERIFIED)
    assert [entry.kept for entry in pieces.plan.groups] == [entry.kept for entry in whole.plan.groups]


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_result_needs_nothing_of_its_source(tmp_path: Path) -> None:
    """Weights in several files, a result in another folder, the first folder deleted."""
    model = stack(12, 40, 23, 31, 6)
    expected = run(compress(model, HALF, verification=UNVERIFIED).model, random_feed(model))
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    source = apart(before / "in.onnx", model, files=3)
    assert len(list(before.iterdir())) == 4
    compress_file(source, after / "out.onnx", HALF, external_data=True)
    shutil.rmtree(before)
    moved = after.rename(tmp_path / "moved")
    assert relative(run(onnx.load(moved / "out.onnx"), random_feed(model)), expected) < 1e-6


def linked(folder: Path, model: onnx.ModelProto) -> tuple[Path, Path]:
    """A model with its weights beside it in a folder, and a link to it in another one."""
    real, other = folder / "real", folder / "other"
    real.mkdir()
    other.mkdir()
    link = other / "m.onnx"
    link.symlink_to(apart(real / "m.onnx", model))
    return real / "m.onnx", link


def test_a_link_to_a_model_is_followed(tmp_path: Path) -> None:
    model = stack(12, 40, 23, 6)
    real, link = linked(tmp_path, model)
    compress_file(link, tmp_path / "of_link.onnx", HALF)
    compress_file(real, tmp_path / "of_real.onnx", HALF)
    assert (tmp_path / "of_link.onnx").read_bytes() == (tmp_path / "of_real.onnx").read_bytes()


def test_data_beside_a_link_are_not_those_of_the_model(tmp_path: Path) -> None:
    real, link = linked(tmp_path, stack(12, 40, 23, 6))
    real.with_name("m.onnx.data").rename(link.with_name("m.onnx.data"))
    with pytest.raises(ModelError, match=r"'m\.onnx\.data' is missing; .* beside the model itself, in .*real"):
        load(link)


def test_data_outside_the_folder_of_the_real_model_are_refused(tmp_path: Path) -> None:
    """Seen from the link, the data would lie in its own folder."""
    real, link = linked(tmp_path, stack(12, 40, 23, 6))
    model = onnx.load(real, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../other/m.onnx.data"
    real.write_bytes(model.SerializeToString())
    real.with_name("m.onnx.data").rename(link.with_name("m.onnx.data"))
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(link)


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    model = stack(12, 40, 23, 6)
    real, link = linked(tmp_path, model)
    compress_file(link, link, HALF, overwrite=True, external_data=True)
    assert not link.is_symlink()
    assert relative(run(onnx.load(real), random_feed(model)), run(model, random_feed(model))) == 0
    assert sorted(file.name for file in link.parent.iterdir()) == ["m.onnx", "m.onnx.data"]


def pictures(width: int) -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.gemm(net.add("Flatten", net.input("N", 1, 4, 4)), 16, width)
    net.output(net.gemm(net.add("Relu", h), width, 10), 2)
    return net.model()


def test_wide_layers_are_merged_rather_than_fitted_without_samples() -> None:
    """8192 channels would be eliminated one by one from a matrix of 8192²: hours."""
    account = compress(pictures(8192), Options(), verification=UNVERIFIED).report
    assert {entry.compensate for entry in account.groups} == {"merge"}
    assert (
        "layers of this width are fitted only to real samples (--calib); --method refit fits to synthetic ones"
        in account.notes
    )
    narrow = compress(pictures(32), Options(), verification=UNVERIFIED).report
    assert {entry.compensate for entry in narrow.groups} == {"refit"}
