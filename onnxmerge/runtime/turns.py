"""Run models in turns, in blocks, and record the wall-clock and the processor time of every run.

1. A *turn* is several runs of one model in a row, at least a few milliseconds of them: caches are as warm as in use,
   and the clock of the process, which some systems advance in steps, has something to count.
2. A *block* is a stretch of turns, A B B A A B B A …, so that a processor that slows down hits all models alike.
3. A block begins with new sessions, opened in turns too. Two sessions of the same network can differ for as long as
   they are open (where their memory lies, which thread sits on which core), so runs of one pair of sessions are not
   independent of each other, while blocks are. Where opening takes too long, blocks share sessions.
4. New sessions are run before anything counts: the first runs allocate memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxmerge.runtime.load import Clocks

__all__ = ["Block", "Feed", "Limits", "Opener", "Runnable", "Timed", "run_blocks"]

Feed = Mapping[str, NDArray[Any]]

BLOCKS, LEAST_BLOCKS = 20, 6
"""Maximum number of blocks, and the number for which a measurement may take `_PATIENCE` times as long."""
_PATIENCE, _WAITING, _STARVED = 3.0, 2.0, 0.5
"""How many times as long a measurement may take for few blocks, and if it had less than this part of a core."""
_TURN_NS, _TURN_RUNS = 5_000_000, 100
"""Aim of a turn, and maximum number of runs in it."""
_WARM_RUNS, _WARM_PART = 3, 0.25
"""Runs of a new session that do not count, at least one, and the part of a block that they may take."""
_OPENING = 0.5
"""Part of the time that may have gone into opening sessions for the next block to have new ones. With less, blocks of a
network of 3 ms shared sessions on a busy machine, and intervals missed the truth more often than they should.
"""


class Runnable(Protocol):
    """A model that can be timed, such as ``Session``."""

    @property
    def provider(self) -> str:
        """First provider of the live session."""
        ...

    @property
    def threads(self) -> int | None:
        """Threads that were asked for."""
        ...

    def run(self, feed: Feed) -> Mapping[str, NDArray[Any]]:
        """Runs once."""
        ...


Opener = Callable[[], AbstractContextManager[Runnable]]
"""Opens a model; closing it frees its memory."""


@dataclass(frozen=True)
class Limits:
    """How long to measure.

    Attributes:
        seconds: Wall-clock time after which no block starts, except that `LEAST_BLOCKS` may take three times as long,
            and the others twice as long if the machine is so busy that the process mostly waits.
        blocks: Maximum number of blocks.
        runs: Maximum number of runs of each model in a block.
    """

    seconds: float = 5.0
    blocks: int = BLOCKS
    runs: int = 2000


@dataclass
class Timed:
    """The runs of one model in one block.

    Attributes:
        wall_ms: Wall-clock time of every run.
        cpu_ms: Processor time of a run, for every turn.
    """

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A block: each model's runs, and the first provider and the threads of each model's session."""

    models: tuple[Timed, ...]
    providers: tuple[str, ...]
    threads: tuple[int | None, ...]


def run_blocks(openers: Sequence[Opener], feeds: Sequence[Feed], limits: Limits, clocks: Clocks) -> list[Block]:
    """Run models in turns.

    Args:
        openers: One for each model.
        feeds: At least one, all with the same shapes; a turn takes the next one.
        limits: How long.
        clocks: What time is measured with.

    Returns:
        At least one block; in each, every model has run equally often.
    """
    started, used, opening = clocks.wall(), clocks.cpu(), 0
    blocks: list[Block] = []
    length = int(limits.seconds * 1e9 / limits.blocks)
    with ExitStack() as stack:
        sessions: list[Runnable] = []
        while len(blocks) < limits.blocks:
            spent = clocks.wall() - started
            starved = sessions != [] and _on_cpu(sessions) and clocks.cpu() - used < _STARVED * spent
            if not _time_left(spent, len(blocks), limits, starved=starved):
                break
            backwards = len(blocks) % 2 == 1
            before = clocks.wall()
            if not sessions or opening <= _OPENING * (before - started):
                stack.close()
                sessions = _open(openers, stack, backwards=backwards)
                _warm(sessions, feeds[0], length, clocks)
                opening += clocks.wall() - before
            blocks.append(_block(sessions, feeds, length, limits.runs, clocks, backwards=backwards))
    return blocks


def _time_left(spent: int, blocks: int, limits: Limits, *, starved: bool) -> bool:
    patience = _PATIENCE if blocks < min(LEAST_BLOCKS, limits.blocks) else _WAITING if starved else 1.0
    return blocks == 0 or spent < limits.seconds * patience * 1e9


def _on_cpu(sessions: Sequence[Runnable]) -> bool:
    return all(session.provider.startswith("CPU") for session in sessions)


def _open(openers: Sequence[Opener], stack: ExitStack, *, backwards: bool) -> list[Runnable]:
    order = range(len(openers))
    opened = {place: stack.enter_context(openers[place]()) for place in (reversed(order) if backwards else order)}
    return [opened[place] for place in order]


def _warm(sessions: Sequence[Runnable], feed: Feed, length: int, clocks: Clocks) -> None:
    end = clocks.wall() + int(length * _WARM_PART)
    for number in range(_WARM_RUNS):
        if number and clocks.wall() >= end:
            break
        for session in sessions:
            session.run(feed)


def _block(
    sessions: Sequence[Runnable], feeds: Sequence[Feed], length: int, most: int, clocks: Clocks, *, backwards: bool
) -> Block:
    models = tuple(Timed() for _ in sessions)
    order = list(range(len(sessions)))[:: -1 if backwards else 1]
    end, done, runs, turn = clocks.wall() + length, 0, 1, 0
    while done < most and (turn == 0 or clocks.wall() < end):
        runs = min(runs, most - done)
        for place in order if turn % 2 == 0 else order[::-1]:
            _turn(sessions[place], feeds[turn % len(feeds)], runs, models[place], clocks)
        done += runs
        slowest = max(sum(each.wall_ms[-runs:]) / runs for each in models)
        if turn == 0:  # a single run each, to see how many fill a turn
            runs = max(1, min(_TURN_RUNS, round(_TURN_NS / 1e6 / max(slowest, 1e-6))))
        turn += 1
    return Block(models, tuple(s.provider for s in sessions), tuple(s.threads for s in sessions))


def _turn(session: Runnable, feed: Feed, runs: int, timed: Timed, clocks: Clocks) -> None:
    wall, used = clocks.wall, clocks.cpu()
    for _ in range(runs):
        begin = wall()
        session.run(feed)
        timed.wall_ms.append((wall() - begin) / 1e6)
    timed.cpu_ms.append((clocks.cpu() - used) / 1e6 / runs)
