"""Which weights and buffers have changed since the last look, by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.recording.events import BuffersMoved, Moved
from robomimic_vae_ext.gradient_flow.recording.inventory import Inventory
from robomimic_vae_ext.gradient_flow.recording.tensor_math import copy, distance, norms, same
from robomimic_vae_ext.gradient_flow.recording.write_trace import Writes


class Shift(NamedTuple):
    """Parameters that changed and by how much; norms of the modules they are in, before."""

    moved: dict[int, float]
    sizes: dict[str, float]


class MovementWatch:
    """Keeps a copy of every parameter and buffer and compares; misses no kind of write.

    Args:
        inventory: what to watch.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._tensors = inventory.tensors
        self._buffers = inventory.buffers
        self._places = [parameter.module for parameter in inventory.parameters]
        self._before = [copy(tensor) for tensor in self._tensors]
        self._buffers_before = {
            (module, name): copy(buffer)
            for module, buffers in self._buffers.items()
            for name, buffer in buffers.items()
        }
        self.last_moved: frozenset[int] = frozenset()

    def look(self, parameters: Iterable[int] | None = None) -> Shift:
        """Compare parameters with their copies, and renew the copies that differ.

        Args:
            parameters: indices to compare; all by default.
        """
        indices = range(len(self._tensors)) if parameters is None else sorted(parameters)
        changed = [i for i in indices if not same(self._tensors[i].detach(), self._before[i])]
        moved = {i: distance(self._tensors[i], self._before[i]) for i in changed}
        sizes = self._sizes({self._places[i] for i in changed})
        for i in changed:
            self._before[i] = copy(self._tensors[i])
        return Shift(moved, sizes)

    def _sizes(self, modules: set[str]) -> dict[str, float]:
        inside = [i for i, place in enumerate(self._places) if place in modules]
        squares = dict.fromkeys(modules, 0.0)
        for i, norm in zip(inside, norms([self._before[i] for i in inside]), strict=True):
            squares[self._places[i]] += norm**2
        return {module: square**0.5 for module, square in squares.items()}

    def events(self, index: int, writes: Writes | None) -> Iterator[Moved | BuffersMoved]:
        """Movement outside optimizers and of buffers since the last look, as events."""
        moved, sizes = self.look()
        self.last_moved = frozenset(moved)
        if moved:
            times = writes.times if writes else {}
            sites = writes.sites if writes else {}
            yield Moved(
                index,
                moved,
                sizes,
                {i: times.get(i, 0) for i in moved},
                {i: sites.get(i, ()) for i in moved},
            )
            index += 1
        buffers = self._moved_buffers()
        if buffers:
            yield BuffersMoved(index, buffers)

    def _moved_buffers(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for module, buffers in self._buffers.items():
            names = []
            for name, buffer in buffers.items():
                if not same(buffer, self._buffers_before[module, name]):
                    self._buffers_before[module, name] = copy(buffer)
                    names.append(name)
            if names:
                found[module] = tuple(names)
        return found
