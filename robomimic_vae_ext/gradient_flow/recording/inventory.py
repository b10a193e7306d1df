"""What is watched: names of modules, optimizers and parameters, and who owns which parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.recording.autograd_graph import Part
from robomimic_vae_ext.gradient_flow.recording.call_site import Site
from robomimic_vae_ext.gradient_flow.recording.events import SHARED, Parameter


class Inventory(NamedTuple):
    """What is watched. `tensors[i]` belongs to `parameters[i]`."""

    tensors: tuple[torch.Tensor, ...]
    parameters: tuple[Parameter, ...]
    modules: tuple[str, ...]
    module_objects: Mapping[str, Any]
    buffers: Mapping[str, Mapping[str, torch.Tensor]]


@dataclass
class _Found:
    """A parameter on its way to a name: every named module it occurs in."""

    tensor: torch.Tensor
    inside: dict[str, str]


def flatten_modules(modules: Any) -> dict[str, nn.Module | torch.Tensor]:
    """Name every module.

    Args:
        modules: a mapping of names to modules (or to bare parameters), an `nn.ModuleDict`, a list,
            or one module, whose children are then the modules. Lists and dictionaries inside are
            unfolded: `critic[0]`, `planner.vae`.

    Returns:
        name -> module or parameter.

    Raises:
        AuditError: something in there is neither.
    """
    if isinstance(modules, nn.Module) and not isinstance(modules, (nn.ModuleDict, nn.ModuleList)):
        children = dict(modules.named_children())
        if not children or any(True for _ in modules.parameters(recurse=False)):
            return {type(modules).__name__: modules} | _flatten_children(children)
        return _flatten_children(children)
    flat = dict(_unfold("", modules, (nn.Module, torch.Tensor), "a torch.nn.Module"))
    if not flat:
        raise AuditError(
            "no module was given", "at least one named torch.nn.Module", "Pass model.nets, say."
        )
    return flat


def _flatten_children(children: Mapping[str, nn.Module]) -> dict[str, nn.Module | torch.Tensor]:
    return dict(_unfold("", children, (nn.Module, torch.Tensor), "a torch.nn.Module"))


def flatten_optimizers(optimizers: Any) -> dict[str, Optimizer]:
    """Name every optimizer; nested lists and dictionaries are unfolded as for modules.

    Raises:
        AuditError: something in there is not a torch.optim.Optimizer.
    """
    if isinstance(optimizers, Optimizer):
        return {type(optimizers).__name__: optimizers}
    return dict(_unfold("", optimizers, (Optimizer,), "a torch.optim.Optimizer"))


def _unfold(
    name: str, value: Any, leaf: tuple[type, ...], expected: str
) -> Iterator[tuple[str, Any]]:
    containers = (Mapping, nn.ModuleDict)
    if isinstance(value, containers):
        for key, item in value.items():
            yield from _unfold(f"{name}.{key}" if name else str(key), item, leaf, expected)
    elif isinstance(value, (list, tuple, nn.ModuleList)):
        for i, item in enumerate(value):
            yield from _unfold(f"{name}[{i}]", item, leaf, expected)
    elif isinstance(value, leaf):
        yield name, value
    elif value is not None:  # robomimic keeps None for an optimizer that a config switches off
        raise AuditError(
            f"{name or 'the argument'} is a {type(value).__name__}",
            f"{expected}, or a list or dictionary of them",
            f"Pass the object itself for {name or 'it'}.",
        )


def take_inventory(modules: Any, optimizers: Mapping[str, Optimizer]) -> Inventory:
    """List every parameter once, under the smallest named module that holds it.

    A parameter that several modules share, none of which lies inside another, is counted under
    `a+b`; one that an optimizer owns and no module holds, under `<optimizer>:own tensors`.

    Raises:
        AuditError: no parameters at all, or some that hold no values (meta device, lazy modules).
    """
    named = flatten_modules(modules)
    found: dict[int, _Found] = {}
    held: dict[str, frozenset[int]] = {}
    for module_name, module in named.items():
        pairs = _parameters(module)
        held[module_name] = frozenset(id(tensor) for _, tensor in pairs)
        for name, tensor in pairs:
            found.setdefault(id(tensor), _Found(tensor, {})).inside.setdefault(module_name, name)
    for optimizer_name, optimizer in optimizers.items():
        for tensor in owned_tensors(optimizer):
            if id(tensor) not in found:
                place = f"{optimizer_name}:own tensors"
                found[id(tensor)] = _Found(tensor, {place: f"[{len(found)}]"})
    if not found:
        raise AuditError(
            f"{', '.join(named)} hold no parameters", "parameters to watch", "Pass other modules."
        )
    parameters = tuple(_place(item, held) for item in found.values())
    for item, parameter in zip(found.values(), parameters, strict=True):
        _refuse_without_values(item.tensor, parameter)
    return Inventory(
        tensors=tuple(item.tensor for item in found.values()),
        parameters=parameters,
        modules=tuple(dict.fromkeys([*named, *(p.module for p in parameters)])),
        module_objects=named,
        buffers={name: _buffers(module) for name, module in named.items()},
    )


def owned_tensors(optimizer: Optimizer) -> Iterable[torch.Tensor]:
    """Every tensor in the optimizer's parameter groups as they are now."""
    return (tensor for group in optimizer.param_groups for tensor in group["params"])


