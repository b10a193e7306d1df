"""Read an autograd graph: which module did a loss push through to reach which other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch


class Part(NamedTuple):
    """Parameters of one module that the same optimizers own: mostly the whole module."""

    module: str
    owners: tuple[str, ...]


class Reach(NamedTuple):
    """What a backward reaches, and by way of what.

    A critic that scores the actor's action is fed by the actor: the actor's loss cannot reach the
    actor without leaving a gradient in the critic. Nothing feeds an encoder: a gradient that
    arrives there was meant for it.

    Args:
        upstream: module -> modules that feed it, for every module reached.
        passed: parts that are fed by another part of their own module.
    """

    upstream: dict[str, frozenset[str]]
    passed: frozenset[Part]


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


def reach(roots: Iterable[Any], part_of: Callable[[torch.Tensor], Part | None]) -> Reach:
    """Read the graph of one backward.

    Args:
        roots: nodes of the graph that backward starts from: `grad_fn` of its tensors.
        part_of: leaf tensor -> its part, None for leaves that are not watched.
    """
    numbers: dict[Part, int] = {}

    def number_of(node: Any) -> int | None:
        part = part_of(node.variable)
        return None if part is None else numbers.setdefault(part, len(numbers))

    feeds = _feeds(_children_first(roots), number_of)
    parts = list(numbers)
    upstream: dict[str, frozenset[str]] = {}
    passed = set()
    for number, mask in feeds.items():
        module = parts[number].module
        feeding = {part.module for k, part in enumerate(parts) if mask >> k & 1}
        if module in feeding:
            passed.add(parts[number])
        upstream[module] = upstream.get(module, frozenset()) | (feeding - {module})
    return Reach(upstream, frozenset(passed))


def _feeds(nodes: Iterable[Any], number_of: Callable[[Any], int | None]) -> dict[int, int]:
    """Number of a part -> bit mask of the parts that feed it, for every part in the graph."""
    below: dict[Any, int] = {}  # node -> mask of the parts that it depends on
    feeds: dict[int, int] = {}
    for node in nodes:
        if _is_leaf(node):
            number = number_of(node)
            below[node] = 0 if number is None else 1 << number
            if number is not None:
                feeds.setdefault(number, 0)
            continue
        inputs, weights = 0, set()
        below[node] = 0
        for child, _ in node.next_functions:
            if child is not None:
                below[node] |= below[child]
                weight = _bare_weight(child)
                number = None if weight is None else number_of(weight)
                if number is None:
                    inputs |= below[child]
                else:
                    weights.add(number)
        for number in weights:
            feeds[number] = feeds.get(number, 0) | (inputs & ~(1 << number))
    return feeds


def _is_leaf(node: Any) -> bool:
    # By type, since a user's own autograd.Function may well have an attribute `variable`.
    return type(node).__name__ == "AccumulateGrad"


def _bare_weight(node: Any) -> Any | None:
    """The leaf that enters an operation through `node` unchanged but for its shape, if any."""
    while not _is_leaf(node):
        if not node.name().startswith(_RESHAPING):
            return None
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1:
            return None
        node = children[0]
    return node


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
