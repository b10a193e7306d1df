"""Runs a study: the jobs that have no result yet, side by side, and again after an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import files
from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.errors import ConfigError, VaeExtError
from robomimic_vae_ext.study import executors, report
from robomimic_vae_ext.study.job import RESULT, Job, all_jobs, check_folder, job_name, write_job
from robomimic_vae_ext.study.scheduler import Scheduler
from robomimic_vae_ext.study.study_file import DATASETS_FOLDER, Study, Task

INTERRUPTED: Final = 130  # exit code, as shells have it


@dataclass(frozen=True)
class Options:
    """How to run a study; no result depends on it.

    Args:
        jobs, gpus, per_gpu, ray: as `executors.make_executor`.
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
    threads = max(study.training_of(t, a).threads for t in study.tasks for a in study.arms)
    executor = executors.make_executor(
        threads, options.jobs, options.gpus, options.per_gpu, options.ray
    )
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out), _sigterm_is_interrupt():
        try:
            for path in options.merge:
                count = merge_results(every, out, path)
                print(f"{path}: results of {count} jobs merged", flush=True)
            prepare(study, out, every, selected)
            code = Scheduler(selected, out, executor, options.minutes, begin).run()
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
            check_folder(job, folder)
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
        if any(
            job.task == task.name and not (out / job.name / RESULT).exists() for job in selected
        ):
            make_dataset(task, out, workers=executors.cores())


def collect_settings(task: Task) -> Any:
    """What to collect for a task, as `data.collect` takes it.

    Raises:
        ConfigError: the collector cannot use a value.
    """
    from robomimic_vae_ext.data.simulation.envs import EnvSpec
    from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings

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
    from robomimic_vae_ext.data.simulation.collect import collect

    print(f"collecting {path}", flush=True)
    print(collect(settings, path, workers, resume=True).describe(), flush=True)


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
