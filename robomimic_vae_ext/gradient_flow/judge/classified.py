"""What a recording is sorted into: gradients with a fate, pairs of loss and module, states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.judge.findings import Verdict
from robomimic_vae_ext.gradient_flow.judge.left_overs import Key, Misuse
from robomimic_vae_ext.gradient_flow.judge.loss_calls import LossCalls
from robomimic_vae_ext.gradient_flow.judge.target_pairs import TargetPair
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
        """The recorded steps with the verdict of the whole, or with gradients that still wait."""
        same = (self.verdict, Verdict.PENDING)
        return tuple(step for step, verdict in self.steps.items() if verdict in same)

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
        return modules_of(self.recording, self.driven.get(loss, ()))

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


def modules_of(recording: Recording, parameters: Iterable[int]) -> frozenset[str]:
    """Modules that hold these parameters."""
    return frozenset(recording.parameters[i].module for i in parameters)


def is_nonfinite(recording: Recording, gradient: Gradient) -> bool:
    """Whether it holds nan or inf, for which a gradient scaler skips the step."""
    event = recording.events[gradient.source.backward]
    return isinstance(event, Backward) and gradient.source.parameter in event.nonfinite
