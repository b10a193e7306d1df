"""What a recording holds: plain, frozen records in the order in which things happened."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from robomimic_vae_ext.gradient_flow.recording.call_site import Site

#: Between the names of modules that share a parameter, none of which lies inside another.
SHARED = "+"


@dataclass(frozen=True)
class Backward:
    """One backward call, or a gradient that was written by hand.

    Args:
        added: parameter index -> norm of the gradient this call added.
        upstream: module -> modules whose output this loss pushed through it; a gradient left in
            a module with something upstream is the price of reaching that something.
        nonfinite: indices of parameters whose added gradient holds nan or inf.
        frozen: indices of parameters with requires_grad=False at this call.
        by_hand: no backward call was seen; the gradient was written into `.grad`.
        copied: written by hand and not out of `torch.autograd.grad`: earlier gradients, rearranged.
        passed: parameters that are fed by others of their own module, which another optimizer
            owns: what `upstream` is between modules, inside one.
    """

    index: int
    site: Site
    label: str | None
    added: Mapping[int, float]
    upstream: Mapping[str, frozenset[str]]
    nonfinite: frozenset[int]
    frozen: frozenset[int] = frozenset()
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
        zero_rate: parameters whose group had a learning rate of exactly 0.
        moved: parameter index -> norm of the change.
        sizes: module -> norm of its weights before, to make the change relative.
    """

    index: int
    site: Site
    optimizer: str
    owned: frozenset[int]
    with_gradient: frozenset[int]
    zero_rate: frozenset[int]
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
    """A watched parameter: the module it is counted under, and its name there."""

    module: str
    name: str
    numel: int


@dataclass(frozen=True)
class Recording:
    """Everything one `with record(...)` block did, ready to be judged.

    Args:
        owners: parameter index -> optimizers that had it in a group at any time.
        buffers: module -> names of its buffers.
        trainable: indices of parameters that required a gradient at some time.
        starts: index of the first event of each marked training step; (0,) where no step was
            marked: the recording then counts as one step.
        vectors: backward index -> module -> flat gradient, where vectors were asked for.
        seconds: duration of the block.
    """

    modules: tuple[str, ...]
    optimizers: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    owners: Mapping[int, tuple[str, ...]]
    buffers: Mapping[str, tuple[str, ...]]
    trainable: frozenset[int]
    events: tuple[Event, ...]
    contributions: tuple[Contribution, ...]
    starts: tuple[int, ...]
    vectors: Mapping[int, Mapping[str, torch.Tensor]]
    seconds: float

    @property
    def step_count(self) -> int:
        """Number of recorded training steps."""
        return len(self.starts)

    def step_of(self, event: int) -> int:
        """Number of the recorded step that an event belongs to, from 1."""
        return max(1, bisect_right(self.starts, event))

    def of_module(self, module: str) -> tuple[int, ...]:
        """Indices of the parameters counted under `module`."""
        return tuple(i for i, p in enumerate(self.parameters) if p.module == module)

    def owned(self, module: str) -> tuple[int, ...]:
        """Those of them that an optimizer owns."""
        return tuple(i for i in self.of_module(module) if self.owners.get(i))

    def module_owners(self, module: str) -> tuple[str, ...]:
        """Optimizers that own at least one parameter of `module`, in order."""
        owning = {name for i in self.of_module(module) for name in self.owners.get(i, ())}
        return tuple(name for name in self.optimizers if name in owning)

    def steps_of(self, owners: Iterable[str]) -> list[Stepped]:
        """Steps of these optimizers, in order."""
        owners = tuple(owners)
        return [e for e in self.events if isinstance(e, Stepped) and e.optimizer in owners]

    def names(self, parameters: Iterable[int]) -> tuple[str, ...]:
        """Names of these parameters inside their modules, each once."""
        return tuple(dict.fromkeys(self.parameters[i].name for i in parameters))

    def per_module(self, norms: Mapping[int, float]) -> dict[str, float]:
        """Norms of parameters put together to norms of modules, in the recording's order."""
        squares: dict[str, float] = {}
        for i in sorted(norms):
            module = self.parameters[i].module
            squares[module] = squares.get(module, 0.0) + norms[i] ** 2
        return {module: square**0.5 for module, square in squares.items()}

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
