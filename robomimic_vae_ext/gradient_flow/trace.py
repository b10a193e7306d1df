"""The recording step by step: one line per event, in the order in which things happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from robomimic_vae_ext.gradient_flow.contract import Verdict
from robomimic_vae_ext.gradient_flow.events import (
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
from robomimic_vae_ext.gradient_flow.fates import Cell


def trace(recording: Recording, cells: Iterable[Cell]) -> str:
    """What each event did to which module.

    Args:
        recording: the events.
        cells: name the losses, and say which gradients were thrown away unused.
    """
    cells = tuple(cells)
    names = {call.index: cell.loss.name for cell in cells for call in cell.loss.calls}
    thrown = {
        (item.cleared, recording.parameters[item.parameter].module): cell.loss.name
        for cell in cells
        for item in cell.fates.get(Verdict.DISCARDED, ())
    }
    rows = [_row(event, recording, names, thrown) for event in recording.events]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(
        f"{number:3}  {what.ljust(widths[0])}  {where.ljust(widths[1])}  {effect}".rstrip()
        for number, (what, where, effect) in enumerate(rows, start=1)
    )


def _row(
    event: Event,
    recording: Recording,
    names: Mapping[int, str],
    thrown: Mapping[tuple[int | None, str], str],
) -> tuple[str, str, str]:
    """What happened, on which line, and what it did."""
    if isinstance(event, Backward):
        added = _sum(event.added, recording)
        effect = (
            ", ".join(f"{m} +{norm:.3g}" for m, norm in added.items() if norm) or "reaches nothing"
        )
        return f"backward {names.get(event.index, '')}", event.site.where, effect
    if isinstance(event, Cleared):
        return f"zero_grad {event.by}", event.site.where, _cleared(event, recording, thrown)
    if isinstance(event, Clipped):
        norms = _sum(event.norms, recording)
        effect = ", ".join(f"{m} {norm:.3g}" for m, norm in norms.items()) or "nothing to clip"
        return event.kind, event.site.where, effect
    if isinstance(event, Stepped):
        return f"step {event.optimizer}", event.site.where, _moved(event, recording)
    if isinstance(event, Moved):
        sites = [site.where for i in event.moved for site in event.sites.get(i, ())]
        return "written outside", sites[0] if sites else "", _moved(event, recording)
    if isinstance(event, Edited):
        modules = dict.fromkeys(recording.parameters[i].module for i in sorted(event.parameters))
        return "gradient edited", event.site.where, ", ".join(modules)
    assert isinstance(event, BuffersMoved)
    return "buffers moved", "", ", ".join(event.buffers)


def _cleared(
    event: Cleared, recording: Recording, thrown: Mapping[tuple[int | None, str], str]
) -> str:
    modules = dict.fromkeys(recording.parameters[i].module for i in sorted(event.parameters))
    parts = []
    for module in modules:
        loss = thrown.get((event.index, module))
        parts.append(f"{module} THROWN AWAY UNUSED (of {loss})" if loss else module)
    return ", ".join(parts) or "nothing was there"


def _moved(event: Stepped | Moved, recording: Recording) -> str:
    parts = []
    for module, distance in _sum(event.moved, recording).items():
        size = event.sizes.get(module, 0.0)
        relative = f" ({distance / size:.1e} of its norm)" if size else ""
        parts.append(f"{module} moves {distance:.2g}{relative}")
    return ", ".join(parts) or "nothing moves"


def _sum(norms: Mapping[int, float], recording: Recording) -> dict[str, float]:
    """Norms of parameters put together to norms of modules, in the recording's order."""
    squares: dict[str, float] = {}
    for i in sorted(norms):
        module = recording.parameters[i].module
        squares[module] = squares.get(module, 0.0) + norms[i] ** 2
    return {module: square**0.5 for module, square in squares.items()}
