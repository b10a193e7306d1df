"""Runs a study: the jobs that have no result yet, side by side, and again after an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.errors import ConfigError, VaeExtError
from robomimic_vae_ext.study import executors, report
from robomimic_vae_ext.study.job import (
    LOG,
    RESULT,
    Job,
    all_jobs,
    check_folder,
    job_name,
    tidy,
    write_job,
)
from robomimic_vae_ext.study.progress import Progress
from robomimic_vae_ext.study.study_file import DATASETS_FOLDER, Study, Task

ATTEMPTS: Final = 2  # of a job that fails
POLL: Final = 5.0  # [s] between two looks at the clock while jobs run
INTERRUPTED: Final = 130  # exit code, as shells have it


@dataclass(frozen=True)
class Options:
    """How to run a study; no result depends on it.

    Args:
        jobs: at the same time; None: as many as cores, GPUs and threads allow.
        gpus: comma-separated, `none`, or None for all that torch finds.
        per_gpu: jobs on each GPU; None: one, and with Ray no GPU at all.
        ray: address of a Ray cluster, empty for the one of this machine; None: child processes.
        minutes: no job is started later than this, datasets included; None: no limit.
        merge: results.json of the same study, whose jobs count as done.
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


def run_study(study: Study, out: Path, options: Options) -> int:
    """Run the jobs that have no result yet, and write the report of those that have.

    Args:
        study: from `read_study`.
        out: the study's folder.
        options: how.

    Returns:
        Exit code: 0, also if time was up; 1 if jobs failed; 130 after Ctrl-C.

    Raises:
        ConfigError: something does not fit, or another process runs the same study.
        VaeExtError: a dataset could not be collected.
    """
    begin = time.monotonic()
    every = all_jobs(study)
    for task in study.tasks:
        if task.collect is not None:
            collect_settings(task)
    selected = select(study, every, options)
    executor = make_executor(study, options)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out), _sigterm_is_interrupt():
        try:
            for path in options.merge:
                count = merge_results(every, out, path)
                print(f"{path}: results of {count} jobs merged", flush=True)
            prepare(study, out, every, selected)
            scheduler = Scheduler(selected, out, executor, options, begin)
            code = scheduler.run()
        except KeyboardInterrupt:
            executor.stop()
            print("\ninterrupted; the same command continues", flush=True)
            return INTERRUPTED
        except BaseException:
            executor.stop()  # no job is left running alone
            raise
        if report.records(every, out):
            print(report.write_report(study, every, out), flush=True)
    return code


def report_only(study: Study, out: Path, options: Options) -> int:
    """Write the report of the jobs that have results, after merging those of other machines.

    Raises:
        ConfigError: no job has a result, or one has other settings.
    """
    every = all_jobs(study)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        for path in options.merge:
            merge_results(every, out, path)
        if not report.records(every, out):
            raise ConfigError(
                f"{out} holds no result of '{study.name}'",
                "at least one TASK/ARM/seed_N/result.json",
                "Run the study first, or correct --out.",
            )
        print(report.write_report(study, every, out))
    return 0


def select(study: Study, every: Sequence[Job], options: Options) -> list[Job]:
    """The jobs that the filters leave; an empty filter leaves all.

    Raises:
        ConfigError: a name that the study does not have.
    """
    known: list[tuple[str, Sequence[Any], list[Any]]] = [
        ("task", options.only_tasks, [task.name for task in study.tasks]),
        ("arm", options.only_arms, [arm.name for arm in study.arms]),
        ("seed", options.only_seeds, list(study.seeds)),
    ]
    for name, given, names in known:
        for value in given:
            if value not in names:
                raise ConfigError(f"--only-{name} {value}", f"one of {names}", "Correct it.")
    return [
        job for job in every if all(not given or getattr(job, name) in given
                                    for name, given, _ in known)
    ]  # fmt: skip


# ---- results of other machines ----


