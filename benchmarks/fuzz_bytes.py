"""Damaged models: whatever the file, `inspect` and `compress` end with a result or with an error of status 2 or 3.

Cases are made from small valid models by one seeded change each: flipped or cut bytes, absurd dimensions, cycles,
duplicate names, axes out of range, attributes of the wrong type, constants that ask for terabytes, missing inputs.
They run in batches, each in a process of its own with a limit on memory, so that a crash of native code or a hang is
one more outcome and not the end. What counts as a failure:

1. an exception that is no OnnxMergeError, or one of status 70; 2. more than 10 seconds of CPU; 3. a native crash;
4. more than 1 GB above what the process takes at rest.

Run: python benchmarks/fuzz_bytes.py [--cases N] [--seed S]
Exit status 1 where there is a failure; each is shown with its seed, and --replay SEED runs one again in this process.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import faulthandler
import json
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType

from fuzz_changes import case, seeds

from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import Request, compress, inspect
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification

SECONDS = 10
MEMORY = 1 << 30
BATCH = 100


class TooSlowError(Exception):
    """A case took longer than it may."""


def run(data: bytes) -> str:
    """What became of a file."""
    outcome = "success"
    request = Request(data, Options(ratio=0.3, method="prune"), verification=Verification(enabled=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (
            lambda: inspect(data),
            lambda: compress(request),
        ):
            try:
                step()
            except OnnxMergeError as error:
                if error.exit_status not in (2, 3):
                    raise
                outcome = type(error).__name__
    return outcome


def worker(start: int, count: int) -> int:
    """Run a batch and print one line of JSON for each case, the first before anything can go wrong."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlowError(f"more than {SECONDS} s of CPU")

    # What waits without computing ends with the time limit of the batch; a busy machine is no finding.
    signal.signal(signal.SIGPROF, late)
    faulthandler.enable()
    seeds()
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in range(start, start + count):
        kind, data = case(seed)
        print(json.dumps({"seed": seed, "kind": kind, "outcome": "started"}), flush=True)
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        trace = ""
        try:
            outcome = run(data)
        except BaseException as error:  # everything that gets here is a finding
            outcome, trace = f"FAILED {type(error).__name__}", "".join(traceback.format_exception(error)[-4:])
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak - rest > MEMORY and not trace:
            outcome = f"FAILED {(peak - rest) >> 20} MB"
            rest = peak
        line = {"seed": seed, "kind": kind, "outcome": outcome, "seconds": seconds, "trace": trace}
        print(json.dumps(line), flush=True)
    return 0


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def batch(start: int, count: int) -> list[dict[str, object]]:
    """One batch in a process of its own; a case that ends the process is noted, and the rest runs in another."""
    found: list[dict[str, object]] = []
    while count > 0:
        command = [sys.executable, __file__, "--worker", str(start), str(count)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count * SECONDS, check=False)
            output, code, errors = done.stdout, done.returncode, done.stderr
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode()
            code, errors = -1, "hung in native code"
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        ended = {line["seed"] for line in lines if line["outcome"] != "started"}
        found.extend(line for line in lines if line["outcome"] != "started")
        lost = [line for line in lines if line["seed"] not in ended]
        if not lost:
            if len(ended) < count:
                raise RuntimeError(f"the worker at {start} ended early: {errors[-2000:]}")
            return found
        died = lost[-1]
        found.append({**died, "outcome": f"FAILED native, status {code}", "seconds": 0.0, "trace": errors[-2000:]})
        count -= died["seed"] + 1 - start
        start = died["seed"] + 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; each case has the next")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--replay", type=int, help="run one case here, and show what it raises")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(*arguments.worker)
    if arguments.replay is not None:
        kind, data = case(arguments.replay)
        print(kind, len(data), "bytes")
        print(run(data))
        return 0
    started = time.perf_counter()
    starts = range(arguments.seed, arguments.seed + arguments.cases, BATCH)
    last = arguments.seed + arguments.cases
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = [line for lines in pool.map(lambda s: batch(s, min(BATCH, last - s)), starts) for line in lines]
    outcomes = collections.Counter(str(line["outcome"]) for line in results)
    kinds = collections.Counter(str(line["kind"]).partition("+")[0] for line in results)
    failed = [line for line in results if str(line["outcome"]).startswith("FAILED")]
    print(f"{len(results)} cases: {', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items()))}")
    for outcome, number in outcomes.most_common():
        print(f"{number:6}  {outcome}")
    for line in failed:
        print(f"\n{line['outcome']}: seed {line['seed']} ({line['kind']})\n{line['trace']}")
    slowest = max(float(str(line["seconds"])) for line in results)
    total = time.perf_counter() - started
    print(f"\n{len(failed)} failed, the slowest case took {slowest:.1f} s of CPU, {total:.0f} s in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
