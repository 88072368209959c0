from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import ImageOptions, load_samples, stored

X = TensorSpec("x", "float32", ("N", 3, 4, 5))
VECTOR = TensorSpec("x", "float32", (None, 2))
RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def rows(n: int, width: int = 2) -> NDArray[np.float32]:
    return np.repeat(np.arange(n, dtype=np.float32)[:, None], width, axis=1)


def firsts(path: Path, *inputs: TensorSpec, limit: int | None = None, name: str = "x") -> list[float]:
    return [float(feed[name].flat[0]) for feed in load_samples(path, inputs, limit).feeds]


# --- .npz and .npy


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_name_with_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    path, images = tmp_path / "a.npz", normal(6, 3, 4, 5)
    save(path, labels=np.arange(6), other=np.zeros(3), x=images)
    samples = load_samples(path, [X], None)
    assert (samples.count, samples.synthetic, samples.batchable, samples.notes) == (6, False, True, ())
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in samples.feeds]), images)
    assert samples.feeds[0]["x"].shape == (1, 3, 4, 5)
    assert samples.labels is not None
    assert samples.labels.dtype == np.int64
    np.testing.assert_array_equal(samples.labels, np.arange(6))


def test_single_input_takes_the_first_array_that_is_not_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.arange(2), images=rows(2), more=rows(2) + 7)
    assert firsts(tmp_path / "a.npz", VECTOR) == [0, 1]


def test_an_input_called_labels_is_an_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=rows(2))
    samples = load_samples(tmp_path / "a.npz", [TensorSpec("labels", "float32", (None, 2))], None)
    assert samples.labels is None
    assert samples.count == 2


def test_the_limit_takes_evenly_spaced_rows_and_their_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(10), labels=np.arange(10))
    samples = load_samples(tmp_path / "a.npz", [VECTOR], 4)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 2, 5, 7]
    assert [feed["x"][0, 0] for feed in samples.feeds] == [0, 2, 5, 7]
    assert samples.source.endswith("4 of 10 samples, evenly spaced")


def test_rows_are_right_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BLOCK_BYTES", 20)
    np.savez_compressed(tmp_path / "a.npz", x=rows(31))
    assert firsts(tmp_path / "a.npz", VECTOR) == list(range(31))
    assert firsts(tmp_path / "a.npz", VECTOR, limit=5) == [0, 6, 12, 18, 24]


def test_fortran_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(normal(5, 3, 4, 5)))
    expected = np.load(tmp_path / "a.npy")
    samples = load_samples(tmp_path / "a.npy", [X], 2)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in samples.feeds]), expected[[0, 2]])


def test_whole_feeds_and_scalars(tmp_path: Path) -> None:
    inputs = [X, TensorSpec("state", "float32", (2, None, 3)), TensorSpec("rate", "int64", ())]
    path = tmp_path / "a.npz"
    np.savez(path, x=normal(4, 2, 3, 4, 5), state=normal(4, 2, 1, 3), rate=np.full(4, 16000))
    samples = load_samples(path, inputs, None)
    assert {name: array.shape for name, array in samples.feeds[3].items()} == {
        "x": (2, 3, 4, 5),
        "state": (2, 1, 3),
        "rate": (),
    }
    np.savez(path, x=normal(4, 2, 3, 4, 5), state=normal(4, 2, 1, 3), rate=np.array(8000))
    assert [int(feed["rate"]) for feed in load_samples(path, inputs, None).feeds] == [8000] * 4


