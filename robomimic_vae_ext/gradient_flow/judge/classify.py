"""One fate for each gradient, one verdict for each loss and module: decided here and nowhere else.

In this order: which backward calls are one loss, what was misused, what each loss drives, what it
merely passes, and with that the fate of each gradient; a verdict sums up the fates of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from robomimic_vae_ext.gradient_flow.judge.classified import (
    BEFORE,
    Cell,
    Classified,
    Fate,
    Gradient,
    is_nonfinite,
    modules_of,
)
from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.judge.findings import Verdict
from robomimic_vae_ext.gradient_flow.judge.left_overs import (
    Key,
    Misuse,
    find_handed_on,
    find_misuses,
    key_of,
)
from robomimic_vae_ext.gradient_flow.judge.loss_calls import LossCalls, group_losses
from robomimic_vae_ext.gradient_flow.judge.target_pairs import find_targets
from robomimic_vae_ext.gradient_flow.recording.events import Backward, Contribution, Recording


def classify(recording: Recording, contract: Contract | None) -> Classified:
    """Judge every gradient.

    Args:
        recording: what happened.
        contract: names the losses, and says what is a target.
    """
    losses = group_losses(recording, contract)
    loss_of = {index: loss.name for loss in losses for index in loss.indices}
    misuses, handed_on = find_misuses(recording), find_handed_on(recording)
    driven: dict[str, set[int]] = {}
    for item in recording.contributions:
        if item.backward in loss_of and _has_served(item, misuses, handed_on):
            driven.setdefault(loss_of[item.backward], set()).add(item.parameter)
    transits = _find_transits(recording, losses, driven)

    def judge(item: Contribution) -> Gradient:
        loss = loss_of.get(item.backward, BEFORE)
        module = recording.parameters[item.parameter].module
        misuse = misuses.get(key_of(item))
        if misuse is not None:
            fate = Fate.REUSED if misuse.reused else Fate.FOREIGN
        elif _has_moved(item, handed_on):
            fate = Fate.USED
        elif not recording.owners.get(item.parameter):
            fate = Fate.UNOWNED
        elif (loss, module) in transits or _is_inner_transit(recording, item, driven.get(loss, ())):
            fate = Fate.PASSING
        else:
            fate = Fate.WAITING if item.cleared is None else Fate.LOST
        return Gradient(item, loss, module, recording.step_of(item.backward), fate, misuse)

    gradients = [judge(item) for item in recording.contributions]
    cells = _make_cells(recording, losses, gradients)
    return Classified(
        recording=recording,
        contract=contract,
        losses=losses,
        gradients=tuple(gradients),
        cells=cells,
        driven={name: frozenset(parameters) for name, parameters in driven.items()},
        transits=transits,
        handed_on=handed_on,
        targets=find_targets(recording, contract),
    )


def _has_moved(item: Contribution, handed_on: frozenset[Key]) -> bool:
    """Whether a step, or a hand, has moved the parameter with this gradient."""
    return bool(item.used) or item.by_hand or key_of(item) in handed_on


def _has_served(
    item: Contribution, misuses: Mapping[Key, Misuse], handed_on: frozenset[Key]
) -> bool:
    """Whether it moved the parameter when it should; it may have been used again since."""
    misuse = misuses.get(key_of(item))
    return _has_moved(item, handed_on) and (misuse is None or misuse.reused)


def _find_transits(
    recording: Recording, losses: Sequence[LossCalls], driven: Mapping[str, set[int]]
) -> frozenset[tuple[str, str]]:
    """(loss, module): see `Classified.transits`.

    A module counts as passed when something that the loss drives feeds it; whatever shares its
    optimizer goes with it (a critic's own encoder, when the actor's loss passes the critic). A
    loss that drives single numbers only is a multiplier's: it measures the networks and does not
    train them.
    """
    found = set()
    for loss in losses:
        parameters = driven.get(loss.name, set())
        modules = modules_of(recording, parameters)
        upstream: dict[str, frozenset[str]] = {}
        for call in loss.calls:
            for module, feeds in call.upstream.items():
                upstream[module] = upstream.get(module, frozenset()) | feeds
        passed = {
            m for m, feeds in upstream.items() if (feeds - {m}) & modules and m not in modules
        }
        owners = {recording.module_owners(m) for m in passed} - {()}
        sizes = {recording.parameters[i].numel for i in parameters}
        for module in upstream.keys() - modules:
            if module in passed or sizes == {1} or recording.module_owners(module) in owners:
                found.add((loss.name, module))
    return frozenset(found)


def _is_inner_transit(recording: Recording, item: Contribution, driven: Iterable[int]) -> bool:
    """The critic's half of one big module, which the actor's loss passes to reach the other."""
    event = recording.events[item.backward]
    module = recording.parameters[item.parameter].module
    passed = isinstance(event, Backward) and item.parameter in event.passed
    return passed and module in modules_of(recording, driven)


def _make_cells(
    recording: Recording, losses: Sequence[LossCalls], gradients: list[Gradient]
) -> tuple[Cell, ...]:
    """Group by loss and module, in the order of the recording."""
    probes = frozenset(g.source.backward for g in gradients if g.source.by_hand) - {
        g.source.backward for g in gradients if g.source.used
    }
    grouped: dict[tuple[str, str], list[Gradient]] = {}
    for gradient in gradients:
        grouped.setdefault((gradient.loss, gradient.module), []).append(gradient)
    cells = []
    for loss in losses:
        for module in recording.modules:
            items = grouped.get((loss.name, module))
            if items:
                items = _tell_losses_apart(recording, items, probes)
                cells.append(_cell(loss, module, items))
    return tuple(cells)


def _tell_losses_apart(
    recording: Recording, items: Sequence[Gradient], probes: frozenset[int]
) -> list[Gradient]:
    """Of what was cleared unused: was it lost, or does another call of the loss make up for it?

    The parameter alone does not decide: of an ensemble's calls, which count as one loss, the first
    member's may train a shared encoder while the second's is thrown away.
    """

    def reach(gradient: Gradient) -> tuple[int, frozenset[str]]:
        event = recording.events[gradient.source.backward]
        modules = frozenset(event.upstream) if isinstance(event, Backward) else frozenset[str]()
        return gradient.source.parameter, modules

    served = {reach(gradient) for gradient in items if gradient.fate is Fate.USED}

    def refined(gradient: Gradient) -> Gradient:
        if gradient.fate is not Fate.LOST:
            return gradient
        if gradient.source.backward in probes:
            return replace(gradient, fate=Fate.PROBE)
        return replace(gradient, fate=Fate.REPEATED) if reach(gradient) in served else gradient

    judged = [refined(gradient) for gradient in items]
    if any(gradient.fate is Fate.LOST for gradient in judged):
        return judged
    wasted = _parameters_wasted_in_every_round(recording, judged)
    return [
        replace(g, fate=Fate.WASTED)
        if g.fate is Fate.REPEATED
        and g.source.parameter in wasted
        and not is_nonfinite(recording, g)
        else g
        for g in judged
    ]


def _parameters_wasted_in_every_round(
    recording: Recording, items: Sequence[Gradient]
) -> frozenset[int]:
    """Parameters with micro-batches of which a zero_grad before each keeps only the last.

    A round ends with a step that uses the loss. A call that is repeated now and then (a retry, a
    gradient scaler that skips) leaves rounds without a loss; one round is not enough to decide.
    """
    lost: dict[int, list[int]] = {}
    steps: dict[int, set[int]] = {}
    for gradient in items:
        source = gradient.source
        if gradient.fate is Fate.REPEATED and not is_nonfinite(recording, gradient):
            lost.setdefault(source.parameter, []).append(source.backward)
        elif gradient.fate is Fate.USED:
            steps.setdefault(source.parameter, set()).update(source.used)
    wasted = set()
    for parameter, calls in lost.items():
        rounds = list(pairwise([-1, *sorted(steps.get(parameter, ()))]))
        if len(rounds) > 1 and all(
            any(begin < call < end for call in calls) for begin, end in rounds
        ):
            wasted.add(parameter)
    return frozenset(wasted)


def _cell(loss: LossCalls, module: str, items: Sequence[Gradient]) -> Cell:
    squares: dict[int, float] = {}
    by_step: dict[int, list[Gradient]] = {}
    for gradient in items:
        backward = gradient.source.backward
        squares[backward] = squares.get(backward, 0.0) + gradient.source.norm**2
        by_step.setdefault(gradient.step, []).append(gradient)
    return Cell(
        loss=loss,
        module=module,
        norm=sum(math.sqrt(square) for square in squares.values()) / len(squares),
        verdict=_sum_up(items),
        steps={step: _sum_up(by_step[step]) for step in sorted(by_step)},
        gradients=tuple(items),
    )


# The first that applies names the pair: what is wrong before what is fine.
_ORDER = (
    Verdict.STALE,
    Verdict.DRIVEN,
    Verdict.ORPHAN,
    Verdict.DISCARDED,
    Verdict.TRANSIT,
    Verdict.PENDING,
)


def _sum_up(items: Iterable[Gradient]) -> Verdict:
    parameters: dict[Verdict, set[int]] = {}
    for gradient in items:
        parameters.setdefault(gradient.fate.verdict, set()).add(gradient.source.parameter)
    verdict = next(v for v in _ORDER if v in parameters)
    # One half of an encoder, in the wrong optimizer.
    if verdict is Verdict.DRIVEN and parameters.get(Verdict.DISCARDED, set()) - parameters[verdict]:
        return Verdict.DISCARDED
    return verdict
