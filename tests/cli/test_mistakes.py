"""Every mistyped word is answered with the one that was meant, in these words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

from onnxmerge.cli import main
from onnxmerge.plan.options import METHODS

MODELS = Path(__file__).resolve().parents[2] / "sample_models"
VGG = MODELS / "vgg_bn.onnx"
TWO_INPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8] images, float[N,8] masks) => (float[N,8] y)
{
    y = Mul(images, masks)
}
"""

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """The message of a command line that cannot be used."""

    def call(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err.removeprefix("onnxmerge: error: ").removesuffix("\n")

    return call


def test_an_option(fails: Fails) -> None:
    see = "See onnxmerge compress --help"
    assert fails("a.onnx", "b.onnx", "--raito", "0.5") == f"there is no option '--raito'; did you mean '--ratio'? {see}"
    assert fails("--raito", "0.5", "a.onnx", "b.onnx") == f"there is no option '--raito'; did you mean '--ratio'? {see}"
    assert fails("inspect", "a.onnx", "--jsno", "-") == (
        "there is no option '--jsno'; did you mean '--json'? See onnxmerge inspect --help"
    )
    assert fails("a.onnx", "--xyzzy") == "there is no option '--xyzzy'; see onnxmerge compress --help"
    assert "did you mean '--no-verify'?" in fails("a.onnx", "b.onnx", "--no-verfy")


def test_a_choice(fails: Fails) -> None:
    assert fails("a.onnx", "b.onnx", "--method", "neuron-mergin") == (
        f"Invalid value for '--method': 'neuron-mergin' is none of {', '.join(METHODS)}; "
        "did you mean 'neuron-merging'? See onnxmerge compress --help"
    )
    assert fails("a.onnx", "b.onnx", "--of", "xyz") == (
        "Invalid value for '--of': 'xyz' is none of macs, params, channels, latency; see onnxmerge compress --help"
    )


def test_a_command(fails: Fails) -> None:
    said = "there is no command and no file named 'comapre'; did you mean 'compare'?"
    assert fails("comapre", VGG, VGG) == said
    assert fails("comapre", VGG, VGG, "--batch", "1") == said
    assert (
        fails("foo")
        == fails("foo", VGG, VGG)
        == (
            "there is no command and no file named 'foo'; the commands are compress, inspect, compare, tradeoff, "
            "quantize, fleet; a model is a file such as model.onnx"
        )
    )
    assert "no command" not in fails("foo.onnx", "out.onnx")
    assert fails("trade-off", VGG) == "there is no command and no file named 'trade-off'; did you mean 'tradeoff'?"


@pytest.mark.parametrize("option", ["--only", "--skip"])
def test_a_node(fails: Fails, option: str) -> None:
    words = (VGG, "--dry-run", "--method", "prune", option)
    assert fails(*words, "conv1x") == (
        f"{option} 'conv1x' matches no node or module; nearest are 'conv1', 'conv2', 'conv3'"
    )
    assert fails(*words, "/conv2/Cnov") == (f"{option} '/conv2/Cnov' matches no node or module; nearest are 'conv2'")
    assert fails(*words, "zzz*") == (
        f"{option} 'zzz*' matches no node or module; nodes that produce channels are 'conv1', 'conv2', 'conv3', … "
        "(onnxmerge inspect lists them)"
    )


def test_a_glob_that_matches_what_makes_no_channels_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(VGG), "--dry-run", "--method", "prune", "--skip", "/fc/*", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_input_of_a_shape(fails: Fails) -> None:
    assert fails("inspect", VGG, "--shape", "image:1,1,28,28") == (
        "--shape names 'image', but the inputs are: images; did you mean 'images'?"
    )
    assert fails("inspect", VGG, "--shape", "x:1,1,28,28") == "--shape names 'x', but the inputs are: images"


def test_an_array_of_samples(fails: Fails, tmp_path: Path) -> None:
    model, samples = tmp_path / "two.onnx", tmp_path / "samples.npz"
    onnx.save(parser.parse_model(TWO_INPUTS), model)
    array = np.ones((4, 8), np.float32)
    np.savez(samples, imgaes=array, masks=array)
    assert fails("compare", model, model, "--data", samples) == (
        f"{samples}: expected an array named 'images' for the model's input, got 'imgaes', 'masks'; "
        "rename 'imgaes' to 'images'"
    )
    np.savez(samples, masks=array)
    assert fails("compare", model, model, "--data", samples) == (
        f"{samples}: expected an array named 'images' for the model's input, got 'masks'"
    )


def test_an_array_of_another_input_is_not_to_be_renamed(fails: Fails, tmp_path: Path) -> None:
    model, samples = tmp_path / "two.onnx", tmp_path / "samples.npz"
    onnx.save(parser.parse_model(TWO_INPUTS.replace("masks", "image")), model)
    np.savez(samples, image=np.ones((4, 8), np.float32))
    assert fails("compare", model, model, "--data", samples) == (
        f"{samples}: expected an array named 'images' for the model's input, got 'image'"
    )


def test_image_options_without_images(fails: Fails, tmp_path: Path) -> None:
    samples, target = tmp_path / "samples.npz", tmp_path / "out.onnx"
    np.savez(samples, images=np.ones((8, 1, 28, 28), np.float32))
    said = "only folders of images or sounds are prepared so, and the samples are neither; "
    said += "leave out, or give such a folder"
    for words in ((VGG, target), (VGG, target, "--calib", samples), ("compare", VGG, VGG, "--data", samples)):
        assert fails(*words, "--mean", "0.5") == f"--mean: {said}"
    assert fails("compare", VGG, VGG, "--resize", "28") == f"--resize: {said}"
    assert fails("tradeoff", VGG, "--std", "2", "--preprocessor", "/nope.json") == f"--std, --preprocessor: {said}"
    assert not target.exists()


def test_image_options_with_images_among_the_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples, pictures = tmp_path / "samples.npz", tmp_path / "pictures"
    np.savez(samples, images=np.ones((8, 1, 28, 28), np.float32))
    pictures.mkdir()
    Image.new("L", (28, 28), 77).save(pictures / "a.png")
    words = (VGG, "--dry-run", "--method", "prune", "--calib", samples, "--data", pictures, "--mean", "0.5", "-q")
    assert main([str(word) for word in words]) == 0
    assert capsys.readouterr() == ("", "")
