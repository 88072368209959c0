"""Jobs from a file and from the command line: what they mean, and what is refused with the place in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.fleet import Job, jobs_of, read_jobs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("yaml", reason="needs onnxmerge[fleet]")
    for name in ("a.onnx", "b.onnx", "nets/c.onnx", "nets/d.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path.parent)
    return tmp_path


def read(folder: Path, text: str) -> tuple[Job, ...]:
    file = folder / "jobs.yaml"
    file.write_text(text, encoding="utf-8")
    return read_jobs(file, {"ratios": (0.4,), "methods": ("prune",), "seed": 3})


def test_defaults_entries_and_patterns(folder: Path) -> None:
    jobs = read(
        folder,
        "defaults: {ratios: [0.3, 0.5], calib: s.npz}\n"
        "models:\n- a.onnx\n- model: nets/*.onnx\n  methods: [auto, refit]\n  ratios: 0.2\n"
        "  shape: {x: [1, 3, 8, 8]}\n",
    )
    assert [(Path(job.model).name, job.method, job.ratios) for job in jobs] == [
        ("a.onnx", "prune", (0.3, 0.5)),
        ("c.onnx", "auto", (0.2,)),
        ("c.onnx", "refit", (0.2,)),
        ("d.onnx", "auto", (0.2,)),
        ("d.onnx", "refit", (0.2,)),
    ]
    assert {job.calib for job in jobs} == {str(folder / "s.npz")}  # relative to the file
    assert {job.seed for job in jobs} == {3}
    assert jobs[1].shape == {"x": (1, 3, 8, 8)}
    assert Path(jobs[0].model).is_absolute()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a list `models`"),
        ("models: []", "expected a list `models`"),
        ("models: [a.onnx]\nmodel: b.onnx", "the file has the key 'model'.*'models'"),
        ("models: [{model: a.onnx, ratio: 0.3}]", "entry 1 has the key 'ratio'.*'ratios'"),
        ("models: [{ratios: [0.3]}]", "entry 1 names no model"),
        ("models: [a.onnx, {model: nope.onnx}]", "entry 2: no such file: .*nope.onnx"),
        ("models: [{model: 'nets/*.pb'}]", "entry 1: no such file"),
        ("models: [{model: a.onnx, ratios: [1.5]}]", "entry 1: .*ratios are fractions"),
        ("models: [{model: a.onnx, ratios: [lots]}]", "entry 1: .*ratios are fractions"),
        ("models: [{model: a.onnx, methods: [magic]}]", "entry 1: method is 'magic'"),
        ("models: [{model: a.onnx, of: latency}]", "entry 1: a fleet is not timed"),
        ("models: [{model: a.onnx, shape: [1, 2]}]", "entry 1: shape is a list of lengths"),
        ("models: [{model: a.onnx, min_cosine: 2}]", "entry 1: min-cosine is 2"),
        ("models: [a.onnx\n", "is not YAML"),
    ],
)
def test_mistakes_are_one_line_with_their_place(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        read(folder, text)
    assert "\n" not in str(refused.value)
    assert "jobs.yaml" in str(refused.value)


def test_models_times_methods(folder: Path) -> None:
    jobs = jobs_of([folder / "a.onnx", folder / "b.onnx"], ("auto", "prune"), {"ratios": (0.2, 0.4)})
    assert [(Path(job.model).stem, job.method) for job in jobs] == [
        ("a", "auto"), ("a", "prune"), ("b", "auto"), ("b", "prune"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no such file"):
        jobs_of([folder / "nope.onnx"], ("auto",), {})


@pytest.mark.parametrize(
    ("workers", "expected"),
    [(1, [(0.2, 0.3, 0.4)]), (2, [(0.2,), (0.3, 0.4)]), (3, [(0.2,), (0.3,), (0.4,)]), (9, [(0.2,), (0.3,), (0.4,)])],
)
def test_ratios_that_share_no_measurement_are_dealt_to_workers(workers: int, expected: list[tuple[float, ...]]) -> None:
    job = Job("m.onnx", (0.2, 0.3, 0.4), "neuron-merging", seed=3)
    parts = job.parts(workers)
    assert [part.ratios for part in parts] == expected
    assert all((part.model, part.method, part.seed) == ("m.onnx", "neuron-merging", 3) for part in parts)


def test_a_ratio_counts_once() -> None:
    assert Job("m.onnx", (0.5, 0.3, 0.5)).ratios == (0.5, 0.3)


def test_ratios_that_share_a_measurement_stay_together() -> None:
    shared = Job("m.onnx", (0.3, 0.5), "auto")
    assert shared.parts(4) == (shared,)