def test_labels_of_whole_feeds_may_count_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=normal(3, 4, 2), labels=np.arange(12))
    samples = load_samples(tmp_path / "a.npz", [VECTOR], 2)
    assert (len(samples.feeds), samples.rows, samples.count) == (2, 4, 8)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_fixed_batch_groups_samples_and_drops_the_rest_with_a_note(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(10), labels=np.arange(10))
    fixed = TensorSpec("x", "float32", (4, 2))
    samples = load_samples(tmp_path / "a.npz", [fixed], None)
    assert [feed["x"][:, 0].tolist() for feed in samples.feeds] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert samples.labels is not None
    assert samples.labels.tolist() == list(range(8))
    assert (samples.rows, samples.batchable) == (4, False)
    assert samples.notes == ("the last 2 samples do not fill a batch of 4 and were omitted",)
    assert load_samples(tmp_path / "a.npz", [fixed], 1).count == 4


def test_a_folder_of_arrays_in_natural_order(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        np.save(tmp_path / f"s_{i}.npy", np.full(2, i, np.float32))
    np.save(tmp_path / "s_11.npy", np.full((2, 2), 11, np.float32))
    (tmp_path / "notes.txt").write_text("no samples")
    assert firsts(tmp_path, VECTOR) == [1, 2, 10, 11, 11]
    assert firsts(tmp_path, VECTOR, limit=2) == [1, 10]


def test_a_folder_mixing_files_with_and_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(2), labels=np.arange(2))
    np.savez(tmp_path / "b.npz", x=rows(2))
    with pytest.raises(UsageError, match="expected labels in all or in none"):
        load_samples(tmp_path, [VECTOR], None)


# --- types