def _parameters(module: nn.Module | torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if isinstance(module, torch.Tensor):
        return [("value", module)]
    return list(module.named_parameters())


def _buffers(module: nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(module, torch.Tensor):
        return {}
    return {name: b for name, b in module.named_buffers() if b.device.type != "meta"}


def _place(item: _Found, held: Mapping[str, frozenset[int]]) -> Parameter:
    """Choose the smallest module: `encoder` rather than the `policy` that contains it."""
    names = list(item.inside)
    smallest = [
        name
        for i, name in enumerate(names)
        if not any(
            held.get(other, frozenset()) < held.get(name, frozenset())
            # One module under two names: the first name wins.
            or (held.get(other) == held.get(name) and j < i)
            for j, other in enumerate(names)
        )
    ]
    tensor = item.tensor
    return Parameter(
        module=SHARED.join(smallest),
        name=item.inside[smallest[0]],
        numel=0 if is_lazy(tensor) else tensor.numel(),
    )


def _refuse_without_values(tensor: torch.Tensor, parameter: Parameter) -> None:
    where = f"parameter {parameter.name} of {parameter.module}"
    if is_lazy(tensor):
        raise AuditError(
            f"{where} is lazy and has no shape yet",
            "parameters that hold values",
            "Run one forward pass before the recording starts.",
        )
    if tensor.device.type == "meta":
        raise AuditError(
            f"{where} is on the meta device",
            "parameters that hold values",
            "Move the module to a real device before the recording starts.",
        )


class Ownership:
    """Names optimizers and modules, and remembers every owner a parameter ever had.

    Args:
        inventory: what is watched.
        optimizers: the named ones; others are added when they turn up.
    """

    def __init__(self, inventory: Inventory, optimizers: Mapping[str, Optimizer]) -> None:
        self._modules = inventory.module_objects
        self._optimizers = dict(optimizers)
        self._places = [parameter.module for parameter in inventory.parameters]
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

    def part_of(self, tensor: torch.Tensor) -> Part | None:
        """The part of a module that a watched tensor belongs to."""
        index = self.index(tensor)
        return None if index is None else Part(self._places[index], self._owners.get(index, ()))

    def indices(self, tensors: Iterable[torch.Tensor]) -> frozenset[int]:
        """Indices of those tensors that are watched."""
        return frozenset(i for t in tensors if (i := self.index(t)) is not None)

    def name_of(self, thing: Optimizer | nn.Module, site: Site) -> str:
        """Name of an optimizer or module; its type and line where it has no name."""
        named: Mapping[str, object] = (
            self._optimizers if isinstance(thing, Optimizer) else self._modules
        )
        name = next((name for name, known in named.items() if known is thing), None)
        if isinstance(thing, Optimizer):
            if name is None:
                name = f"{type(thing).__name__} at {site.where}"
                # It has no name, but if it moves watched weights it is an owner all the same.
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
