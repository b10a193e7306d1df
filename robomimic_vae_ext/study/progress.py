"""How far a study is and how long it will take: for the terminal, and in progress.json."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.study import report
from robomimic_vae_ext.study.job import RESULT, Job

FILE: Final = "progress.json"


class Progress:
    """Durations of finished jobs, and an estimate for the others.

    Args:
        every: jobs that are to run, with or without a result.
        out: the study's folder.
    """

    def __init__(self, every: Sequence[Job], out: Path) -> None:
        self.every, self.out = every, out
        self.results: dict[str, dict[str, Any]] = {}
        self.begun: dict[str, float] = {}
        self.walls: dict[str, float] = {}  # [s] of the jobs that ran here, with their starts
        for job in every:
            self._read(job)

    def _read(self, job: Job) -> None:
        path = self.out / job.name / RESULT
        if path.exists():
            self.results[job.name] = report.read_result(path)

    def started(self, job: Job) -> None:
        """Note that a job runs."""
        self.begun[job.name] = time.monotonic()

    def ended(self, job: Job) -> None:
        """Note that a job has ended, with or without a result."""
        self.walls[job.name] = time.monotonic() - self.begun.pop(job.name)
        self._read(job)

    def seconds_left(self, slots: int) -> float | None:
        """Estimate from the mean duration per arm, or of all arms where one has none yet."""
        durations: dict[str, list[float]] = {}
        for job in self.every:
            if job.name in self.results:
                seconds = self.results[job.name]["seconds"]
                total = max(sum(seconds.values()), self.walls.get(job.name, 0.0))
                durations.setdefault(job.arm, []).append(total)
        if not durations:
            return None
        means = {arm: sum(values) / len(values) for arm, values in durations.items()}
        overall = sum(means.values()) / len(means)
        left, longest = 0.0, 0.0
        for job in self.every:
            if job.name not in self.results:
                rest = means.get(job.arm, overall)
                if job.name in self.begun:
                    rest = max(0.0, rest - (time.monotonic() - self.begun[job.name]))
                left, longest = left + rest, max(longest, rest)
        return max(left / slots, longest)

    def remaining(self, slots: int) -> str:
        """The estimate in words."""
        seconds = self.seconds_left(slots)
        return "an unknown time" if seconds is None else in_words(seconds)

    def opening(self, slots: int) -> str:
        """The line before the first job."""
        done = len(self.results)
        return f"{len(self.every)} jobs, {done} of them done; up to {slots} at the same time" + (
            f", about {self.remaining(slots)} left" if done else ""
        )

    def line(self, job: Job, running: int, slots: int) -> str:
        """The line after a job that has its result."""
        result = self.results[job.name]
        final = result["rollouts"][-1]
        outcome = f"success {final['successes']}/{final['episodes']}"
        error = result["curve"][-1]["critic_error"]
        if error is not None:
            outcome += f", held-out Q error {error:.3g}"
        return (
            f"{len(self.results)}/{len(self.every)} jobs, {job.name}: {outcome}; "
            f"{running} running, about {self.remaining(slots)} left"
        )

    def write(self, running: Collection[str], failed: Mapping[str, str], slots: int) -> None:
        """Write progress.json."""
        status = {
            "jobs": len(self.every),
            "done": len(self.results),
            "running": sorted(running),
            "failed": dict(failed),
            "slots": slots,
            "seconds_left": self.seconds_left(slots),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        files.write_json(self.out / FILE, status)


def in_words(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3 h 10 min."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
