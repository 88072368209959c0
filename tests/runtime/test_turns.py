from __future__ import annotations

import pytest

from onnxmerge.runtime.turns import LEAST_BLOCKS, Limits, run_blocks
from tests.runtime.clocks import FEEDS, FakeTime, Model


def test_a_turn_is_some_runs_of_one_model_and_every_model_runs_equally_often() -> None:
    time = FakeTime()
    a, b = Model(time, "a", 2.0), Model(time, "b", 1.0)
    (block,) = run_blocks([a.open, b.open], FEEDS, Limits(0.06, blocks=1), time.clocks)
    warm, counted = time.diary[2:8], time.diary[8:-2]
    assert warm == ["a0", "b0"] * 3
    # One run each shows that two runs of the slower fill a turn; turns go back and forth over the feeds.
    assert counted[:2] == ["a0", "b0"]
    assert counted[2:10] == ["b1", "b1", "a1", "a1", "a0", "a0", "b0", "b0"]
    assert [len(each.wall_ms) for each in block.models] == [counted.count("a0") + counted.count("a1")] * 2
    assert set(block.models[0].wall_ms) == {2.0}
    assert set(block.models[1].cpu_ms) == {1.0}
    assert len(block.models[0].cpu_ms) == (len(block.models[0].wall_ms) + 1) // 2


def test_a_block_begins_with_new_sessions_opened_in_turns() -> None:
    time = FakeTime()
    a, b = Model(time, "a", 1.0), Model(time, "b", 1.0)
    blocks = run_blocks([a.open, b.open], FEEDS, Limits(10.0, blocks=4), time.clocks)
    assert len(blocks) == a.opened == b.opened == 4
    opened = [words for words in time.diary if words.startswith("open")]
    assert opened == ["open a", "open b", "open b", "open a"] * 2
    # All were closed, each pair before the next was opened.
    alive = 0
    for words in time.diary:
        alive += words.startswith("open") - words.startswith("close")
        assert 0 <= alive <= 2
    assert alive == 0


def test_blocks_share_sessions_that_take_long_to_open() -> None:
    time = FakeTime()
    a = Model(time, "a", 10.0, opening=800.0)
    blocks = run_blocks([a.open], FEEDS, Limits(4.0, blocks=20), time.clocks)
    assert len(blocks) >= 6
    assert 1 < a.opened < len(blocks) / 2


def test_time_bounds_the_blocks_but_six_of_them_may_take_three_times_as_long() -> None:
    time = FakeTime()
    a = Model(time, "a", 900.0)
    assert len(run_blocks([a.open], FEEDS, Limits(5.0), time.clocks)) == LEAST_BLOCKS
    assert 5e9 < time.wall < 15e9
    time = FakeTime()
    a = Model(time, "a", 2500.0)
    assert 1 < len(run_blocks([a.open], FEEDS, Limits(5.0), time.clocks)) < LEAST_BLOCKS
    assert 15 <= time.wall / 1e9 < 20  # no block starts after 15 s
    time = FakeTime()
    a = Model(time, "a", 30_000.0)
    assert len(run_blocks([a.open], FEEDS, Limits(5.0), time.clocks)) == 1


def test_on_a_machine_that_leaves_it_little_a_measurement_may_take_twice_as_long() -> None:
    spent = []
    for cpu, provider in ((1.0, "CPUExecutionProvider"), (0.3, "CPUExecutionProvider"), (0.3, "CUDAExecutionProvider")):
        time = FakeTime()
        a = Model(time, "a", 500.0, cpu=cpu, provider=provider)
        run_blocks([a.open], FEEDS, Limits(5.0), time.clocks)
        spent.append(time.wall / 1e9)
    assert 5 <= spent[0] == spent[2] < 7
    assert 10 <= spent[1] < 12


@pytest.mark.parametrize("most", [1, 7])
def test_the_runs_of_a_block_are_bounded(most: int) -> None:
    time = FakeTime()
    a = Model(time, "a", 0.5)
    blocks = run_blocks([a.open], FEEDS, Limits(1.0, blocks=3, runs=most), time.clocks)
    assert [len(block.models[0].wall_ms) for block in blocks] == [most] * 3
