"""Record what a piece of training code does to gradients and weights, without its cooperation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.recording.call_site import caller_frame
from robomimic_vae_ext.gradient_flow.recording.events import Recording
from robomimic_vae_ext.gradient_flow.recording.inventory import flatten_optimizers, take_inventory
from robomimic_vae_ext.gradient_flow.recording.patches import listening
from robomimic_vae_ext.gradient_flow.recording.recorder import Recorder
from robomimic_vae_ext.gradient_flow.recording.write_trace import WriteTrace
from robomimic_vae_ext.gradient_flow.show.flow_report import Report


class Tape:
    """The recording while it runs, and the report afterwards. Made by `record`.

    Training under the tape is bit-identical to training without it: the tape reads, compares and
    copies; it draws no random number and writes to no tensor of the training code.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recording: Recording | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Mark one training step; optional.

        A contract must hold in each marked step. Without marks the recording counts as one step.
        """
        with self._recorder.step():
            yield

    @contextmanager
    def label(self, name: str) -> Iterator[None]:
        """Name the losses whose backward is called in this block; optional."""
        before, self._recorder.label = self._recorder.label, name
        try:
            yield
        finally:
            self._recorder.label = before

    @property
    def recording(self) -> Recording:
        """The finished record.

        Raises:
            AuditError: the block is still running.
        """
        if self._recording is None:
            raise AuditError(
                "the recording has not ended",
                "a finished `with record(...)` block",
                "Ask for the report after the block.",
            )
        return self._recording

    def report(self, contract: Contract | None = None) -> Report:
        """Verdicts as text, JSON or figure; with a contract also on what it asks for.

        Raises:
            AuditError: no backward was recorded, or the contract names what is not there.
        """
        return Report.of(self.recording, contract)

    @contextmanager
    def running(self, trace: WriteTrace | None) -> Iterator[None]:
        """Listen while the block runs; afterwards nothing of the tape is left in torch."""
        started = time.perf_counter()

        def close() -> None:
            self._recording = self._recorder.finish(time.perf_counter() - started)

        with ExitStack() as stack:
            # First in, last out: the record closes even when the training code raises.
            stack.callback(close)
            stack.enter_context(listening(self._recorder))
            if trace is not None:
                stack.enter_context(trace.running())
            yield


@contextmanager
def record(
    modules: Any, optimizers: Any, *, keep_vectors: bool = False, trace_writes: bool = True
) -> Iterator[Tape]:
    """Record the training code in the block.

    Args:
        modules: named modules: a dictionary, an `nn.ModuleDict` (robomimic's `model.nets`), lists
            of modules inside, or one module, whose children are taken.
        optimizers: named optimizers, likewise (`model.optimizers`).
        keep_vectors: keep every loss's gradient per module, to compare directions.
        trace_writes: see each in-place write to a parameter with its line. Switch it off where
            `torch.compile` is in use, which falls back to eager execution under such a trace.

    Yields:
        The tape. `tape.report()` prints as text once the block has ended.

    Raises:
        AuditError: a module or optimizer that is not one, or parameters without values.
    """
    named = flatten_optimizers(optimizers)
    inventory = take_inventory(modules, named)
    until = caller_frame()
    recorder = Recorder(inventory, named, keep_vectors, until)
    if trace_writes:
        recorder.trace = WriteTrace(inventory.tensors, recorder.is_muted, until)
    tape = Tape(recorder)
    with tape.running(recorder.trace):
        yield tape
