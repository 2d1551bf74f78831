"""What one measurement is worth, before judging."""

from __future__ import annotations

from device_tests.accuracy import agreement, dequantize, drop_interval_pp, evaluate, top1_correct
from device_tests.latency import summarise
from device_tests.outcome import JudgedFigures
from edgesmith.pipeline.build import Built
from edgesmith.pipeline.host import Outputs
from edgesmith.pipeline.prepare import Prepared
from edgesmith.result import LatencyRecord
from edgesmith.types import Accuracy, Measurement


class RowFigures:
    """Latency and accuracy of one artifact on one board.

    Attributes:
        outputs: dequantized; None where there are none, and then no accuracy and no agreement.
        accuracy_reason: why there is no accuracy.
        judged: what the judge looks at.
    """

    def __init__(self, measured: Measurement, built: Built, prepared: Prepared, reference: Outputs | None) -> None:
        """Computes them.

        Args:
            reference: outputs of the original model on this machine, for the agreement; None where there is none.
        """
        self.measured = measured
        self.latency: LatencyRecord = summarise(measured.samples_ns)
        self.outputs: Outputs | None = None
        self.accuracy: Accuracy | None = None
        self.agreement: float | None = None
        self.accuracy_reason = measured.outputs_reason or None
        if measured.outputs is not None:
            self.outputs = dequantize(measured.outputs, measured.output_quantization)
            self.accuracy = evaluate(
                prepared.loaded.config.task.metric,
                self.outputs,
                prepared.evaluation.y,
                reference_outputs=reference,
                root=prepared.loaded.root,
            )
            self.agreement = None if reference is None else agreement(self.outputs, reference)
        self.judged = JudgedFigures(
            latency=self.latency,
            accuracy=self.accuracy,
            accuracy_reason=self.accuracy_reason,
            accuracy_next_step=measured.outputs_next_step,
            agreement=self.agreement,
            agreement_reason=self.accuracy_reason,
            size_bytes=built.artifact.size_bytes,
            peak_rss_bytes=measured.peak_rss_bytes,
            peak_rss_reason=measured.peak_rss_reason,
            validity=measured.validity,
            validity_reasons=measured.validity_reasons,
            emulated=measured.board.emulated,
            fake=measured.board.fake,
        )


def lost_interval_pp(better: RowFigures, worse: RowFigures, prepared: Prepared) -> tuple[float, float] | None:
    """95 % interval of what `worse` loses against `better`, both asked the same samples; None but for top1."""
    labels = prepared.evaluation.y
    if labels is None or better.outputs is None or worse.outputs is None:
        return None
    if worse.accuracy is None or worse.accuracy.metric != "top1":
        return None
    return drop_interval_pp(top1_correct(better.outputs, labels), top1_correct(worse.outputs, labels))
