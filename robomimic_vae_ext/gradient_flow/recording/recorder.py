"""Turn torch's training calls into events: the part of the tape that listens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from robomimic_vae_ext.gradient_flow.recording import tensor_math
from robomimic_vae_ext.gradient_flow.recording.autograd_graph import reach
from robomimic_vae_ext.gradient_flow.recording.call_site import (
    NOWHERE,
    Site,
    find_site,
    stack_depth,
)
from robomimic_vae_ext.gradient_flow.recording.events import (
    Backward,
    Cleared,
    Clipped,
    Edited,
    Event,
    Recording,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.recording.inventory import (
    Inventory,
    Ownership,
    owned_tensors,
)
from robomimic_vae_ext.gradient_flow.recording.ledger import Changes, Ledger
from robomimic_vae_ext.gradient_flow.recording.movement import MovementWatch
from robomimic_vae_ext.gradient_flow.recording.running_backward import RunningBackward
from robomimic_vae_ext.gradient_flow.recording.write_trace import WriteTrace

# A tuple itself, so that it is looked for first.
_EDGE: Any = torch.autograd.graph.GradientEdge


class Recorder:
    """Books what happens to the watched tensors; every `on_...` runs the original call once.

    Args:
        inventory: what is watched.
        optimizers: their names; one that turns up unnamed and owns a watched tensor is added.
        keep_vectors: keep every loss's gradient per module.
        until: frame in which the recording was opened, see `find_site`.
    """

    def __init__(
        self,
        inventory: Inventory,
        optimizers: Mapping[str, Optimizer],
        keep_vectors: bool,
        until: FrameType | None,
    ) -> None:
        self._inventory = inventory
        self._keep_vectors = keep_vectors
        self._until = until
        self._thread = threading.get_ident()
        self._events: list[Event] = []
        self._starts: list[int] = []
        self._trainable = {i for i, t in enumerate(inventory.tensors) if t.requires_grad}
        self._ledger = Ledger(inventory.tensors)
        self._watch = MovementWatch(inventory)
        self._owners = Ownership(inventory, optimizers)
        self._vectors: dict[int, dict[str, torch.Tensor]] = {}
        self._busy = False
        self._running: RunningBackward | None = None
        self._stepping: Optimizer | None = None
        self._step_site: Site = NOWHERE
        self._step_depth = 0
        self._gradients_site: Site | None = None
        self.trace: WriteTrace | None = None
        self.label: str | None = None

    def finish(self, seconds: float) -> Recording:
        """Book what happened since the last event and close the books."""
        self._stepping = None
        with self._working():
            self._catch_up(look=True)
        # The frame would keep every local variable of the caller alive.
        self._until = self.trace = None
        return Recording(
            modules=self._inventory.modules,
            optimizers=self._owners.optimizers,
            parameters=self._inventory.parameters,
            owners=self._owners.of_parameters,
            buffers={name: tuple(items) for name, items in self._inventory.buffers.items()},
            trainable=frozenset(self._trainable),
            events=tuple(self._events),
            contributions=self._ledger.contributions(),
            starts=tuple(self._starts) or (0,),
            vectors=self._vectors,
            seconds=seconds,
        )

    @contextmanager
    def step(self) -> Iterator[None]:
        """Mark one training step."""
        with self._working():
            self._catch_up(look=True)
        self._starts.append(len(self._events))
        yield
        # What the step wrote last (a Polyak update) must not be counted to the next one.
        with self._working():
            self._catch_up(look=True)

    def hears(self, thread: int) -> bool:
        """Its own thread, and those in which autograd runs its backward's hooks (on a GPU)."""
        running = self._running
        return thread == self._thread or (running is not None and thread in running.threads)

    def is_muted(self) -> bool:
        """True while an optimizer or the recorder itself writes."""
        return self._busy or self._stepping is not None

    def on_backward(self, roots: Any, call: Callable[[Any], Any]) -> Any:
        """Run a backward and book what it adds to which parameter."""
        if self._running is not None:  # a checkpointed layer runs its own inside the loss's
            return call(roots)
        single = isinstance(roots, (torch.Tensor, _EDGE))
        listed = (roots,) if single else tuple(roots)
        with self._working():
            site = self._catch_up()
            self._gradients_site = None
            frozen = self._frozen()
            nodes = [root.node if isinstance(root, _EDGE) else root.grad_fn for root in listed]
            found = reach([node for node in nodes if node is not None], self._owners.part_of)
            running = RunningBackward(site, self.label, found, frozen, self._working)
            watched = [i for i, t in enumerate(self._inventory.tensors) if t.is_leaf]
            running.listen({i: self._inventory.tensors[i] for i in watched if i not in frozen})
        self._running = running
        failed = True
        try:
            result = call(roots if single else listed)
            failed = False
        finally:
            running.stop()
            self._running = None
            if not failed or running.index is not None:
                with self._working():
                    self._close_backward(running)
        return result

    def on_gradients(self, call: Callable[[], Any]) -> Any:
        """Remember where gradients were asked for, in case they are written into `.grad`."""
        if not self._busy and self._running is None:
            self._gradients_site = find_site(self._until)
        return call()

    def on_zero_grad(self, owner: Optimizer | nn.Module, call: Callable[[], Any]) -> Any:
        """Run a zero_grad and book what it throws away."""
        if self._busy:
            return call()
        with self._working():
            parameters = self._owners.indices(
                owned_tensors(owner) if isinstance(owner, Optimizer) else owner.parameters()
            )
            # Weights written while a gradient was pending may have been written with it.
            site = self._catch_up(look=self._ledger.has_unused(parameters))
            named = self._owners.name_of(owner, site)
        result = call()
        with self._working():
            index = len(self._events)
            lost = self._ledger.clear(index, parameters, stepping=self._stepping is not None)
            self._events.append(Cleared(index, site, named, lost))
        return result

    def on_clip(self, kind: str, parameters: Any, call: Callable[[Any], Any]) -> Any:
        """Run a clip and book whose gradients went into it."""
        single = isinstance(parameters, torch.Tensor)
        listed = [parameters] if single else list(parameters)
        # An exhausted generator goes on as it is, so that torch's own warning about it still comes.
        given = listed if listed and not single else parameters
        with self._working():
            site = self._catch_up()
            norms = self._ledger.gradient_norms(self._owners.indices(listed))
        result = call(given)
        with self._working():
            index = len(self._events)
            self._events.append(Clipped(index, site, kind, norms))
            self._ledger.clip(index, norms)
        return result

    def before_step(self, optimizer: Optimizer) -> None:
        """Settle everything that happened before the optimizer moves weights."""
        depth = stack_depth()
        if self._stepping is not None and depth > self._step_depth:
            return  # a wrapper's step (SAM, Lookahead) calls its inner optimizer's
        self._stepping = None
        with self._working():
            self._step_site = self._catch_up(look=True)
            self._owners.name_of(optimizer, self._step_site)
        self._stepping, self._step_depth = optimizer, depth

    def after_step(self, optimizer: Optimizer) -> None:
        """Book what the optimizer owned and what moved."""
        if optimizer is not self._stepping:
            return
        with self._working():
            site = self._step_site
            self._book_gradients(self._ledger.look(), site)
            self._stepping = None
            index = len(self._events)
            owned = self._owners.indices(owned_tensors(optimizer))
            shift = self._watch.look(owned)
            with_gradient = frozenset(self._ledger.gradient_norms(owned))
            self._ledger.use(index, with_gradient)
            self._events.append(
                Stepped(
                    index,
                    site,
                    self._owners.name_of(optimizer, site),
                    owned,
                    with_gradient,
                    self._owners.indices(_tensors_at_rate_zero(optimizer)),
                    shift.moved,
                    shift.sizes,
                )
            )
            self._drop_writes()

    # -- booking --------------------------------------------------------------------------------

    def _catch_up(self, look: bool = False) -> Site:
        """Book whatever changed since the last event, and say where we are now.

        Args:
            look: compare all weights with their copies. Needed where it matters in which order
                weights and gradients changed; at every event it would cost more than the rest.
        """
        site = find_site(self._until)
        if self._running is not None:  # an optimizer that steps inside backward, by hooks
            self._book_fresh(self._running)
        changes = self._ledger.look()
        if look or changes.cleared:
            self._book_movement()
        self._book_gradients(changes, site)
        return site

    def _book_movement(self) -> None:
        if self._stepping is not None:  # weights are in the optimizer's hands
            return
        writes = self.trace.take() if self.trace else None
        self._events.extend(self._watch.events(len(self._events), writes))
        moved = self._watch.last_moved
        self._ledger.use_by_hand(i for i in moved if i in self._owners.of_parameters)
        if self.trace and moved:
            self.trace.refresh()

    def _book_gradients(self, changes: Changes, site: Site) -> None:
        """Changes of `.grad` that no call explains: cleared, edited or written by hand."""
        if changes.cleared:
            index = len(self._events)
            lost = self._ledger.clear(index, changes.cleared, stepping=self._stepping is not None)
            self._events.append(Cleared(index, site, "by hand", lost))
        if changes.edited:
            self._events.append(Edited(len(self._events), site, changes.edited))
        if changes.appeared:
            index = len(self._events)
            self._events.append(
                Backward(
                    index=index,
                    site=self._gradients_site or site,
                    label=self.label,
                    added=changes.appeared,
                    upstream={},
                    nonfinite=frozenset(),
                    frozen=self._frozen(),
                    by_hand=True,
                    copied=self._gradients_site is None,
                )
            )
            self._ledger.add(index, changes.appeared)

    def _book_fresh(self, running: RunningBackward) -> None:
        """Book the gradients that have arrived since the last call in the ledger."""
        if running.index is None:
            running.index = len(self._events)
            self._events.append(running.event(frozenset()))  # completed when backward returns
        self._ledger.add(running.index, running.take())

    def _close_backward(self, running: RunningBackward) -> None:
        self._book_fresh(running)
        assert running.index is not None
        part_of, passed = self._owners.part_of, running.reach.passed
        inside = {
            i for i, t in enumerate(self._inventory.tensors) if passed and part_of(t) in passed
        }
        self._events[running.index] = running.event(frozenset(inside))
        if self._keep_vectors:
            self._vectors[running.index] = self._per_module(running.gradients)

    def _per_module(self, added: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Flat gradient per module, zeros where a parameter was not reached, to compare losses."""
        inside: dict[str, list[int]] = {}
        for i, parameter in enumerate(self._inventory.parameters):
            inside.setdefault(parameter.module, []).append(i)
        zero = torch.zeros_like
        return {
            module: tensor_math.flat(
                [added[i] if i in added else zero(self._inventory.tensors[i]) for i in indices]
            )
            for module, indices in inside.items()
            if any(i in added for i in indices)
        }

    def _frozen(self) -> frozenset[int]:
        tensors = self._inventory.tensors
        frozen = frozenset(i for i, tensor in enumerate(tensors) if not tensor.requires_grad)
        self._trainable.update(i for i in range(len(tensors)) if i not in frozen)
        return frozen

    def _drop_writes(self) -> None:
        if self.trace:
            self.trace.take()
            self.trace.refresh()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The tape's own tensor work, which is not part of the training step."""
        before, self._busy = self._busy, True
        try:
            with tensor_math.undispatched():
                yield
        finally:
            self._busy = before


def _tensors_at_rate_zero(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        rate = group.get("lr")
        if isinstance(rate, (int, float, torch.Tensor)) and float(rate) == 0.0:
            yield from group["params"]
