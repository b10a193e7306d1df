"""Gradients that were used at the wrong time, or by way of a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.recording.events import (
    Backward,
    Clipped,
    Contribution,
    Recording,
    Stepped,
)

#: (index of the backward, index of the parameter): names one contribution.
Key = tuple[int, int]


class Misuse(NamedTuple):
    """A use of a left-over: `event` is the step or clip; `reused`: it had served before."""

    event: Stepped | Clipped
    reused: bool


def key_of(item: Contribution) -> Key:
    """The contribution's name."""
    return item.backward, item.parameter


def find_misuses(recording: Recording) -> dict[Key, Misuse]:
    """Every use of a left-over."""
    steps_with: dict[int, set[int]] = {}  # backward -> steps that used its gradient anywhere
    for item in recording.contributions:
        steps_with.setdefault(item.backward, set()).update(item.used)
    found = {}
    for item in recording.contributions:
        misuse = _by_step(recording, item, steps_with) or _by_clip(recording, item)
        if misuse is not None:
            found[key_of(item)] = misuse
    return found


def find_handed_on(recording: Recording) -> frozenset[Key]:
    """What was copied before a reset, and then stepped with as part of a hand-written sum.

    What PCGrad and its kin do. The copy itself cannot be seen, but a gradient that is written by
    hand and not out of `torch.autograd.grad` has no other source.
    """
    found = set()
    by_parameter: dict[int, list[Contribution]] = {}
    for item in recording.contributions:
        by_parameter.setdefault(item.parameter, []).append(item)
    for items in by_parameter.values():
        steps = {index: item.backward for item in items for index in item.used}
        for item in items:
            if item.used or item.cleared is None:
                continue
            later = [index for index in steps if index > item.cleared]
            source = recording.events[steps[min(later)]] if later else None
            if isinstance(source, Backward) and source.copied:
                found.add(key_of(item))
    return frozenset(found)


def _by_step(
    recording: Recording, item: Contribution, steps_with: Mapping[int, set[int]]
) -> Misuse | None:
    """The step that used a gradient which had served already, or was another optimizer's."""
    seen = set()
    for index in item.used:
        step = recording.events[index]
        assert isinstance(step, Stepped)
        if step.optimizer in seen:
            return Misuse(step, reused=True)
        seen.add(step.optimizer)
        if item.backward >= 0 and _was_anothers(recording, item, step, steps_with):
            return Misuse(step, reused=False)
    return None


def _was_anothers(
    recording: Recording, item: Contribution, step: Stepped, steps_with: Mapping[int, set[int]]
) -> bool:
    """The gradient was left on the way to what another optimizer stepped, before a new loss.

    The actor's loss leaves one in the critic. Where nothing lies behind the module (a shared
    encoder with an optimizer of its own) the gradient was meant for it, and waits to be summed
    with the next loss's.
    """
    backward = recording.events[item.backward]
    assert isinstance(backward, Backward)
    module = recording.parameters[item.parameter].module
    behind = backward.upstream.get(module, frozenset()) - {module}
    for other in sorted(steps_with.get(item.backward, ())):
        used = recording.events[other]
        assert isinstance(used, Stepped)
        served = {recording.parameters[i].module for i in used.owned}
        if other < step.index and used.optimizer != step.optimizer and behind & served:
            return any(
                isinstance(event, Backward) and step.owned & event.added.keys()
                for event in recording.events[other + 1 : step.index]
            )
    return False


def _by_clip(recording: Recording, item: Contribution) -> Misuse | None:
    """A clip whose norm held a gradient that the step after it did not use."""
    for index in item.clips:
        if item.by_hand or any(used > index for used in item.used):
            continue
        after = next((e for e in recording.events[index + 1 :] if isinstance(e, Stepped)), None)
        if after is not None and item.parameter not in after.owned:
            clip = recording.events[index]
            assert isinstance(clip, Clipped)
            return Misuse(clip, reused=bool(item.used))
    return None
