"""Read an autograd graph: which module did a loss push through to reach which other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch


class Part(NamedTuple):
    """Parameters of one module that the same optimizers own: mostly the whole module."""

    module: str
    owners: tuple[str, ...]


# Nodes that only reshape, cast or slice a weight on its way into the operation that uses it.
_RESHAPING = (
    "TBackward",
    "TransposeBackward",
    "PermuteBackward",
    "ViewBackward",
    "UnsafeViewBackward",
    "ReshapeAliasBackward",
    "ExpandBackward",
    "UnsqueezeBackward",
    "SqueezeBackward",
    "ToCopyBackward",
    "AsStridedBackward",
    "SelectBackward",
    "SliceBackward",
    "SplitBackward",
    "CloneBackward",
    "AliasBackward",
)


class Reach(NamedTuple):
    """What a backward reaches, and by way of what.

    Args:
        upstream: module -> modules that feed it, for every module reached.
        passed: parts that are fed by another part of their own module.
    """

    upstream: dict[str, frozenset[str]]
    passed: frozenset[Part]


def reach(roots: Iterable[Any], part_of: Callable[[torch.Tensor], Part | None]) -> Reach:
    """Read the graph by parts: what a module's parameters with the same owners are.

    Args:
        roots: as for `upstream_modules`.
        part_of: leaf tensor -> its part, None for leaves that are not tracked.
    """
    numbers: dict[Part, int] = {}

    def number_of(tensor: torch.Tensor) -> int | None:
        part = part_of(tensor)
        return None if part is None else numbers.setdefault(part, len(numbers))

    masks = upstream_modules(roots, number_of)
    parts = list(numbers)
    upstream: dict[str, frozenset[str]] = {}
    passed = set()
    for number, mask in masks.items():
        module = parts[number].module
        feeds = {part.module for k, part in enumerate(parts) if mask >> k & 1}
        if module in feeds:
            passed.add(parts[number])
        upstream[module] = upstream.get(module, frozenset()) | (feeds - {module})
    return Reach(upstream, frozenset(passed))


def upstream_modules(
    roots: Iterable[Any], module_of: Callable[[torch.Tensor], int | None]
) -> dict[int, int]:
    """For each module a loss reaches, the modules that feed it.

    A critic that scores the actor's action is fed by the actor: the actor's loss cannot reach
    the actor without leaving a gradient in the critic. An encoder that nothing feeds is an end of
    the road: a gradient that arrives there was meant for it.

    Args:
        roots: nodes of the graph that backward starts from: `grad_fn` of its tensors.
        module_of: leaf tensor -> module number, None for leaves that are not tracked.

    Returns:
        module number -> bit mask of the modules upstream of it; every module that the graph
        reaches has an entry.
    """
    reach: dict[Any, int] = {}
    upstream: dict[int, int] = {}
    for node in _children_first(roots):
        if _is_leaf(node):
            module = module_of(node.variable)
            reach[node] = 0 if module is None else 1 << module
            if module is not None:
                upstream.setdefault(module, 0)
            continue
        children = [child for child, _ in node.next_functions if child is not None]
        reach[node] = 0
        inputs = 0
        weights: set[int] = set()
        for child in children:
            reach[node] |= reach[child]
            module = _weight_of(child, module_of)
            if module is None:
                inputs |= reach[child]
            else:
                weights.add(module)
        for module in weights:
            upstream[module] = upstream.get(module, 0) | (inputs & ~(1 << module))
    return upstream


def _is_leaf(node: Any) -> bool:
    # By type, since a user's own autograd.Function may well have an attribute `variable`.
    return type(node).__name__ == "AccumulateGrad"


def _weight_of(node: Any, module_of: Callable[[torch.Tensor], int | None]) -> int | None:
    """Number of the module whose bare weight enters an operation through `node`, if any."""
    while not _is_leaf(node):
        if not node.name().startswith(_RESHAPING):
            return None
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1:
            return None
        node = children[0]
    return module_of(node.variable)


def _children_first(roots: Iterable[Any]) -> list[Any]:
    """The graph's nodes in an order where every node comes after those it depends on."""
    order: list[Any] = []
    seen: set[Any] = set()
    # An explicit stack: recurrent networks build graphs deeper than Python's recursion limit.
    stack: list[tuple[Any, bool]] = [(root, False) for root in roots]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((c, False) for c, _ in node.next_functions if c is not None)
    return order
