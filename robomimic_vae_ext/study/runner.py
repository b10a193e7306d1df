"""Runs a study: what is missing of its jobs, side by side, and again after an interruption."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study import executors, jobs, plan, progress, published
from robomimic_vae_ext.study.protocol import Protocol

ATTEMPTS: Final = 2  # of a job that fails
LOOK: Final = 5.0  # [s] between two looks at the clock while jobs run
INTERRUPTED: Final = 130  # exit code, as shells have it


@dataclass(frozen=True)
class Options:
    """How to run a study; none of it changes a result.

    Args:
        jobs: at the same time; None: as many as the machine has room for.
        gpus: comma-separated, `none`, or None for all that torch finds.
        per_gpu: jobs on each GPU; None: one, and with Ray no GPU at all.
        ray: address of a Ray cluster, empty for the one of this machine; None: child processes.
        minutes: no job is started later than this, datasets included; None: no limit.
        merge: published results whose jobs count as done.
        only_tasks: names; empty: all.
        only_arms: names; empty: all.
        only_seeds: numbers; empty: all.
    """

    jobs: int | None = None
    gpus: str | None = None
    per_gpu: int | None = None
    ray: str | None = None
    minutes: float | None = None
    merge: tuple[Path, ...] = ()
    only_tasks: tuple[str, ...] = ()
    only_arms: tuple[str, ...] = ()
    only_seeds: tuple[int, ...] = ()


def run_study(study: Protocol, out: Path, docs: Path, options: Options) -> int:
    """Run the jobs that have no result yet, and write the results when none is missing.

    Args:
        study: from `read_protocol`.
        out: the study's folder.
        docs: for `write_results`.
        options: how.

    Returns:
        Exit code: 0, also if time was up; 1 if jobs failed; 130 after Ctrl-C.

    Raises:
        ConfigError: something does not fit, or another process runs the same study.
        VaeExtError: a dataset could not be collected.
    """
    begin = time.monotonic()
    selected = plan.select(study, options.only_tasks, options.only_arms, options.only_seeds)
    plan.check_configs(study)
    elsewhere = set(published.read(study, options.merge).records) & selected
    if elsewhere:
        print(f"results to merge: {len(elsewhere)} of {len(selected)} jobs", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out), _terminated_is_interrupted():
        executor = make_executor(study, options)
        try:
            every = plan.prepare(study, out, selected - elsewhere, workers=max(1, _cores()))
            run = Run(every, out, executor, options, begin)
            code = run.to_the_end()
        except KeyboardInterrupt:
            executor.stop()
            print("\ninterrupted; the same command goes on where this one stopped", flush=True)
            return INTERRUPTED
        except BaseException:
            executor.stop()  # whatever it was, no job is left alone
            raise
    return code or _report(study, out, docs, options.merge)


def _report(study: Protocol, out: Path, docs: Path, merge: Sequence[Path]) -> int:
    """Write the results if the whole study has them."""
    names = [job.name for job in plan.all_jobs(study)]
    elsewhere = published.read(study, merge).records
    done = sum(name in elsewhere or (out / name / jobs.RESULT).exists() for name in names)
    if done < len(names):
        same = " with the same --merge" if merge else ""
        print(f"{done} of {len(names)} jobs have results; --report{same} writes what there is")
        return 0
    from robomimic_vae_ext.study import results

    print(results.write_results(study, out, docs, merge))
    return 0


def make_executor(study: Protocol, options: Options) -> executors.Executor:
    """The executor that the options ask for."""
    threads = max(study.training_of(t, a).threads for t in study.tasks for a in study.arms)
    if options.ray is not None:
        if options.jobs is not None or options.gpus is not None:
            raise ConfigError(
                "--ray with --jobs or --gpus",
                "one or the other, since a cluster starts as many jobs as it has room for",
                "Leave --jobs and --gpus out; --per-gpu says how many jobs share a GPU.",
            )
        gpus = 1.0 / options.per_gpu if options.per_gpu else 0.0
        return executors.RayExecutor(options.ray, threads, gpus)
    devices = _gpus(options.gpus)
    if devices:
        slots = [gpu for _ in range(options.per_gpu or 1) for gpu in devices]
        slots = slots[: options.jobs or len(slots)]
        return executors.LocalExecutor(len(slots), slots)
    return executors.LocalExecutor(options.jobs or max(1, _cores() // threads))


def _gpus(asked: str | None) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them, which a batch system may have set already.

    Raises:
        ConfigError: one that is not there.
    """
    if asked == "none":
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else map(str, range(count))
    there = [name.strip() for name in names][:count]
    if asked is None:
        return there
    found = [name.strip() for name in asked.split(",")]
    if any(name not in there for name in found):
        raise ConfigError(
            f"--gpus {asked!r}",
            f"some of {','.join(there)}, separated by commas"
            if there
            else "'none': torch has none",
            "Correct it, or leave it out for all that torch finds.",
        )
    return found