@pytest.mark.parametrize(
    ("dtype", "values", "notes"),
    [
        ("float32", np.array([[0, 255]], np.uint8), 0),
        ("float32", np.array([[0.5, 1.5]], np.float64), 1),
        ("float16", np.array([[0.5, 1.5]], np.float32), 1),
        ("bfloat16", np.array([[0.5, 1.5]], np.float32), 1),
        ("float64", np.array([[0.5, 1.5]], np.float32), 0),
        ("int32", np.array([[1, -2]], np.int64), 0),
        ("float32", np.array([[1, 2**24]], np.int64), 0),
        ("int64", np.array([[True, False]]), 0),
        ("float32", np.array([[np.inf, -np.inf]], np.float32), 0),
    ],
)
def test_casts_that_keep_the_values(tmp_path: Path, dtype: str, values: NDArray[Any], notes: int) -> None:
    np.savez(tmp_path / "a.npz", x=values)
    samples = load_samples(tmp_path / "a.npz", [TensorSpec("x", dtype, (None, 2))], None)
    got = samples.feeds[0]["x"]
    assert got.dtype.name == dtype
    np.testing.assert_array_equal(got.astype(np.float64), values.astype(np.float64))
    assert len(samples.notes) == notes


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("int64", np.array([[0.5, 1.0]], np.float32), "expected int64 for input 'x', got float32"),
        ("bool", np.array([[0, 1]], np.uint8), "expected bool for input 'x', got uint8"),
        ("float32", np.array([[1, 2**24 + 1]], np.int64), "value 16777217 at .* does not fit float32"),
        ("int8", np.array([[1, 200]], np.uint8), "value 200 at .* does not fit int8"),
        ("uint8", np.array([[1, -1]], np.int8), "value -1 at .* does not fit uint8"),
        ("float16", np.array([[1, 1e6]], np.float32), "1 values are too large for float16"),
        ("float32", np.array([[1, np.nan]], np.float32), r"1 values are NaN, the first at \[0, 1\]"),
        ("string", np.array([[1, 2]], np.float32), "pass strings"),
    ],
)
def test_casts_that_change_the_values_are_refused(
    tmp_path: Path, dtype: str, values: NDArray[Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", x=values)
    with pytest.raises(UsageError, match=message):
        load_samples(tmp_path / "a.npz", [TensorSpec("x", dtype, (None, 2))], None)


def test_strings(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([["a", "b"]]))
    samples = load_samples(tmp_path / "a.npz", [TensorSpec("x", "string", (None, 2))], None)
    assert samples.feeds[0]["x"].tolist() == [["a", "b"]]


# --- every wrong thing is one line


Y = TensorSpec("y", "float32", (None, 2))


@pytest.mark.parametrize(
    ("inputs", "arrays", "message"),
    [
        ([VECTOR, Y], {"x": rows(2), "z": rows(2)}, "expected an array named 'y' .* got 'x', 'z'"),
        ([VECTOR, Y], {"x": rows(2), "y": rows(3)}, "same number of samples for every input, got 'x' 2, 'y' 3"),
        ([X], {"x": normal(2, 3, 4, 6)}, r"expected \(samples, 3, 4, 5\) or .* got \(2, 3, 4, 6\)"),
        ([X], {"x": normal(2, 4, 5, 3)}, r"try array.transpose\(0, 3, 1, 2\)"),
        ([X], {"x": normal(3, 4, 5)}, r"got \(3, 4, 5\)"),
        ([TensorSpec("x", "float32", (None, 1, 4, 4))], {"x": normal(9, 4, 4)}, r"try array\[:, None\]"),
        ([VECTOR], {"x": rows(0)}, "expected at least one sample"),
        ([TensorSpec("x", "float32", (8, 2))], {"x": rows(7)}, "fixed to 8, got only 7"),
        ([VECTOR], {"x": rows(3), "labels": np.arange(2)}, r"one label for each of 3 samples, got \(2\)"),
        ([VECTOR], {"x": rows(2), "labels": np.array([0.5, 1])}, "expected class numbers"),
        ([VECTOR], {"labels": np.arange(2)}, "expected an array named 'x' .* got 'labels'"),
        ([VECTOR], {"x": np.array([{}], object)}, "contains Python objects, which are rejected"),
        ([VECTOR], {"x": np.zeros((2, 2), [("a", "f4")])}, "contains records"),
    ],
)
def test_what_is_wrong_with_arrays(
    tmp_path: Path, inputs: list[TensorSpec], arrays: dict[str, NDArray[Any]], message: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message) as caught:
        load_samples(path, inputs, None)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def truncated(path: Path) -> None:
    np.save(path, rows(100))
    path.write_bytes(path.read_bytes()[:200])


def not_zip(path: Path) -> None:
    path.write_bytes(b"hello")


def not_npy_inside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"hello")


def no_arrays(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", not_zip, "cannot be read as .npz or .npy: File is not a zip file"),
        ("a.npy", not_zip, "cannot be read as .npz or .npy"),
        ("a.npz", not_npy_inside, r"a.npz\[x\]: cannot be read"),
        ("a.npz", no_arrays, "got none"),
        ("a.npy", truncated, "the data end before row 100 of 100"),
        ("a.csv", not_zip, "expected .npz, .npy, .txt .* got a .csv file"),
    ],
)
def test_files_that_are_not_what_they_say(
    tmp_path: Path, name: str, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(UsageError, match=message):
        load_samples(tmp_path / name, [VECTOR], None)


def test_paths_and_limits_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        load_samples(tmp_path / "gone.npz", [VECTOR], None)
    with pytest.raises(UsageError, match="this folder contains nothing"):
        load_samples(tmp_path, [VECTOR], None)
    np.save(tmp_path / "a.npy", rows(2))
    with pytest.raises(UsageError, match="at least 1, got 0"):
        load_samples(tmp_path / "a.npy", [VECTOR], 0)
    with pytest.raises(UsageError, match="no inputs"):
        load_samples(tmp_path / "a.npy", [], None)
    with pytest.raises(UsageError, match="got a single array without a name"):
        load_samples(tmp_path / "a.npy", [VECTOR, Y], None)


# --- ONNX test data


def write_set(folder: Path, *arrays: NDArray[Any]) -> None:
    folder.mkdir(parents=True)
    for k, array in enumerate(arrays):
        (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    (folder / "output_0.pb").write_bytes(b"never read")


def test_data_sets_in_order_of_their_number(tmp_path: Path) -> None:
    for i in (10, 9, 0):
        write_set(tmp_path / f"test_data_set_{i}", np.full((1, 2), i, np.float32), np.array(i))
    inputs = [VECTOR, TensorSpec("k", "int64", ())]
    assert firsts(tmp_path, *inputs) == [0, 9, 10]
    assert firsts(tmp_path, *inputs, limit=1, name="k") == [0]
    assert firsts(tmp_path / "test_data_set_9", *inputs) == [9]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([VECTOR, Y], "expected input_0.pb, input_1.pb for inputs 'x', 'y', got input_0.pb"),
        ([TensorSpec("x", "float32", (None, 3))], r"expected \(\?, 3\) for input 'x', got \(1, 2\)"),
    ],
)
def test_data_sets_that_do_not_fit(tmp_path: Path, inputs: list[TensorSpec], message: str) -> None:
    write_set(tmp_path / "test_data_set_0", rows(1))
    with pytest.raises(UsageError, match=message):
        load_samples(tmp_path, inputs, None)


