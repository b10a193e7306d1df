"""Collects datasets in robomimic's HDF5 schema with scripted experts.

Every episode depends on `(seed, index)` alone, so the content of the file does not depend on the
number of processes, and a longer dataset begins with the shorter one. Episodes are kept in
`OUT.partial/` until all are collected; OUT appears by one atomic rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
from tqdm import tqdm

from robomimic_vae_ext import files, processes
from robomimic_vae_ext.data.schema import write_dataset, write_episode
from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings, run_episode
from robomimic_vae_ext.errors import DatasetError, SimulationError, VaeExtError

LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectReport:
    """Result of a collection.

    Args:
        path: of the dataset.
        episodes: number of episodes in it.
        transitions: number of transitions in it.
        successes: number of successful episodes.
        frames_per_second: environment steps per second of this run, over all processes.
    """

    path: Path
    episodes: int
    transitions: int
    successes: int
    frames_per_second: float

    def describe(self) -> str:
        """Return one line for the terminal."""
        return (
            f"{self.path}: {self.episodes} episodes, {self.transitions} transitions, "
            f"{self.successes} successful ({self.successes / self.episodes:.0%}), "
            f"{self.frames_per_second:.1f} frames/s"
        )


def collect(
    settings: CollectSettings,
    out: Path,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> CollectReport:
    """Collect a dataset.

    Args:
        settings: what to collect.
        out: path of the HDF5 file to write.
        workers: number of processes.
        resume: continue an interrupted run from `OUT.partial`.
        overwrite: replace `out`, and delete the `OUT.partial` of an interrupted run.

    Returns:
        A report.

    Raises:
        OutputError: `out` exists already.
        DatasetError: an unfinished run is there, another process writes the same file, or its
            folder cannot be created.
        SimulationError: the simulator cannot render, or a worker process died.
    """
    files.check_output(out, overwrite)
    with _alone(out.with_name(out.name + ".partial")) as partial:
        _prepare_partial(settings, partial, resume, overwrite)
        return _collect(settings, out, partial, workers)


def _collect(settings: CollectSettings, out: Path, partial: Path, workers: int) -> CollectReport:
    """Collect the missing episodes and write the dataset."""
    missing = [i for i in range(settings.n) if not _is_whole(_episode_path(partial, i))]
    start, frames = time.perf_counter(), 0
    if missing:
        LOGGER.info("collecting %d of %d episodes", len(missing), settings.n)
    try:
        with tqdm(total=settings.n, initial=settings.n - len(missing), unit="episode") as bar:
            for length in _run_episodes(settings, partial, missing, workers):
                frames += length
                bar.update()
                bar.set_postfix_str(f"{frames / (time.perf_counter() - start):.1f} frames/s")
    except VaeExtError:
        if not any(_episode_path(partial, i).exists() for i in range(settings.n)):
            shutil.rmtree(partial)  # no episode yet: the corrected command need not resume
        raise
    seconds = time.perf_counter() - start
    episodes = [_episode_path(partial, i) for i in range(settings.n)]
    summary = write_dataset(
        partial / "dataset.hdf5",
        episodes,
        settings.env.env_args(),
        {"collect": dataclasses.asdict(settings) | {"horizon": settings.steps}},
        settings.seed,
        settings.compress,
    )
    os.replace(partial / "dataset.hdf5", out)
    shutil.rmtree(partial)
    return CollectReport(
        out, settings.n, summary.transitions, summary.successes, frames / max(seconds, 1e-9)
    )


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[Path]:
    """Create the folder for unfinished work, and lock it until the block or the process ends."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(
            f"{partial} cannot be created ({error.strerror})",
            "a folder to write to",
            "Choose another --out.",
        ) from error
    try:
        if not files.try_lock(descriptor):
            raise DatasetError(
                f"{partial} is in use by another process",
                "one process per output file",
                "Wait for it, or choose another --out.",
            )
        yield partial
    finally:
        os.close(descriptor)


def _prepare_partial(
    settings: CollectSettings, partial: Path, resume: bool, overwrite: bool
) -> None:
    """Check the episodes of an interrupted run, or delete them if `overwrite` is set."""
    described = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    note = partial / "settings.json"
    if overwrite and not resume:
        for path in partial.iterdir():  # the folder itself is locked
            path.unlink()
    if any(partial.iterdir()):
        if not resume:
            raise DatasetError(
                f"{partial} of an interrupted run exists",
                "no unfinished run",
                "Continue it with --resume, or delete it with --overwrite.",
            )
        if not note.exists() or note.read_text() != described:
            raise DatasetError(
                f"{partial} was collected with other settings",
                "the settings of this command",
                "Repeat the first command, or delete it with --overwrite.",
            )
    note.write_text(described)


def _episode_path(partial: Path, index: int) -> Path:
    return partial / f"episode_{index:06d}.hdf5"


def _is_whole(path: Path) -> bool:
    """Whether an episode is complete; a loss of power can leave its file empty."""
    return path.exists() and bool(h5py.is_hdf5(path))


def _run_episodes(
    settings: CollectSettings, partial: Path, missing: list[int], workers: int
) -> Iterator[int]:
    """Collect the missing episodes; yield the length of each when it is done."""
    if workers < 1:
        raise DatasetError(f"--workers {workers}", "at least 1", "Change --workers.")
    if not missing:
        return
    if workers == 1:
        worker = Collector(settings, partial)
        for index in missing:
            yield worker.run(index)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(missing)),
        processes.CONTEXT,
        _start_worker,
        (settings, partial),
    )
    try:
        futures = [pool.submit(_work, index) for index in missing]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise SimulationError(
            "a worker process died (killed, out of memory, or crashed in MuJoCo)",
            f"{workers} running workers",
            "Run the same command with --resume, perhaps with fewer --workers.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_COLLECTOR: Collector | None = None


def _start_worker(settings: CollectSettings, partial: Path) -> None:
    # An error raised here would reach the parent as a dead worker without its message, so the
    # environment is built by the first episode instead.
    global _COLLECTOR
    _COLLECTOR = Collector(settings, partial)


def _work(index: int) -> int:
    assert _COLLECTOR is not None
    return _COLLECTOR.run(index)


class Collector:
    """Collects single episodes in one process.

    Args:
        settings: of the dataset.
        partial: folder for the episodes' files.
    """

    def __init__(self, settings: CollectSettings, partial: Path) -> None:
        self.settings = settings
        self.partial = partial
        self._env: Any = None

    def run(self, index: int) -> int:
        """Collect one episode into its own file.

        Args:
            index: of the episode; with the dataset's seed, all that it depends on.

        Returns:
            Its length [steps].
        """
        if self._env is None:
            self._env = envs.build_env(self.settings.env.env_args())
        path = _episode_path(self.partial, index)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        episode = run_episode(self._env, self.settings, index)
        with h5py.File(unfinished, "w") as file:
            write_episode(file, episode)
        os.replace(unfinished, path)
        return len(episode["actions"])
