"""The recording event by event: one line each, in the order in which things happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from robomimic_vae_ext.gradient_flow.judge.findings import Verdict
from robomimic_vae_ext.gradient_flow.judge.judgement import Judgement
from robomimic_vae_ext.gradient_flow.recording.events import (
    Backward,
    BuffersMoved,
    Cleared,
    Clipped,
    Edited,
    Event,
    Moved,
    Recording,
    Stepped,
)

#: (index of the event that cleared it, module) -> the loss whose gradient was thrown away unused.
_Thrown = Mapping[tuple[int | None, str], str]


def event_trace(judgement: Judgement) -> str:
    """What each event did to which module."""
    recording, cells = judgement.recording, judgement.cells
    names = {call.index: cell.loss.name for cell in cells for call in cell.loss.calls}
    thrown = {
        (gradient.source.cleared, cell.module): cell.loss.name
        for cell in cells
        for gradient in cell.judged(Verdict.DISCARDED)
    }
    rows = [_row(event, recording, names, thrown) for event in recording.events]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(
        f"{number:3}  {what.ljust(widths[0])}  {where.ljust(widths[1])}  {effect}".rstrip()
        for number, (what, where, effect) in enumerate(rows, start=1)
    )


def _row(
    event: Event, recording: Recording, names: Mapping[int, str], thrown: _Thrown
) -> tuple[str, str, str]:
    """What happened, on which line, and what it did."""
    if isinstance(event, Moved):
        sites = [site.where for i in event.moved for site in event.sites.get(i, ())]
        return "written outside", sites[0] if sites else "", _moved(event, recording)
    if isinstance(event, BuffersMoved):
        return "buffers moved", "", ", ".join(event.buffers)
    where = event.site.where
    if isinstance(event, Backward):
        added = recording.per_module(event.added)
        effect = ", ".join(f"{m} +{norm:.3g}" for m, norm in added.items() if norm)
        return f"backward {names.get(event.index, '')}", where, effect or "reaches nothing"
    if isinstance(event, Cleared):
        return f"zero_grad {event.by}", where, _cleared(event, recording, thrown)
    if isinstance(event, Clipped):
        norms = recording.per_module(event.norms)
        effect = ", ".join(f"{m} {norm:.3g}" for m, norm in norms.items())
        return event.kind, where, effect or "nothing to clip"
    if isinstance(event, Stepped):
        return f"step {event.optimizer}", where, _moved(event, recording)
    assert isinstance(event, Edited)
    return "gradient edited", where, ", ".join(_modules(event.parameters, recording))


def _cleared(event: Cleared, recording: Recording, thrown: _Thrown) -> str:
    parts = []
    for module in _modules(event.parameters, recording):
        loss = thrown.get((event.index, module))
        parts.append(f"{module} THROWN AWAY UNUSED (of {loss})" if loss else module)
    return ", ".join(parts) or "nothing was there"


def _moved(event: Stepped | Moved, recording: Recording) -> str:
    parts = []
    for module, distance in recording.per_module(event.moved).items():
        size = event.sizes.get(module, 0.0)
        relative = f" ({distance / size:.1e} of its norm)" if size else ""
        parts.append(f"{module} moves {distance:.2g}{relative}")
    return ", ".join(parts) or "nothing moves"


def _modules(parameters: Iterable[int], recording: Recording) -> list[str]:
    return list(dict.fromkeys(recording.parameters[i].module for i in sorted(parameters)))