def test_named_tensors_find_their_inputs(tmp_path: Path) -> None:
    """A file's number counts all inputs of a graph, those that have a value included; names are sure."""
    for k in range(2):
        folder = tmp_path / f"test_data_set_{k}"
        folder.mkdir()
        for number, name in ((1, "y"), (3, "x")):
            tensor = numpy_helper.from_array(np.full((1, 2), 10 * number + k, np.float32), name)
            (folder / f"input_{number}.pb").write_bytes(tensor.SerializeToString())
    assert firsts(tmp_path, VECTOR, Y) == [30, 31]
    assert firsts(tmp_path, VECTOR, Y, name="y") == [10, 11]
    with pytest.raises(UsageError, match=r"expected input_0\.pb for inputs 'x', got input_1.pb, input_3.pb"):
        load_samples(tmp_path, [VECTOR])


@pytest.mark.parametrize("kind", ["sequence_type", "optional_type", "map_type"])
def test_inputs_that_are_no_tensors(tmp_path: Path, kind: str) -> None:
    write_set(tmp_path / "test_data_set_0", rows(1))
    with pytest.raises(UsageError, match=r"input 'x' is (a sequence|an optional|a map); samples can only be tensors"):
        load_samples(tmp_path, [TensorSpec("x", kind, None)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xff\xff", "got something else"),
        (b"", "without an element type"),
        (onnx.SequenceProto(name="s", elem_type=1).SerializeToString(), "TensorProto"),
        (onnx.TensorProto(data_type=1, dims=[3], raw_data=b"ab").SerializeToString(), "not a valid TensorProto"),
        (onnx.TensorProto(data_type=1, data_location=onnx.TensorProto.EXTERNAL).SerializeToString(), "another file"),
    ],
)
def test_tensor_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "input_0.pb").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_samples(tmp_path, [VECTOR], None)


# --- images

IMAGE = TensorSpec("x", "float32", (1, 3, 4, 6))


def write_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_pixels_are_scaled_then_shifted_then_divided(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (255, 51, 0))
    options = ImageOptions(mean=(0.5, 0.1, 0.0), std=(0.25, 0.5, 1.0))
    got = load_samples(tmp_path, [IMAGE], None, images=options).feeds[0]["x"]
    assert got.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(got[0, :, 2, 3], [2.0, 0.2, 0.0], rtol=1e-6)
    bgr = load_samples(tmp_path, [IMAGE], None, images=ImageOptions(scale=1, order="BGR")).feeds[0]["x"]
    np.testing.assert_array_equal(bgr[0, :, 2, 3], [0, 51, 255])


def test_channels_last_grey_and_raw(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (9, 9, 9))
    last = load_samples(tmp_path, [TensorSpec("x", "uint8", (None, 4, 6, 3))], None).feeds[0]["x"]
    assert (last.shape, last.dtype.name, int(last.max())) == ((1, 4, 6, 3), "uint8", 9)
    grey = load_samples(tmp_path, [TensorSpec("x", "float32", (None, 1, None, None))], None).feeds[0]["x"]
    assert grey.shape == (1, 1, 4, 6)
    np.testing.assert_allclose(grey, 9 / 255, rtol=1e-6)


