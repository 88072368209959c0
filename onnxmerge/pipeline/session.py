"""One request, from the model to the report, in six calls.

    session = Session(request)
    session.network                  # the analysed model
    plan = session.plan(0.5)         # what to remove
    cut = session.cut(plan)          # the smaller model
    cut = session.predict(cut)       # with the error that a trial predicts
    measured = session.verify(cut, written)
    session.report(cut, measured)

Everything else is a short caller of these: `compress` plans once, the search under a gate and the trade-off curve plan
many times. What does not depend on the ratio is done once, when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from onnxmerge.errors import GateError
from onnxmerge.graph import to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline.analysis import analyse
from onnxmerge.pipeline.comparison_samples import comparison_samples
from onnxmerge.pipeline.cutting import Cut, cut_by
from onnxmerge.pipeline.plan_trials import predicted
from onnxmerge.pipeline.planning import plan_at
from onnxmerge.pipeline.preparing import Prepared, counting, prepare
from onnxmerge.pipeline.provenance import origin
from onnxmerge.pipeline.recovering import check_recovery, recovered, withdraw
from onnxmerge.pipeline.reporting import NO_HASHES, account
from onnxmerge.pipeline.request import Request
from onnxmerge.pipeline.run import ort_source, start, with_input_hint
from onnxmerge.pipeline.sample_loading import check_answerable, load_both
from onnxmerge.pipeline.verifying import verify
from onnxmerge.plan.plan import Plan
from onnxmerge.report.results import Report
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Measured, Progress, Remembered, compare_outputs, measure_point, quiet

__all__ = ["Session"]


class Session:
    """A request that is being carried out.

    Attributes:
        request: What the user asked for.
        run: The model, and the record of what was done: notes, times, passes.
        fitting: Samples to fit on; None if there are none.
        held: Samples to verify on; None if there are none.
        judging: Samples that decide whether trained weights are kept; None if none are trained.
    """

    def __init__(self, request: Request, progress: Progress = quiet) -> None:
        """Read the model, the samples, and the plan if one is given.

        Args:
            request: What the user asked for.
            progress: Called with the name of each stage.

        Raises:
            OnnxMergeError: Something cannot be read, or a gate does not apply to the model.
        """
        self.request = request
        self.run = start(request, progress)
        self.fitting, self.held = load_both(self.run)
        check_answerable(self.run.model, request.verification)
        self.judging = None
        if request.recover:
            self.fitting, self.judging = check_recovery(self.run, self.fitting)
        self._outputs = Remembered()
        self._origin = origin(self.run)  # before the result may replace the source

    @cached_property
    def network(self) -> Network:
        """The analysed model, its costs counted at the shapes of the samples if there are any."""
        return analyse(self.run, self.held if self.held is not None else self.fitting)

    @cached_property
    def prepared(self) -> Prepared:
        """What plans for any ratio are made from."""
        return prepare(self.run, self.network, self.fitting, self.held)

    def plan(self, ratio: float | Literal["auto"]) -> Plan:
        """Plan to remove a fraction, unless the request has a plan.

        Raises:
            NothingToCutError: No channel is removed at this ratio, or less than half of it can be reached.
        """
        with self.input_hint():
            return plan_at(self.run, self.prepared, ratio)

    def cut(self, plan: Plan) -> Cut:
        """Carry out a plan."""
        with self.input_hint():
            return cut_by(self.run, self.prepared, plan)

    def predict(self, cut: Cut) -> Cut:
        """A cut with the error on other samples that a trial predicts, if that costs little enough for the effort."""
        with self.input_hint(), self.run.stage("planning"), counting(self.run, "planning", self.prepared.calibration):
            return predicted(self.run, self.prepared, cut)

    def recover(self, cut: Cut) -> Cut:
        """Train the weights of a cut, if that is requested; the cut itself if it is not, or does not help."""
        if self.fitting is None or self.judging is None or cut.trained or self.run.recovery is not None:
            return cut
        return recovered(self.run, cut, self.fitting, replace(self.judging, joined=self.network.joined))

    def withdraw(self, refused: GateError) -> None:
        """Note that trained weights fail a gate, so that the refitted ones, which pass, are the result."""
        withdraw(self.run, refused)

    def verify(self, cut: Cut, written: bytes | Path, *, timed: bool = True) -> Measured:
        """Check a cut, as it is written, against its dense reference, and measure it; the caller checks the gates.

        Args:
            cut: The cut.
            written: It, as it is written.
            timed: Whether to measure latency.

        Raises:
            OnnxMergeError: The cut is incorrect.
        """
        with self.input_hint():
            return verify(self.run, cut, written, self.measured_on, None if timed else self._outputs)

    def report(
        self,
        cut: Cut,
        measured: Measured | None = None,
        *,
        target: Path | None = None,
        size: int | None = None,
        hashes: Mapping[str, str] = NO_HASHES,
    ) -> Report:
        """The report of a cut.

        Args:
            cut: The cut.
            measured: Its measurements; None if it was not verified.
            target: Where the model is written.
            size: Bytes of the written model.
            hashes: SHA-256 of the written files, by name.
        """
        return account(self.run, cut, target, size, measured, self._origin, hashes)

    def compare(self, cut: Cut) -> Measured:
        """Fidelity and accuracy of a cut, without the contract and without timing."""
        with self.input_hint(), self.run.stage("measuring"):
            smaller = to_proto(cut.model).SerializeToString()
            provider = self.request.verification.provider
            return compare_outputs(ort_source(self.run.source), smaller, self.measured_on, provider, self._outputs)

    def measure_point(self, cut: Cut, written: bytes) -> Measured:
        """Fidelity, accuracy and latency of a cut as a point of a curve, without the contract."""
        with self.input_hint(), self.run.stage("measuring"):
            return measure_point(
                ort_source(self.run.source), written, self.measured_on, self.request.verification, self._outputs,
                self.run.options.seed, cut.macs_ratio,
            )  # fmt: skip

    @cached_property
    def measured_on(self) -> Samples:
        """The samples to verify on; without any, synthetic ones, which are not those of a fit."""
        samples = self.held
        if samples is None:
            samples = comparison_samples(self.run, self.network, self.prepared.synthesis)
        return replace(samples, joined=self.network.joined)

    @contextmanager
    def input_hint(self) -> Iterator[None]:
        """Add advice on providing inputs if the model does not run on synthetic ones."""
        with with_input_hint(self.run, self.held):
            yield