def _cores() -> int:
    """Cores that this process may use; a container or a batch system may allow fewer than all."""
    return len(os.sched_getaffinity(0))


@dataclass
class Run:
    """One sitting of a study.

    Args:
        every: jobs in their order, with or without a result.
        out: the study's folder.
        executor: where they run.
        options: how.
    """

    every: list[jobs.Job]
    out: Path
    executor: executors.Executor
    options: Options
    begin: float = field(default_factory=time.monotonic)
    attempts: dict[str, int] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    def to_the_end(self) -> int:
        """Run until nothing is left or time is up; return the exit code."""
        self.waiting = deque(job for job in self.every if not self._done(job.name))
        self.progress = progress.Progress(self.every, self.out)
        for job in self.every:
            if self._done(job.name):
                jobs.tidy(self.out / job.name)  # it may have been killed before it could
        self._show(self.progress.opening(self.executor.slots()))
        while self.running or (self.waiting and not self._time_is_up()):
            while (
                self.waiting
                and len(self.running) < self.executor.slots()
                and not self._time_is_up()
            ):
                self._start(self.waiting.popleft())
            ended = self.executor.wait(LOOK)
            if ended is not None:
                self._end(ended)
        return self._close()

    def _done(self, name: str) -> bool:
        return (self.out / name / jobs.RESULT).exists()

    def _time_is_up(self) -> bool:
        minutes = self.options.minutes
        return minutes is not None and time.monotonic() - self.begin > 60 * minutes

    def _start(self, job: jobs.Job) -> None:
        folder = (self.out / job.name).resolve()
        words = ["-m", "robomimic_vae_ext.study.stages", str(folder)]
        if self._on_gpu():
            words.append("--cuda")
        environment = {
            "OMP_NUM_THREADS": str(job.threads),
            # Threads that wait by sleeping: spinning ones slow the other jobs down.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
            # What is printed last must stand last in the log.
            "PYTHONUNBUFFERED": "1",
        }
        self.attempts[job.name] = self.attempts.get(job.name, 0) + 1
        self.running.add(job.name)
        self.progress.started(job)
        self.executor.submit(
            executors.Command(job.name, tuple(words), folder / jobs.LOG, environment)
        )
        self._note()

    def _on_gpu(self) -> bool:
        if self.options.ray is not None:
            return self.options.per_gpu is not None
        return bool(_gpus(self.options.gpus))

    def _end(self, ended: executors.Ended) -> None:
        self.running.remove(ended.name)
        job = next(job for job in self.every if job.name == ended.name)
        self.progress.ended(job)
        if ended.returncode == 0 and self._done(job.name):
            self._show(self.progress.line(job, len(self.running), self.executor.slots()))
            return
        reason = _reason(ended.returncode, self.out / job.name / jobs.LOG)
        if self.attempts[job.name] < ATTEMPTS:
            self.waiting.appendleft(job)
            self._show(f"{job.name} failed ({reason}); it is tried once more")
        else:
            self.failed[job.name] = reason
            self._show(f"{job.name} failed again ({reason})")

    def _show(self, line: str) -> None:
        print(line, flush=True)
        self._note()

    def _note(self) -> None:
        try:
            self.progress.write(self.running, self.failed, self.executor.slots())
        except OSError as error:  # a full disk, say: no reason to end jobs that run
            print(f"{self.out / progress.FILE} could not be written ({error})", flush=True)

    def _close(self) -> int:
        left = len(self.waiting)
        if left:
            self._show(
                f"time is up: {left} of {len(self.every)} jobs are left, about "
                f"{self.progress.remaining(self.executor.slots())}; the same command goes on"
            )
        if self.failed:
            print(f"{len(self.failed)} jobs failed; their logs are in their folders:")
            for name, reason in self.failed.items():
                print(f"  {self.out / name / jobs.LOG}: {reason}")
        return int(bool(self.failed))


def _reason(returncode: int, log: Path) -> str:
    """Why a job failed: the signal that ended it, else what its log says last."""
    if returncode < 0:
        hint = ", perhaps out of memory" if -returncode == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-returncode).name}{hint}"
    return last_line(log) or f"exit code {returncode}"


def last_line(log: Path) -> str:
    """Last line of a job's log: how Python ends a traceback, and our errors."""
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's lock, which the system takes back however this process ends."""
    with (out / ".lock").open("a+") as file:
        if not files.try_lock(file):
            file.seek(0)
            raise ConfigError(
                f"{out} is being worked on by process {file.read().strip() or 'unknown'}",
                "one runner for every folder",
                "Wait for it, or choose another --out.",
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Treat SIGTERM, by which batch systems end a job, as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
