"""What a shell is told to complete: click's own protocol, through the default command as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxmerge.cli import main

Completed = Callable[[str], list[str]]


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Completed:
    """What may stand in the place of the last word."""

    def call(words: str) -> list[str]:
        monkeypatch.setenv("_ONNXMERGE_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        assert main([]) == 0
        return capsys.readouterr().out.split()

    return call


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_ONNXMERGE_COMPLETE", f"{shell}_source")
    assert main([]) == 0
    assert f"_ONNXMERGE_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_commands_and_files(completed: Completed) -> None:
    assert completed("onnxmerge ins") == ["file,ins", "plain,inspect"]
    assert completed("onnxmerge sample") == ["file,sample"]
    assert completed("onnxmerge inspect mod") == ["file,mod"]
    assert completed("onnxmerge model.onnx ou") == ["file,ou"]


def test_options_of_the_default_command(completed: Completed) -> None:
    assert completed("onnxmerge --ra") == ["plain,--ratio"]
    assert completed("onnxmerge in.onnx out.onnx --ra") == ["plain,--ratio"]
    assert completed("onnxmerge compress in.onnx --ra") == ["plain,--ratio"]
    assert completed("onnxmerge --vers") == ["plain,--version"]


def test_values(completed: Completed) -> None:
    assert completed("onnxmerge in.onnx out.onnx --method neu") == ["plain,neuron-merging"]
    assert completed("onnxmerge in.onnx out.onnx --calib samp") == ["file,samp"]
    assert completed("onnxmerge inspect in.onnx --json re") == ["file,re"]


def test_another_shell_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_ONNXMERGE_COMPLETE", "tcsh_source")
    assert main([]) == 1
    assert capsys.readouterr().out == ""
