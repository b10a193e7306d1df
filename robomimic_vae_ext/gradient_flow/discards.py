"""Gradients that a reset throws away before the owner has stepped: the flagship rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from robomimic_vae_ext.gradient_flow.contract import Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.events import NOWHERE, Backward, Cleared, Contribution, Site
from robomimic_vae_ext.gradient_flow.fates import Cell, Fates


def discarded(fates: Fates) -> Iterator[Finding]:
    """One finding for each loss and module of which some parameter lost a gradient unused."""
    probes = _probes(fates)
    for cell in fates.cells:
        items = cell.fates.get(Verdict.DISCARDED, ())
        if not items:
            continue
        served = _served(fates, cell)
        lost = [
            item
            for item in items
            if (item.parameter, _reach(fates, item)) not in served and item.backward not in probes
        ]
        wasted = [] if lost else _wasted(fates, cell)
        # A single number among the lost, such as a temperature, is merely used by the loss.
        sizes = {fates.recording.parameters[item.parameter].numel for item in lost}
        excused = (cell.loss.name, cell.module) in fates.excused or sizes == {1}
        told = lost or wasted or items
        message = _message(fates, cell, told)
        if wasted:
            message += f" Every step uses a call of {cell.loss.name} and loses others."
        elif not lost and items[0].backward in probes:
            message += " Its backward served to move other weights by hand, as SAM does."
        elif not lost:
            message += " Other calls of the same loss do drive it."
        if excused:
            message += " It may be a detach left out on purpose: a contract would tell."
        yield Finding(
            Verdict.DISCARDED,
            Severity.BROKEN if (lost or wasted) and not excused else Severity.NOTE,
            cell.module,
            message,
            _reset(fates, told[0]),
            loss=cell.loss.name,
            parameters=fates.recording.names(item.parameter for item in told),
        )


def _served(fates: Fates, cell: Cell) -> frozenset[tuple[int, frozenset[str]]]:
    """(parameter, modules reached) of the loss's calls that did move the parameter.

    The parameter alone would not do: of an ensemble's calls, which count as one loss, the first
    member's may train a shared encoder while the second's is thrown away.
    """
    driven = cell.fates.get(Verdict.DRIVEN, ())
    return frozenset((item.parameter, _reach(fates, item)) for item in driven)


def _probes(fates: Fates) -> frozenset[int]:
    """Backward calls that moved weights by hand and that no step was to use: SAM's first."""
    items = fates.recording.contributions
    return frozenset(i.backward for i in items if i.by_hand) - {i.backward for i in items if i.used}


def _reach(fates: Fates, item: Contribution) -> frozenset[str]:
    event = fates.recording.events[item.backward]
    return frozenset(event.upstream) if isinstance(event, Backward) else frozenset()


def _wasted(fates: Fates, cell: Cell) -> list[Contribution]:
    """What is lost in every round: micro-batches with a zero_grad before each of them.

    A round ends with a step that uses the loss. A call that is repeated now and then (a retry, a
    gradient scaler that skips) leaves rounds without a loss; a single round tells neither.
    """
    lost: dict[int, list[Contribution]] = {}
    for item in cell.fates[Verdict.DISCARDED]:
        if not _is_nonfinite(fates, item):
            lost.setdefault(item.parameter, []).append(item)
    steps: dict[int, set[int]] = {}
    for item in cell.fates.get(Verdict.DRIVEN, ()):
        steps.setdefault(item.parameter, set()).update(item.used)
    wasted = []
    for parameter, items in lost.items():
        rounds = list(pairwise([-1, *sorted(steps.get(parameter, ()))]))
        if len(rounds) > 1 and all(
            any(begin < item.backward < end for item in items) for begin, end in rounds
        ):
            wasted.extend(items)
    return wasted


def _message(fates: Fates, cell: Cell, items: Sequence[Contribution]) -> str:
    recording = fates.recording
    by = recording.events[items[0].cleared or 0]
    how = f"{by.by}.zero_grad()" if isinstance(by, Cleared) and by.by != "by hand" else "a reset"
    owning = {name for item in items for name in recording.owners.get(item.parameter, ())}
    owners = " and ".join(name for name in recording.optimizers if name in owning)
    reached = recording.describe(item.parameter for item in items)
    message = (
        f"the gradient of {cell.loss.name} reaches {reached} (norm {cell.norm:.3g}) and is thrown "
        f"away by {how} at {_reset(fates, items[0]).where} before {owners}, its owner, has stepped "
        f"with it."
    )
    if any(_is_nonfinite(fates, item) for item in items):
        message += " It holds nan or inf, for which a gradient scaler skips the step."
    return message


def _reset(fates: Fates, item: Contribution) -> Site:
    event = None if item.cleared is None else fates.recording.events[item.cleared]
    return event.site if isinstance(event, Cleared) else NOWHERE


def _is_nonfinite(fates: Fates, item: Contribution) -> bool:
    event = fates.recording.events[item.backward]
    return isinstance(event, Backward) and item.parameter in event.nonfinite
