"""Starts the jobs of a study, waits for them, and tries a failed one once more."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext.study import executors, report
from robomimic_vae_ext.study.job import LOG, RESULT, Job, tidy

ATTEMPTS: Final = 2  # of a job that fails
POLL: Final = 5.0  # [s] between two looks at the clock while jobs run


@dataclass
class Scheduler:
    """Runs jobs that have no result yet.

    Args:
        every: jobs in their order, with or without a result.
        out: the study's folder.
        executor: where they run.
        minutes: after which no job is started; None: no limit.
        begin: when the study was started, by `time.monotonic`.
    """

    every: Sequence[Job]
    out: Path
    executor: executors.Executor
    minutes: float | None = None
    begin: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.attempts: dict[str, int] = {}
        self.begun: dict[str, float] = {}  # of the running jobs
        self.walls: dict[str, float] = {}  # [s] of the jobs that ran here, with their starts
        self.failed: dict[str, str] = {}
        for job in self.every:
            if self._read(job):
                tidy(self.out / job.name)  # it may have been killed before it could
        self.waiting = deque(job for job in self.every if job.name not in self.results)

    def run(self) -> int:
        """Run until no job is left or time is up; return the exit code."""
        line = f"{len(self.every)} jobs, {len(self.results)} of them done; up to "
        line += f"{self.executor.slots()} at the same time"
        _show(f"{line}, about {self._remaining()} left" if self.results else line)
        while self.begun or (self.waiting and not self._time_is_up()):
            while (
                self.waiting and len(self.begun) < self.executor.slots() and not self._time_is_up()
            ):
                self._start(self.waiting.popleft())
            ended = self.executor.wait(POLL)
            if ended is not None:
                self._end(ended)
        return self._close()

    def seconds_left(self) -> float | None:
        """Estimate from the mean duration per arm, or of all arms where one has none yet."""
        durations: dict[str, list[float]] = {}
        for job in self.every:
            if job.name in self.results:
                seconds = sum(self.results[job.name]["seconds"].values())
                total = max(seconds, self.walls.get(job.name, 0.0))
                durations.setdefault(job.arm, []).append(total)
        if not durations:
            return None
        means = {arm: sum(values) / len(values) for arm, values in durations.items()}
        overall = sum(means.values()) / len(means)
        rests = [0.0]
        for job in self.every:
            if job.name not in self.results:
                begun = self.begun.get(job.name)
                spent = time.monotonic() - begun if begun is not None else 0.0
                rests.append(max(0.0, means.get(job.arm, overall) - spent))
        return max(sum(rests) / self.executor.slots(), *rests)  # no job is split

    def _remaining(self) -> str:
        seconds = self.seconds_left()
        return "an unknown time" if seconds is None else in_words(seconds)

    def _read(self, job: Job) -> bool:
        path = self.out / job.name / RESULT
        if path.exists():
            self.results[job.name] = report.read_result(path)
        return job.name in self.results

    def _time_is_up(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.begin > 60 * self.minutes

    def _start(self, job: Job) -> None:
        folder = (self.out / job.name).resolve()
        words = ["-m", "robomimic_vae_ext.study.run_job", str(folder)]
        if self.executor.on_gpu:
            words.append("--cuda")
        environment = {
            "OMP_NUM_THREADS": str(job.threads),
            # Threads that wait by sleeping: spinning ones slow the other jobs down.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
            # The last line of the log must be the last one printed.
            "PYTHONUNBUFFERED": "1",
        }
        self.attempts[job.name] = self.attempts.get(job.name, 0) + 1
        self.begun[job.name] = time.monotonic()
        self.executor.submit(executors.Command(job.name, tuple(words), folder / LOG, environment))

    def _end(self, ended: executors.Ended) -> None:
        job = next(job for job in self.every if job.name == ended.name)
        self.walls[job.name] = time.monotonic() - self.begun.pop(job.name)
        if ended.returncode == 0 and self._read(job):
            _show(self._line(job))
            return
        reason = _reason(ended.returncode, self.out / job.name / LOG)
        if self.attempts[job.name] < ATTEMPTS:
            self.waiting.appendleft(job)
            _show(f"{job.name} failed ({reason}); it is tried once more")
        else:
            self.failed[job.name] = reason
            _show(f"{job.name} failed again ({reason})")

    def _line(self, job: Job) -> str:
        """The line after a job that has its result."""
        result = self.results[job.name]
        final, error = result["rollouts"][-1], result["curve"][-1]["critic_error"]
        outcome = f"success {final['successes']}/{final['episodes']}"
        if error is not None:
            outcome += f", held-out Q error {error:.3g}"
        return (
            f"{len(self.results)}/{len(self.every)} jobs, {job.name}: {outcome}; "
            f"{len(self.begun)} running, about {self._remaining()} left"
        )

    def _close(self) -> int:
        if self.waiting:
            _show(
                f"time is up: {len(self.waiting)} of {len(self.every)} jobs are left, about "
                f"{self._remaining()}; the same command continues"
            )
        if self.failed:
            print(f"{len(self.failed)} jobs failed; their logs:")
            for name, reason in self.failed.items():
                print(f"  {self.out / name / LOG}: {reason}")
        return int(bool(self.failed))


def _show(line: str) -> None:
    print(line, flush=True)


def in_words(seconds: float) -> str:
    """A duration such as 45 s, 12 min or 3 h 10 min."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _reason(returncode: int, log: Path) -> str:
    """Why a job failed: the signal that ended it, else the last line of its log."""
    if returncode < 0:
        hint = ", perhaps out of memory" if -returncode == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-returncode).name}{hint}"
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last or f"exit code {returncode}"