def merge_results(every: Sequence[Job], out: Path, path: Path) -> int:
    """Copy the results of a results.json into the folders of jobs that have none.

    Args:
        every: the study's jobs; records of others are ignored.
        out: the study's folder.
        path: results.json that `lapo study` wrote.

    Returns:
        How many were copied.

    Raises:
        ConfigError: the file is no such results.json, or holds a job with other settings.
    """
    try:
        records = {
            job_name(record["task"], record["arm"], record["seed"]): record
            for record in json.loads(path.read_text(encoding="utf-8"))["records"]
        }
        known = [(job, records[job.name]) for job in every if job.name in records]
        other = [job.name for job, record in known if record["settings"] != job.settings]
        complete = all({"curve", "rollouts", "seconds"} <= set(record) for _, record in known)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "a results.json that `lapo study` wrote",
            "Correct --merge.",
        ) from error
    if other or not complete:
        raise ConfigError(
            f"{path} holds {other[0]} with other settings" if other else f"{path} lacks keys",
            "those of this study file and of today's defaults, since results of both cannot be "
            "pooled",
            "Leave the file out of --merge.",
        )
    copied = 0
    for job, record in known:
        folder = out / job.name
        if not (folder / RESULT).exists():
            write_job(job, folder)
            files.write_json(folder / RESULT, record)
            copied += 1
    return copied


# ---- datasets and folders ----


def prepare(study: Study, out: Path, every: Sequence[Job], selected: Sequence[Job]) -> None:
    """Make what the selected jobs need: their folders with job.json, and their datasets.

    Raises:
        ConfigError: a folder holds a job of the same name with other settings.
        VaeExtError: a dataset could not be collected.
    """
    for job in every:  # all, since the report pools their results
        check_folder(job, out / job.name)
    report.records(every, out)
    for job in selected:
        write_job(job, out / job.name)
    files.write_text(out / "study.json", study.path.read_text(encoding="utf-8"))
    for task in study.tasks:
        if any(job.task == task.name and not _done(out, job) for job in selected):
            make_dataset(task, out, workers=_cores())


def collect_settings(task: Task) -> Any:
    """What to collect for a task, as `data.collect` takes it.

    Raises:
        ConfigError: the collector cannot use a value.
    """
    from robomimic_vae_ext.data.envs import EnvSpec
    from robomimic_vae_ext.data.scripted_episode import CollectSettings

    values = dict(task.collect or {})
    spec = {
        "task": values.pop("env"),
        "cameras": tuple(values.pop("cameras", ())),
    } | {key: values.pop(key) for key in ("size", "rendering") if key in values}
    try:
        return CollectSettings(EnvSpec(**spec), **values)
    except (VaeExtError, TypeError) as error:
        raise ConfigError(
            f"tasks.{task.name}.collect: {error}".rstrip("."),
            "what `lapo collect` takes",
            "Change it in the study file.",
        ) from error


def make_dataset(task: Task, out: Path, workers: int) -> None:
    """Collect a task's dataset, unless it exists or is the user's.

    Raises:
        ConfigError: the existing file was collected with other settings.
        VaeExtError: the collection failed.
    """
    if task.collect is None:
        return
    path = out / DATASETS_FOLDER / f"{task.name}.hdf5"
    settings = collect_settings(task)
    if path.exists():
        needed = json.loads(json.dumps(asdict(settings) | {"horizon": settings.steps}))
        collected = hdf5.collected_as(path)
        if collected != needed:
            raise ConfigError(
                f"{path} was collected with other settings ({collected})",
                f"those of the study ({needed})",
                "Choose another --out, or remove the file and the results that were made from it.",
            )
        return
    from robomimic_vae_ext.data.collect import collect

    print(f"collecting {path}", flush=True)
    print(collect(settings, path, workers, resume=True).describe(), flush=True)


# ---- where jobs run ----


