"""What became of every gradient, and what that makes of each pair of loss and module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from robomimic_vae_ext.gradient_flow.contract import Contract, Verdict
from robomimic_vae_ext.gradient_flow.events import (
    Backward,
    Clipped,
    Contribution,
    Event,
    Recording,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.losses import LossCalls, group_losses


@dataclass(frozen=True)
class Cell:
    """One loss on one module.

    Args:
        norm: gradient norm of one backward, averaged over the calls that reached the module.
        fates: verdict -> the contributions that met it.
    """

    loss: LossCalls
    module: str
    norm: float
    verdict: Verdict
    fates: Mapping[Verdict, tuple[Contribution, ...]]

    @property
    def parameters(self) -> frozenset[int]:
        """Indices of the parameters that the loss reached."""
        return frozenset(item.parameter for items in self.fates.values() for item in items)


@dataclass(frozen=True)
class StaleUse:
    """A gradient that was used at the wrong time: `event` is the step or clip that did it."""

    contribution: Contribution
    event: Stepped | Clipped
    reused: bool


class Fates:
    """Judges a recording; every property is worked out once.

    Args:
        recording: what happened.
        contract: names the losses.
    """

    # The first that applies names the cell: what is wrong before what is fine.
    _ORDER = (
        Verdict.STALE,
        Verdict.DRIVEN,
        Verdict.ORPHAN,
        Verdict.DISCARDED,
        Verdict.TRANSIT,
        Verdict.PENDING,
    )

    def __init__(self, recording: Recording, contract: Contract | None = None) -> None:
        self.recording = recording
        self.losses = group_losses(recording, contract)
        self._loss_of = {i: loss for loss in self.losses for i in loss.indices}

    @property
    def _events(self) -> Sequence[Event]:
        return self.recording.events

    @cached_property
    def _steps_with(self) -> dict[int, list[int]]:
        """Backward -> steps that used its gradient anywhere, in order."""
        found: dict[int, set[int]] = {}
        for item in self.recording.contributions:
            found.setdefault(item.backward, set()).update(item.used)
        return {backward: sorted(steps) for backward, steps in found.items()}

    @cached_property
    def stale(self) -> tuple[StaleUse, ...]:
        """Every use of a left-over."""
        found = []
        for item in self.recording.contributions:
            step = self._stale_step(item)
            if step is not None:
                event, reused = step
                found.append(StaleUse(item, event, reused))
                continue
            clip = self._foreign_clip(item)
            if clip is not None:
                found.append(StaleUse(item, clip, bool(item.used)))
        return tuple(found)

    def _stale_step(self, item: Contribution) -> tuple[Stepped, bool] | None:
        """The step that used a gradient which had already served, or was another's."""
        seen: dict[str, int] = {}
        for index in item.used:
            step = self._events[index]
            assert isinstance(step, Stepped)
            if step.optimizer in seen:
                return step, True
            seen[step.optimizer] = index
            if item.backward >= 0 and self._was_anothers(item, step):
                return step, False
        return None

    def _was_anothers(self, item: Contribution, step: Stepped) -> bool:
        """The gradient was left on the way to what another optimizer stepped, before a new loss.

        The actor's loss leaves one in the critic. Where nothing lies behind the module (a shared
        encoder with an optimizer of its own) the gradient was meant for it, and waits to be summed
        with the next loss's.
        """
        backward = self._events[item.backward]
        assert isinstance(backward, Backward)
        module = self.recording.parameters[item.parameter].module
        behind = backward.upstream.get(module, frozenset()) - {module}
        for other in self._steps_with.get(item.backward, []):
            used = self._events[other]
            assert isinstance(used, Stepped)
            served = {self.recording.parameters[i].module for i in used.owned}
            if other < step.index and used.optimizer != step.optimizer and behind & served:
                return any(
                    isinstance(event, Backward) and step.owned & event.added.keys()
                    for event in self._events[other + 1 : step.index]
                )
        return False

    def _foreign_clip(self, item: Contribution) -> Clipped | None:
        """A clip whose norm held a gradient that the step after it did not use."""
        for index in item.clips:
            if item.by_hand or any(used > index for used in item.used):
                continue
            after = [e for e in self._events[index + 1 :] if isinstance(e, Stepped)]
            if after and item.parameter not in after[0].owned:
                clip = self._events[index]
                assert isinstance(clip, Clipped)
                return clip
        return None

    @cached_property
    def _stale_keys(self) -> frozenset[tuple[int, int]]:
        return frozenset((s.contribution.backward, s.contribution.parameter) for s in self.stale)

    @cached_property
    def _never_served(self) -> frozenset[tuple[int, int]]:
        # A left-over that had served before is stale now, and still drove its module then.
        return frozenset(
            (s.contribution.backward, s.contribution.parameter) for s in self.stale if not s.reused
        )

    @cached_property
    def handed_on(self) -> frozenset[tuple[int, int]]:
        """(backward, parameter): copied before a reset, and stepped with as a hand-written sum.

        What PCGrad and its kin do. The copy itself cannot be seen, but a gradient that is written
        by hand and not out of `torch.autograd.grad` has no other source.
        """
        found = set()
        by_parameter: dict[int, list[Contribution]] = {}
        for item in self.recording.contributions:
            by_parameter.setdefault(item.parameter, []).append(item)
        for items in by_parameter.values():
            steps = {index: item.backward for item in items for index in item.used}
            for item in items:
                if item.used or item.cleared is None:
                    continue
                later = [index for index in steps if index > item.cleared]
                source = self._events[steps[min(later)]] if later else None
                if isinstance(source, Backward) and source.copied:
                    found.add((item.backward, item.parameter))
        return frozenset(found)

    def _has_moved(self, item: Contribution) -> bool:
        """Whether a step, or a hand, has moved the parameter with this gradient."""
        handed_on = (item.backward, item.parameter) in self.handed_on
        return bool(item.used) or item.by_hand or handed_on

    @cached_property
    def _driven(self) -> dict[str, frozenset[int]]:
        """Loss -> parameters that a step moved with its gradient."""
        found: dict[str, set[int]] = {}
        for item in self.recording.contributions:
            loss = self._loss_of.get(item.backward)
            served = (item.backward, item.parameter) not in self._never_served
            if loss is not None and self._has_moved(item) and served:
                found.setdefault(loss.name, set()).add(item.parameter)
        return {name: frozenset(items) for name, items in found.items()}

    def driven_modules(self, loss: str) -> frozenset[str]:
        """Modules that a loss moves."""
        parameters = self.recording.parameters
        return frozenset(parameters[i].module for i in self._driven.get(loss, ()))

    @cached_property
    def transits(self) -> frozenset[tuple[str, str]]:
        """(loss, module): the loss had to pass there, or has no claim on it.

        A module counts as passed when something that the loss drives feeds it; whatever shares
        its optimizer goes with it (a critic's own encoder, when the actor's loss passes the
        critic). A loss that drives single numbers only is a multiplier's: it measures the
        networks and does not train them.
        """
        found = set()
        for loss in self.losses:
            driven = self.driven_modules(loss.name)
            upstream: dict[str, frozenset[str]] = {}
            for call in loss.calls:
                for module, feeds in call.upstream.items():
                    upstream[module] = upstream.get(module, frozenset()) | feeds
            passed = {
                m for m, feeds in upstream.items() if (feeds - {m}) & driven and m not in driven
            }
            owners = {self.recording.module_owners(m) for m in passed} - {()}
            sizes = [self.recording.parameters[i].numel for i in self._driven.get(loss.name, ())]
            multiplier = bool(sizes) and max(sizes) == 1
            for module in upstream.keys() - driven:
                if module in passed or multiplier or self.recording.module_owners(module) in owners:
                    found.add((loss.name, module))
        return frozenset(found)

    @cached_property
    def excused(self) -> frozenset[tuple[str, str]]:
        """(loss, module) where a discarded gradient is as likely meant as not.

        A single number, such as a temperature, that other losses merely use. And opponents: a
        module that is itself trained through what this loss drives (the actor through the
        critic, the generator through the discriminator) and whose output was not detached.
        """
        found = set()
        for cell in self.cells:
            sizes = {self.recording.parameters[i].numel for i in cell.parameters}
            opponent = any(
                cell.module in self.driven_modules(other.name)
                and (other.name, module) in self.transits
                for other in self.losses
                if other.name != cell.loss.name
                for module in self.driven_modules(cell.loss.name)
            )
            if opponent or sizes == {1}:
                found.add((cell.loss.name, cell.module))
        return frozenset(found)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every pair of a loss and a module that it reaches."""
        grouped: dict[tuple[str, str], list[Contribution]] = {}
        for item in self.recording.contributions:
            loss = self._loss_of.get(item.backward)
            if loss is not None:
                module = self.recording.parameters[item.parameter].module
                grouped.setdefault((loss.name, module), []).append(item)
        by_name = {loss.name: loss for loss in self.losses}
        order = {name: i for i, name in enumerate(by_name)}
        places = {name: i for i, name in enumerate(self.recording.modules)}
        return tuple(
            self._cell(by_name[loss], module, items)
            for (loss, module), items in sorted(
                grouped.items(), key=lambda pair: (order[pair[0][0]], places[pair[0][1]])
            )
        )

    def _cell(self, loss: LossCalls, module: str, items: Sequence[Contribution]) -> Cell:
        fates: dict[Verdict, list[Contribution]] = {}
        squares: dict[int, float] = {}
        for item in items:
            fates.setdefault(self._fate(loss.name, module, item), []).append(item)
            squares[item.backward] = squares.get(item.backward, 0.0) + item.norm**2
        norm = sum(math.sqrt(s) for s in squares.values()) / len(squares)
        verdict = next(v for v in self._ORDER if v in fates)
        moved = {item.parameter for item in fates.get(Verdict.DRIVEN, ())}
        lost = {item.parameter for item in fates.get(Verdict.DISCARDED, ())} - moved
        if verdict is Verdict.DRIVEN and lost:  # one half of an encoder, in the wrong optimizer
            verdict = Verdict.DISCARDED
        return Cell(loss, module, norm, verdict, {v: tuple(found) for v, found in fates.items()})

    def _fate(self, loss: str, module: str, item: Contribution) -> Verdict:
        if (item.backward, item.parameter) in self._stale_keys:
            return Verdict.STALE
        if self._has_moved(item):
            return Verdict.DRIVEN
        if not self.recording.owners.get(item.parameter):
            return Verdict.ORPHAN
        if (loss, module) in self.transits or self._is_inner_transit(loss, module, item):
            return Verdict.TRANSIT
        return Verdict.PENDING if item.cleared is None else Verdict.DISCARDED

    def _is_inner_transit(self, loss: str, module: str, item: Contribution) -> bool:
        """The critic's half of one big module, which the actor's loss passes to reach the other."""
        event = self._events[item.backward]
        passed = isinstance(event, Backward) and item.parameter in event.passed
        return passed and module in self.driven_modules(loss)
