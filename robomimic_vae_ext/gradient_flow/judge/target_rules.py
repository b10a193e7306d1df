"""Rules for slow copies: do they move, by Polyak only, once per update, and their buffers too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from robomimic_vae_ext.gradient_flow.judge.classified import Classified
from robomimic_vae_ext.gradient_flow.judge.contract import covers
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.judge.target_pairs import moves_outside, steps_of_source
from robomimic_vae_ext.gradient_flow.recording.call_site import NOWHERE, Site
from robomimic_vae_ext.gradient_flow.recording.events import BuffersMoved, Moved, Stepped


def moved_by_optimizer(flow: Classified) -> Iterator[Finding]:
    """A target in an optimizer that moves it."""
    for name in flow.targets:
        inside = set(flow.recording.of_module(name))
        for event in flow.recording.events:
            if isinstance(event, Stepped) and inside & event.moved.keys():
                yield _broken(
                    name,
                    f"{name} is a target, yet {event.optimizer}.step() at {event.site.where} "
                    f"moves it.",
                    event.site,
                    event.optimizer,
                )
                break


def moved_too_rarely(flow: Classified) -> Iterator[Finding]:
    """A target that does not follow.

    A single step is too little to judge code without a contract, and where no target
    moves, a copy every thousand steps may be due after the recording: a note, then.
    """
    recording = flow.recording
    moving = any(moves_outside(recording, name) for name in flow.targets)
    for name, pair in flow.targets.items():
        steps = steps_of_source(recording, pair.source)
        moves = [m for m in moves_outside(recording, name) if steps and m.index > steps[0].index]
        if not steps or len(moves) >= len(steps) // (pair.terms.every or len(steps)):
            continue
        doubtful = not pair.declared and (len(steps) < 2 or not moving)
        times = "never moves" if not moves else f"moves only {len(moves)} time(s)"
        message = (
            f"{name} {times}, though {pair.source}, which it should follow, steps {len(steps)} "
            f"times (first at {steps[0].site.where})."
        )
        if doubtful:
            message += " Its turn may come later: record more steps, or declare it in a contract."
        yield Finding(
            Verdict.TARGET,
            Severity.NOTE if doubtful else Severity.BROKEN,
            name,
            message,
            _last_site(moves, recording.of_module(name)) if moves else steps[0].site,
        )


def moved_twice(flow: Classified) -> Iterator[Finding]:
    """More than one update for one step of the source.

    Where no number of steps is declared, for one step of the busiest optimizer: an actor that
    trains every second step may well have a target that follows in each.
    """
    recording = flow.recording
    for name, pair in flow.targets.items():
        steps = [event.index for event in steps_of_source(recording, pair.source)]
        if not steps:
            continue
        if pair.terms.every is None:
            all_steps = recording.steps_of(recording.optimizers)
            busiest, times = Counter(e.optimizer for e in all_steps).most_common(1)[0]
            if times > len(steps):
                steps = [e.index for e in all_steps if e.optimizer == busiest]
        moves = moves_outside(recording, name)
        for begin, end in zip(steps, [*steps[1:], len(recording.events)], strict=True):
            between = [m for m in moves if begin < m.index < end]
            counts = Counter[int]()
            for move in between:
                for i in move.moved.keys() & set(recording.of_module(name)):
                    counts[i] += max(move.times[i], 1)
            doubled = [i for i, count in counts.items() if count > 1]
            if doubled:
                site = _last_site(between, doubled)
                yield _broken(
                    name,
                    f"{name} is updated {max(counts.values())} times for one step of "
                    f"{pair.source} (again at {site.trail}): its effective rate is not the tau "
                    f"that was set.",
                    site,
                )
                break


def buffers_left_behind(flow: Classified) -> Iterator[Finding]:
    """BatchNorm statistics of a source that its target never receives."""
    recording = flow.recording
    moved = {m for e in recording.events if isinstance(e, BuffersMoved) for m in e.buffers}
    for name, pair in flow.targets.items():
        source_moves = any(covers(pair.source, module) for module in moved)
        if not source_moves or name in moved or not recording.buffers.get(name):
            continue
        steps = steps_of_source(recording, pair.source)
        required = pair.declared and pair.terms.buffers
        yield Finding(
            Verdict.TARGET,
            Severity.BROKEN if required else Severity.NOTE,
            name,
            f"the buffers of {name} (BatchNorm statistics) never follow those of {pair.source}: "
            f"the update copies parameters only.",
            steps[0].site if steps else NOWHERE,
            optimizer="buffers",
        )


def _last_site(moves: Sequence[Moved], parameters: Iterable[int]) -> Site:
    for move in reversed(moves):
        for i in parameters:
            if move.sites.get(i):
                return move.sites[i][-1]
    return NOWHERE


def _broken(name: str, message: str, site: Site, optimizer: str | None = None) -> Finding:
    return Finding(Verdict.TARGET, Severity.BROKEN, name, message, site, optimizer=optimizer)
