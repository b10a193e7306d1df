"""Episodes spread over processes, with the same outcomes for any number of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from robomimic_vae_ext.errors import SimulationError
from robomimic_vae_ext.rollout import episodes

_runner: episodes.Runner | None = None  # one per worker process


def _start_worker(path: str, horizon: int | None, device: str | None) -> None:
    global _runner
    episodes.use_one_thread()
    _runner = episodes.Runner(episodes.load_checkpoint(Path(path)), horizon, device)


def _play(index: int, seed: int) -> episodes.Episode:
    assert _runner is not None
    return _runner.play(index, episodes.episode_seed(seed, index))


def play_in_processes(
    path: Path, indices: list[int], seed: int, workers: int, **settings: Any
) -> Iterator[episodes.Episode]:
    """Play episodes in worker processes, yielding each as it ends (in any order).

    Args:
        path: checkpoint; every worker loads it and makes its own environment.
        indices: numbers of the episodes.
        seed: base seed; every episode's own follows from it and its number.
        workers: processes.
        settings: `horizon` and `device` of `episodes.Runner`.

    Raises:
        SimulationError: a worker died.
    """
    arguments = (str(path), settings.get("horizon"), settings.get("device"))
    # spawn: EGL contexts and torch's threads do not survive a fork.
    with ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=arguments,
    ) as pool:
        futures = [pool.submit(_play, index, seed) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise SimulationError(
                "a rollout process died",
                "all of them to finish their episodes",
                "Its own message stands above; with little memory, try --workers 1.",
            ) from error
