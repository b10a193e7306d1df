"""One fate for each gradient, one verdict for each loss and module: decided here and nowhere else.

In this order: which backward calls are one loss, what was misused, what each loss drives, what it
merely passes, and with that the fate of each gradient; a verdict sums up the fates of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

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
from robomimic_vae_ext.gradient_flow.judge.target_pairs import TargetPair, find_targets
from robomimic_vae_ext.gradient_flow.recording.events import Backward, Contribution, Recording

BEFORE = "a backward before the recording"


class Fate(Enum):
    """What became of one gradient in one parameter, and the verdict that follows from it."""

    USED = ("moved the parameter", Verdict.DRIVEN)
    REUSED = ("moved it, and then a second time", Verdict.STALE)
    FOREIGN = ("used or clipped, though it was left there for something else", Verdict.STALE)
    UNOWNED = ("no optimizer has the parameter", Verdict.ORPHAN)
    PASSING = ("left on the way to what the loss drives", Verdict.TRANSIT)
    WAITING = ("still there at the end", Verdict.PENDING)
    LOST = ("cleared before its owner stepped", Verdict.DISCARDED)
    WASTED = ("cleared in every round, though other calls of the loss are used", Verdict.DISCARDED)
    REPEATED = ("cleared, and another call of the loss moved the parameter", Verdict.DISCARDED)
    PROBE = ("cleared after its backward moved other weights by hand (SAM)", Verdict.DISCARDED)

    @property
    def verdict(self) -> Verdict:
        """What it makes of the pair of loss and module."""
        return self.value[1]


@dataclass(frozen=True)
class Gradient:
    """One contribution, judged. `step`: the recorded step of its backward, from 1."""

    source: Contribution
    loss: str
    module: str
    step: int
    fate: Fate
    misuse: Misuse | None = None


@dataclass(frozen=True)
class Cell:
    """One loss on one module.

    Args:
        norm: gradient norm of one backward, averaged over the calls that reached the module.
        verdict: of all its gradients together.
        steps: recorded step -> verdict of that step's gradients; without steps that bring none.
    """

    loss: LossCalls
    module: str
    norm: float
    verdict: Verdict
    steps: Mapping[int, Verdict]
    gradients: tuple[Gradient, ...]

    def having(self, *fates: Fate) -> tuple[Gradient, ...]:
        """The gradients that met one of these fates."""
        return tuple(gradient for gradient in self.gradients if gradient.fate in fates)

    def judged(self, verdict: Verdict, step: int | None = None) -> tuple[Gradient, ...]:
        """The gradients whose fate makes this verdict, of one step or of all."""
        return tuple(
            gradient
            for gradient in self.gradients
            if gradient.fate.verdict is verdict and step in (None, gradient.step)
        )

    @property
    def agreeing(self) -> tuple[int, ...]:
        """The recorded steps that have the verdict of the whole."""
        return tuple(step for step, verdict in self.steps.items() if verdict is self.verdict)

    @property
    def parameters(self) -> frozenset[int]:
        """Indices of the parameters that the loss reached."""
        return frozenset(gradient.source.parameter for gradient in self.gradients)


@dataclass(frozen=True)
class Classified:
    """A recording with every gradient and every pair of loss and module judged.

    Args:
        gradients: all of them, those from before the recording included.
        cells: every pair of a loss and a module that it reaches.
        driven: loss -> parameters that a step moved with its gradient.
        transits: (loss, module): the loss had to pass there, or has no claim on it.
        handed_on: contributions that were stepped with as part of a hand-written sum.
        targets: module -> what it is a slow copy of.
    """

    recording: Recording
    contract: Contract | None
    losses: tuple[LossCalls, ...]
    gradients: tuple[Gradient, ...]
    cells: tuple[Cell, ...]
    driven: Mapping[str, frozenset[int]]
    transits: frozenset[tuple[str, str]]
    handed_on: frozenset[Key]
    targets: Mapping[str, TargetPair]

    def loss(self, name: str) -> LossCalls | None:
        """The backward calls of a loss; None where it never ran."""
        return next((loss for loss in self.losses if loss.name == name), None)

    def cell(self, loss: str, module: str) -> Cell | None:
        """What one loss does to one module; None where it does not reach it."""
        return next((c for c in self.cells if c.loss.name == loss and c.module == module), None)

    def driven_modules(self, loss: str) -> frozenset[str]:
        """Modules that a loss moves."""
        return _modules(self.recording, self.driven.get(loss, ()))

    def state(self, module: str) -> Verdict:
        """One word for a module: the worst of its cells, else what it does without a gradient."""
        verdicts = [cell.verdict for cell in self.cells if cell.module == module]
        if Verdict.DRIVEN in verdicts:
            return Verdict.DRIVEN
        if module in self.targets:
            return Verdict.TARGET
        for verdict in (Verdict.STALE, Verdict.DISCARDED, Verdict.ORPHAN, *verdicts):
            if verdict in verdicts:
                return verdict
        trainable = self.recording.trainable.intersection(self.recording.owned(module))
        return Verdict.STARVED if trainable else Verdict.FROZEN


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


def _modules(recording: Recording, parameters: Iterable[int]) -> frozenset[str]:
    return frozenset(recording.parameters[i].module for i in parameters)


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
        modules = _modules(recording, parameters)
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
    return passed and module in _modules(recording, driven)


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

    The parameter alone would not tell: of an ensemble's calls, which count as one loss, the first
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
    gradient scaler that skips) leaves rounds without a loss; a single round tells neither.
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


def is_nonfinite(recording: Recording, gradient: Gradient) -> bool:
    """Whether it holds nan or inf, for which a gradient scaler skips the step."""
    event = recording.events[gradient.source.backward]
    return isinstance(event, Backward) and gradient.source.parameter in event.nonfinite


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
