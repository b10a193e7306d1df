"""A pass of a DataLoader that can begin in its middle, and knows which samples a batch holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from robomimic_vae_ext.lapo import prefetch
from robomimic_vae_ext.training import random_state


class OrderedSampler(Sampler[int]):
    """A loader's sampler that keeps the order it has drawn, and can leave out its beginning.

    Args:
        sampler: of the loader.
    """

    def __init__(self, sampler: Any) -> None:
        self.inner = sampler
        self.skip = 0
        self.order: list[int] | None = None

    def draw(self) -> list[int]:
        """The order of the pass, drawn now if it has not been."""
        if self.order is None:
            self.order = list(self.inner)
            if isinstance(self.inner, prefetch.AnnouncingSampler):
                self.inner.skip(self.skip)
        return self.order

    def __iter__(self) -> Iterator[int]:
        """What is left of the pass."""
        return iter(self.draw()[self.skip :])

    def __len__(self) -> int:
        """Samples of a whole pass."""
        return len(self.inner)


class LoaderPass:
    """The batches of a DataLoader, pass after pass, as robomimic's `run_epoch` takes them.

    The random numbers that a pass draws are the same as without this class. Begun in the middle of
    a pass, it draws that pass's order from the state that the generators had at its beginning.
    Differs: datasets that draw random numbers in worker processes go on with other ones.

    Args:
        loader: a DataLoader that makes batches of a sampler.
        position: of an earlier `LoaderPass`, to go on there; the random state is then the caller's
            to restore.
    """

    def __init__(self, loader: Any, position: dict[str, Any] | None = None) -> None:
        self.loader = loader
        if not isinstance(loader.batch_sampler.sampler, OrderedSampler):
            loader.batch_sampler.sampler = OrderedSampler(loader.batch_sampler.sampler)
        self.sampler: OrderedSampler = loader.batch_sampler.sampler
        if position is None:
            self._begin(taken=0)
            return
        random_state.restore(position["random"])
        self._begin(position["taken"])
        self.sampler.draw()  # now, while the generators are as they were then

    def _begin(self, taken: int) -> None:
        self.taken = taken
        self.random = random_state.snapshot()
        self.sampler.order = None
        self.sampler.skip = taken * self.loader.batch_size
        self._iterator = iter(self.loader)

    def next_batch(self) -> Any:
        """The next batch; a new pass begins where one has ended."""
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._begin(taken=0)
            batch = next(self._iterator)
        self.taken += 1
        return batch

    @property
    def indices(self) -> list[int]:
        """Samples of the batch that was taken last."""
        size = self.loader.batch_size
        return self.sampler.draw()[(self.taken - 1) * size : self.taken * size]

    def position(self) -> dict[str, Any]:
        """Where the pass is, for a pass that goes on from here."""
        return {"random": self.random, "taken": self.taken}