def test_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (1, 2, 3), size=(40, 20))
    free = TensorSpec("x", "float32", (None, 3, None, None))
    shape = {
        resize: load_samples(tmp_path, [free], None, images=ImageOptions(resize=resize)).feeds[0]["x"].shape
        for resize in (None, 10, (8, 7))
    }
    assert shape == {None: (1, 3, 20, 40), 10: (1, 3, 10, 20), (8, 7): (1, 3, 8, 7)}
    assert load_samples(tmp_path, [IMAGE], None).feeds[0]["x"].shape == (1, 3, 4, 6)
    assert load_samples(tmp_path, [IMAGE], None, images=ImageOptions(resize=5)).feeds[0]["x"].shape == (1, 3, 4, 6)


def test_subfolders_are_labels_and_a_limit_reaches_every_class(tmp_path: Path) -> None:
    for i, name in enumerate(("bee", "ant", "cat")):
        for k in range(4):
            write_image(tmp_path / name / f"{k}.png", (i, 0, 0))
    samples = load_samples(tmp_path, [IMAGE], 3)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2]
    assert samples.notes == ("labels are subfolders in the order ant, bee, cat",)


def test_numbered_subfolders_are_class_numbers(tmp_path: Path) -> None:
    for name in ("10", "2"):
        write_image(tmp_path / name / "a.png", (0, 0, 0))
    samples = load_samples(tmp_path, [IMAGE], None)
    assert samples.labels is not None
    assert samples.labels.tolist() == [2, 10]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([IMAGE, Y], ImageOptions(), "images feed a model with one input"),
        ([TensorSpec("x", "float32", (1, 8, 4, 6))], ImageOptions(), "1 or 3 channels"),
        ([TensorSpec("x", "float32", (1, 3, 4, 3))], ImageOptions(), "1 or 3 channels"),
        ([IMAGE], ImageOptions(mean=(0.1, 0.2)), "--mean: expected 1 or 3 numbers"),
        ([IMAGE], ImageOptions(mean=(123.7,)), "pass --scale 1"),
        ([IMAGE], ImageOptions(mean=(-5.0, 0.1, 0.1)), "--mean: -5 is beyond the pixels"),
        ([IMAGE], ImageOptions(mean=(-1.5,), scale=0.0039215686), None),
        ([IMAGE], ImageOptions(mean=(123.7,), scale=0.5), None),
        ([IMAGE], ImageOptions(std=(0.0,)), "--std: expected positive"),
        ([IMAGE], ImageOptions(resize=5, order="RGB"), None),
        ([IMAGE], ImageOptions(resize=3), "--resize 3 is smaller"),
        ([IMAGE], ImageOptions(resize=(9, 9)), "expected height 4 .* got 9"),
        ([IMAGE], ImageOptions(resize=16384), r"a\.png: is 4 x 6 and would be resized to 16384 x 24576; .* most 16384"),
        ([IMAGE], ImageOptions(resize=(4, 10**8)), "most 16384"),
        ([TensorSpec("x", "uint8", (1, 3, 4, 6))], ImageOptions(mean=(0.5,)), "takes raw pixels"),
    ],
)
def test_image_options(tmp_path: Path, inputs: list[TensorSpec], options: ImageOptions, message: str | None) -> None:
    write_image(tmp_path / "a.png", (0, 0, 0))
    if message is None:
        assert load_samples(tmp_path, inputs, None, images=options).count == 1
        return
    with pytest.raises(UsageError, match=message):
        load_samples(tmp_path, inputs, None, images=options)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"a\.png: cannot be read as an image"):
        load_samples(tmp_path, [IMAGE], None)
