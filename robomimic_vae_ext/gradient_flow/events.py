"""What the tape writes down: plain, frozen records in the order in which they happened."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import torch


class Frame(NamedTuple):
    """One line of user code on the way to a torch call."""

    file: str
    line: int
    function: str

    @property
    def where(self) -> str:
        """`file.py:line`, short enough for a table."""
        return f"{PurePath(self.file).name}:{self.line}"

    @property
    def text(self) -> str:
        """The source line, stripped; empty where the source is not at hand."""
        return linecache.getline(self.file, self.line).strip()


class Site(NamedTuple):
    """The user's part of the call stack, innermost frame first.

    `rooted`: the last frame is the one that opened the recording.
    """

    frames: tuple[Frame, ...]
    rooted: bool = False

    @property
    def where(self) -> str:
        """`file.py:line` of the innermost frame of user code."""
        return self.frames[0].where if self.frames else "unknown line"

    @property
    def line(self) -> int:
        """Line number of the innermost frame, 0 where unknown."""
        return self.frames[0].line if self.frames else 0

    @property
    def trail(self) -> str:
        """`torch_utils.py:215 < bcq.py:431`: where it happened and who called it."""
        return " < ".join(frame.where for frame in self.frames[:3]) or "unknown line"


NOWHERE = Site(())


@dataclass(frozen=True)
class Backward:
    """One backward call, or a gradient that was written by hand.

    Args:
        added: parameter index -> norm of the gradient this call added.
        upstream: module -> modules whose output this loss pushed through it; a gradient left in
            a module with something upstream is the price of reaching that something.
        nonfinite: indices of parameters whose added gradient holds nan or inf.
        passed: parameters that are fed by others of their own module, which another optimizer
            owns: what `upstream` is between modules, inside one.
        copied: written by hand and not out of `torch.autograd.grad`: earlier gradients, rearranged.
    """

    index: int
    site: Site
    label: str | None
    added: Mapping[int, float]
    upstream: Mapping[str, frozenset[str]]
    nonfinite: frozenset[int]
    by_hand: bool = False
    copied: bool = False
    passed: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cleared:
    """Gradients set to None or zero, by `zero_grad` or by hand."""

    index: int
    site: Site
    by: str
    parameters: frozenset[int]


@dataclass(frozen=True)
class Clipped:
    """One clip call; `norms` are the gradient norms that went into it."""

    index: int
    site: Site
    kind: str
    norms: Mapping[int, float]


@dataclass(frozen=True)
class Edited:
    """Gradients changed in place by something that is neither backward, zero_grad nor clip."""

    index: int
    site: Site
    parameters: frozenset[int]


@dataclass(frozen=True)
class Stepped:
    """One optimizer step.

    Args:
        owned: parameters in its groups, `with_gradient` those whose `.grad` was not None.
        moved: parameter index -> norm of the change.
        sizes: module -> norm of its weights before, to make the change relative.
    """

    index: int
    site: Site
    optimizer: str
    owned: frozenset[int]
    with_gradient: frozenset[int]
    moved: Mapping[int, float]
    sizes: Mapping[str, float]


@dataclass(frozen=True)
class Moved:
    """Parameters changed outside any optimizer: Polyak updates, in-place writes.

    Args:
        moved: parameter index -> norm of the change since the event before.
        sizes: module -> norm of its weights before.
        times: parameter index -> how often the same kind of write hit it, 0 where not traced.
        sites: parameter index -> lines that wrote it, in order; empty where not traced.
    """

    index: int
    moved: Mapping[int, float]
    sizes: Mapping[str, float]
    times: Mapping[int, int]
    sites: Mapping[int, tuple[Site, ...]]


@dataclass(frozen=True)
class BuffersMoved:
    """Buffers (BatchNorm statistics) changed, by name of the module that holds them."""

    index: int
    buffers: Mapping[str, tuple[str, ...]]


Event = Backward | Cleared | Clipped | Edited | Stepped | Moved | BuffersMoved


@dataclass(frozen=True)
class Contribution:
    """What became of one backward's gradient in one parameter.

    Args:
        backward: index of the event that added it; -1: it was there before the recording.
        used: indices of the steps that moved the parameter with it, in order.
        by_hand: the parameter was written by hand while it was pending (as SAM does).
        cleared: index of the event that threw it away, None while it is still there.
        clips: indices of the clips whose norm it entered.
    """

    backward: int
    parameter: int
    norm: float
    used: tuple[int, ...]
    by_hand: bool
    cleared: int | None
    clips: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """A tracked parameter: the module it is counted under, and its name there."""

    module: str
    name: str
    numel: int
    trainable: bool


@dataclass(frozen=True)
class Recording:
    """Everything one `with record(...)` block did, ready for verdicts.

    Args:
        owners: parameter index -> optimizers that had it in a group at any time.
        buffers: module -> names of its buffers.
        vectors: backward index -> module -> flat gradient, where vectors were asked for.
    """

    modules: tuple[str, ...]
    optimizers: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    owners: Mapping[int, tuple[str, ...]]
    buffers: Mapping[str, tuple[str, ...]]
    events: tuple[Event, ...]
    contributions: tuple[Contribution, ...]
    vectors: Mapping[int, Mapping[str, torch.Tensor]]
    seconds: float

    def of_module(self, module: str) -> tuple[int, ...]:
        """Indices of the parameters counted under `module`."""
        return tuple(i for i, p in enumerate(self.parameters) if p.module == module)

    def module_owners(self, module: str) -> tuple[str, ...]:
        """Optimizers that own at least one parameter of `module`, in order."""
        owning = {name for i in self.of_module(module) for name in self.owners.get(i, ())}
        return tuple(name for name in self.optimizers if name in owning)

    def names(self, parameters: Iterable[int]) -> tuple[str, ...]:
        """Names of these parameters inside their modules, each once."""
        return tuple(dict.fromkeys(self.parameters[i].name for i in parameters))

    def describe(self, parameters: Iterable[int]) -> str:
        """These parameters of one module in words: the module's name where they are all of it."""
        chosen = tuple(dict.fromkeys(parameters))
        module = self.parameters[chosen[0]].module
        total = len(self.of_module(module))
        if len(chosen) == total:
            return module
        names = ", ".join(self.parameters[i].name for i in chosen[:3])
        more = ", ..." if len(chosen) > 3 else ""
        return f"{len(chosen)} of {total} parameters of {module} ({names}{more})"
