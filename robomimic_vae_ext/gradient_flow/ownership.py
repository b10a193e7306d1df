"""Which optimizer owns which parameter, by its groups as they are at each event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from robomimic_vae_ext.gradient_flow.events import Site
from robomimic_vae_ext.gradient_flow.inventory import Inventory, owned_tensors


class Ownership:
    """Names optimizers and modules, and remembers every owner a parameter ever had.

    Args:
        inventory: what is watched.
        optimizers: the named ones; others are added when they turn up.
    """

    def __init__(self, inventory: Inventory, optimizers: Mapping[str, Optimizer]) -> None:
        self._modules = inventory.module_objects
        self._optimizers = dict(optimizers)
        self._index = {id(tensor): i for i, tensor in enumerate(inventory.tensors)}
        self._owners: dict[int, tuple[str, ...]] = {}
        self._learn()

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Names of all optimizers, in order of appearance."""
        return tuple(self._optimizers)

    @property
    def of_parameters(self) -> Mapping[int, tuple[str, ...]]:
        """Parameter index -> its owners; parameters without one are missing."""
        return dict(self._owners)

    def index(self, tensor: torch.Tensor) -> int | None:
        """Index of a watched tensor."""
        return self._index.get(id(tensor))

    def indices(self, tensors: Iterable[torch.Tensor]) -> frozenset[int]:
        """Indices of those tensors that are watched."""
        return frozenset(i for t in tensors if (i := self.index(t)) is not None)

    def name_of(self, thing: Optimizer | nn.Module, site: Site) -> str:
        """Name of an optimizer or module; of its type and line where nobody named it."""
        named: Mapping[str, object] = (
            self._optimizers if isinstance(thing, Optimizer) else self._modules
        )
        name = next((name for name, known in named.items() if known is thing), None)
        if isinstance(thing, Optimizer):
            if name is None:
                name = f"{type(thing).__name__} at {site.where}"
                # Nobody named it, but if it moves watched weights it is an owner all the same.
                if self.indices(owned_tensors(thing)):
                    self._optimizers[name] = thing
            self._learn()  # groups may have been added
        return name or type(thing).__name__

    def _learn(self) -> None:
        for name, optimizer in self._optimizers.items():
            for i in self.indices(owned_tensors(optimizer)):
                owners = self._owners.get(i, ())
                if name not in owners:
                    self._owners[i] = (*owners, name)
