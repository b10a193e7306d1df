"""Turn torch's training calls into events: the part of the tape that listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from robomimic_vae_ext.gradient_flow import tensors as tensor_math
from robomimic_vae_ext.gradient_flow.callsite import find_site, stack_depth
from robomimic_vae_ext.gradient_flow.events import (
    NOWHERE,
    Backward,
    Cleared,
    Clipped,
    Edited,
    Event,
    Recording,
    Site,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.graph import Part, reach
from robomimic_vae_ext.gradient_flow.inventory import Inventory, owned_tensors
from robomimic_vae_ext.gradient_flow.ledger import Changes, Ledger
from robomimic_vae_ext.gradient_flow.movement import MovementWatch
from robomimic_vae_ext.gradient_flow.ownership import Ownership
from robomimic_vae_ext.gradient_flow.writes import WriteTrace

# A tuple itself, so that it is looked for first; torch 2.0 has none.
_EDGE: Any = getattr(torch.autograd.graph, "GradientEdge", ())


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
        self._events: list[Event] = []
        self._ledger = Ledger(inventory.tensors)
        self._watch = MovementWatch(inventory)
        self._owners = Ownership(inventory, optimizers)
        self._vectors: dict[int, dict[str, torch.Tensor]] = {}
        self._busy = False
        self._backward_depth = 0
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
            events=tuple(self._events),
            contributions=self._ledger.contributions(),
            vectors=self._vectors,
            seconds=seconds,
        )

    def is_muted(self) -> bool:
        """True while an optimizer or the recorder itself writes."""
        return self._busy or self._stepping is not None

    def on_backward(self, roots: Any, call: Callable[[Any], Any]) -> Any:
        """Run a backward and book what it adds to which parameter."""
        if self._backward_depth:  # a checkpointed layer runs its own backward inside the loss's
            return call(roots)
        single = isinstance(roots, (torch.Tensor, _EDGE))
        listed = (roots,) if single else tuple(roots)
        with self._working():
            site = self._catch_up()
            self._gradients_site = None
            upstream, passed = self._reach(listed)
            added: dict[int, torch.Tensor] = {}
            hooks = [self._hook(i, added) for i in self._trainable()]
        self._backward_depth += 1
        try:
            result = call(roots if single else listed)
        finally:
            self._backward_depth -= 1
            for hook in hooks:
                hook.remove()
        with self._working():
            self._book_backward(site, added, upstream, passed)
        return result

    def on_gradients(self, call: Callable[[], Any]) -> Any:
        """Remember where gradients were asked for, in case they are written into `.grad`."""
        if not self._busy and not self._backward_depth:
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
            indices = self._owners.indices(listed)
            norms = self._ledger.gradient_norms(indices)
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
            name = self._owners.name_of(optimizer, site)
            self._events.append(
                Stepped(index, site, name, owned, with_gradient, shift.moved, shift.sizes)
            )
            self._drop_writes()

    def _catch_up(self, look: bool = False) -> Site:
        """Book whatever changed since the last event, and say where we are now.

        Args:
            look: compare all weights with their copies. Needed where it matters in which order
                weights and gradients changed; at every event it would cost more than the rest.
        """
        site = find_site(self._until)
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
                    by_hand=True,
                    copied=self._gradients_site is None,
                )
            )
            self._ledger.add(index, changes.appeared)

    def _book_backward(
        self,
        site: Site,
        added: Mapping[int, torch.Tensor],
        upstream: Mapping[str, frozenset[str]],
        passed: frozenset[int],
    ) -> None:
        index = len(self._events)
        norms = dict(zip(added, tensor_math.norms(list(added.values())), strict=True))
        broken = frozenset(i for i, norm in norms.items() if norm - norm != 0.0)
        self._events.append(
            Backward(index, site, self.label, norms, upstream, broken, passed=passed)
        )
        self._ledger.add(index, norms)
        if self._keep_vectors:
            self._vectors[index] = self._per_module(added)

    def _per_module(self, added: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Flat gradient per module, zeros where a parameter was not reached, to compare losses."""
        reached = {self._inventory.parameters[i].module for i in added}
        return {
            module: tensor_math.flat(
                [
                    added.get(i, torch.zeros_like(self._inventory.tensors[i]))
                    for i, p in enumerate(self._inventory.parameters)
                    if p.module == module
                ]
            )
            for module in self._inventory.modules
            if module in reached
        }

    def _hook(self, index: int, added: dict[int, torch.Tensor]) -> Any:
        def keep(grad: torch.Tensor) -> None:
            # A copy: autograd may go on to use this very memory as `.grad`.
            with self._working():
                before = added.get(index)
                new = tensor_math.copy(grad)
                added[index] = new if before is None else before + new

        return self._inventory.tensors[index].register_hook(keep)

    def _trainable(self) -> list[int]:
        return [i for i, t in enumerate(self._inventory.tensors) if t.requires_grad and t.is_leaf]

    def _part(self, index: int, owners: Mapping[int, tuple[str, ...]]) -> Part:
        return Part(self._inventory.parameters[index].module, owners.get(index, ()))

    def _reach(self, roots: Sequence[Any]) -> tuple[Mapping[str, frozenset[str]], frozenset[int]]:
        """What `Backward` knows as `upstream` and `passed`."""
        owners = self._owners.of_parameters

        def part_of(tensor: torch.Tensor) -> Part | None:
            index = self._owners.index(tensor)
            return None if index is None else self._part(index, owners)

        nodes = [root.node if isinstance(root, _EDGE) else root.grad_fn for root in roots]
        found = reach([node for node in nodes if node is not None], part_of)
        indices = range(len(self._inventory.parameters))
        passed = frozenset(i for i in indices if self._part(i, owners) in found.passed)
        return found.upstream, passed

    def _drop_writes(self) -> None:
        if self.trace:
            self.trace.take()
            self.trace.refresh()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The tape's own tensor work, which is nobody's training step."""
        before, self._busy = self._busy, True
        try:
            with tensor_math.undispatched():
                yield
        finally:
            self._busy = before