def make_executor(study: Study, options: Options) -> executors.Executor:
    """The executor that the options ask for.

    Raises:
        ConfigError: options that exclude each other, an unknown GPU, or no Ray.
    """
    threads = max(study.training_of(t, a).threads for t in study.tasks for a in study.arms)
    if options.ray is not None:
        if options.jobs is not None or options.gpus is not None:
            raise ConfigError(
                "--ray with --jobs or --gpus",
                "one or the other, since Ray decides how many jobs its nodes can run",
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


def _gpus(wanted: str | None) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them, which a batch system may have set already.

    Raises:
        ConfigError: one that torch does not find.
    """
    if wanted == "none":
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else map(str, range(count))
    available = [name.strip() for name in names][:count]
    if wanted is None:
        return available
    chosen = [name.strip() for name in wanted.split(",")]
    if any(name not in available for name in chosen):
        raise ConfigError(
            f"--gpus {wanted!r}",
            f"some of {','.join(available)}, separated by commas"
            if available
            else "'none': torch finds no GPU",
            "Correct it, or leave it out for all that torch finds.",
        )
    return chosen


def _cores() -> int:
    """Cores that this process may use; a container or a batch system may allow fewer than all."""
    return len(os.sched_getaffinity(0))


def _done(out: Path, job: Job) -> bool:
    return (out / job.name / RESULT).exists()


# ---- the jobs ----


@dataclass
class Scheduler:
    """Starts jobs, waits for them, and tries a failed one once more.

    Args:
        every: jobs in their order, with or without a result.
        out: the study's folder.
        executor: where they run.
        options: how.
        begin: when the study was started, by `time.monotonic`.
    """

    every: Sequence[Job]
    out: Path
    executor: executors.Executor
    options: Options
    begin: float = field(default_factory=time.monotonic)
    attempts: dict[str, int] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self) -> int:
        """Run until no job is left or time is up; return the exit code."""
        self.waiting = deque(job for job in self.every if not _done(self.out, job))
        self.progress = Progress(self.every, self.out)
        for job in self.every:
            if _done(self.out, job):
                tidy(self.out / job.name)  # it may have been killed before it could
        self._show(self.progress.opening(self.executor.slots()))
        while self.running or (self.waiting and not self._time_is_up()):
            while (
                self.waiting
                and len(self.running) < self.executor.slots()
                and not self._time_is_up()
            ):
                self._start(self.waiting.popleft())
            ended = self.executor.wait(POLL)
            if ended is not None:
                self._end(ended)
        return self._close()

    def _time_is_up(self) -> bool:
        minutes = self.options.minutes
        return minutes is not None and time.monotonic() - self.begin > 60 * minutes

    def _start(self, job: Job) -> None:
        folder = (self.out / job.name).resolve()
        words = ["-m", "robomimic_vae_ext.study.run_job", str(folder)]
        if self._on_gpu():
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
        self.running.add(job.name)
        self.progress.started(job)
        self.executor.submit(executors.Command(job.name, tuple(words), folder / LOG, environment))
        self._note()

    def _on_gpu(self) -> bool:
        if self.options.ray is not None:
            return self.options.per_gpu is not None
        return bool(_gpus(self.options.gpus))

    def _end(self, ended: executors.Ended) -> None:
        self.running.remove(ended.name)
        job = next(job for job in self.every if job.name == ended.name)
        self.progress.ended(job)
        if ended.returncode == 0 and _done(self.out, job):
            self._show(self.progress.line(job, len(self.running), self.executor.slots()))
            return
        reason = _reason(ended.returncode, self.out / job.name / LOG)
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
        except OSError as error:  # a full disk, for instance: the jobs may go on
            print(f"{self.out / 'progress.json'} could not be written ({error})", flush=True)

    def _close(self) -> int:
        if self.waiting:
            left = self.progress.remaining(self.executor.slots())
            self._show(
                f"time is up: {len(self.waiting)} of {len(self.every)} jobs are left, about "
                f"{left}; the same command continues"
            )
        if self.failed:
            print(f"{len(self.failed)} jobs failed; their logs:")
            for name, reason in self.failed.items():
                print(f"  {self.out / name / LOG}: {reason}")
        return int(bool(self.failed))


def _reason(returncode: int, log: Path) -> str:
    """Why a job failed: the signal that ended it, else the last line of its log."""
    if returncode < 0:
        hint = ", perhaps out of memory" if -returncode == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-returncode).name}{hint}"
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last or f"exit code {returncode}"


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's lock, which the system releases however this process ends."""
    with (out / ".lock").open("a+") as file:
        if not files.try_lock(file):
            file.seek(0)
            raise ConfigError(
                f"{out} is in use by process {file.read().strip() or 'unknown'}",
                "one `lapo study` for every folder",
                "Wait for it, or choose another --out.",
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _sigterm_is_interrupt() -> Iterator[None]:
    """Treat SIGTERM, by which batch systems end a job, as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
