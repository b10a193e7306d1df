"""Running a study: order, retries, limits, locks, merging, and the printed lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import ConfigError, DatasetError
from robomimic_vae_ext.study import executors, run_study, scheduler
from robomimic_vae_ext.study import job as jobs
from robomimic_vae_ext.study.study_file import Evaluation, read_study


def result(successes: int = 1, error: float | None = 0.0214, seconds: float = 60.0) -> Any:
    return {
        "curve": [{"step": 4, "critic_error": error}],
        "rollouts": [{"step": 4, "episodes": 2, "successes": successes}],
        "seconds": {"train": seconds, "measure": 0.0, "rollouts": 0.0},
    }


class Pretended(executors.Executor):
    """Ends jobs one by one, in the order of their start; some fail first."""

    on_gpu = False

    def __init__(self, out: Path, count: int = 2, failures: dict[str, int] | None = None) -> None:
        self.out, self.count = out, count
        self.failures = dict(failures or {})  # how often a job still fails
        self.started: list[str] = []
        self.running: list[executors.Command] = []
        self.most = 0

    def slots(self) -> int:
        return self.count

    def submit(self, command: executors.Command) -> None:
        self.started.append(command.name)
        self.running.append(command)
        self.most = max(self.most, len(self.running))

    def wait(self, timeout: float) -> executors.Ended | None:
        command = self.running.pop(0)
        if self.failures.get(command.name, 0) > 0:
            self.failures[command.name] -= 1
            command.log.write_text("...\nValueError: no luck\n\n")
            return executors.Ended(command.name, 1)
        files.write_json(self.out / command.name / jobs.RESULT, result())
        return executors.Ended(command.name, 0)

    def stop(self) -> None:
        self.running.clear()


@pytest.fixture
def every(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[jobs.Job]:
    monkeypatch.setattr(scheduler, "tidy", lambda folder: None)  # nothing was trained here
    plan = Evaluation(2, 1, 0, 0)
    made = [
        jobs.Job("play", arm, seed, "x.hdf5", None, 5, 4, 2, 8, 1, plan, {})
        for seed in (1, 2) for arm in ("vae", "critic")
    ]  # fmt: skip
    for job in made:
        (tmp_path / job.name).mkdir(parents=True)
    return made


def run(
    every: list[jobs.Job], executor: Pretended, minutes: float | None = None
) -> tuple[int, scheduler.Scheduler]:
    made = scheduler.Scheduler(every, executor.out, executor, minutes)
    return made.run(), made


def test_jobs_run_in_the_order_of_the_plan_and_never_too_many(
    every: list[jobs.Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Pretended(tmp_path)
    code, _ = run(every, executor)
    assert code == 0 and executor.most == 2
    names = [job.name for job in every]
    assert executor.started == names
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 jobs, 0 of them done; up to 2 at the same time"
    for part in ("1/4 jobs", names[0], "1/2", "0.0214", "1 running", "2 min left"):
        assert part in lines[1]


def test_a_damaged_result_is_one_message(every: list[jobs.Job], tmp_path: Path) -> None:
    (tmp_path / every[1].name / jobs.RESULT).write_text('{"curve": [')
    with pytest.raises(DatasetError, match=r"result\.json cannot be read.*Delete the file"):
        run(every, Pretended(tmp_path))


def test_jobs_with_a_result_are_not_run_again(every: list[jobs.Job], tmp_path: Path) -> None:
    files.write_json(tmp_path / every[1].name / jobs.RESULT, result())
    executor = Pretended(tmp_path)
    run(every, executor)
    assert executor.started == [every[0].name, every[2].name, every[3].name]


def test_a_failed_job_is_tried_once_more(every: list[jobs.Job], tmp_path: Path) -> None:
    executor = Pretended(tmp_path, failures={every[0].name: 1})
    code, made = run(every, executor)
    assert code == 0 and not made.failed
    assert executor.started.count(every[0].name) == 2
    assert executor.started[2] == every[0].name  # before anything new


def test_a_job_that_fails_twice_is_named_and_the_others_go_on(
    every: list[jobs.Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Pretended(tmp_path, failures={every[0].name: 9})
    code, made = run(every, executor)
    assert code == 1
    assert made.failed == {every[0].name: "ValueError: no luck"}
    assert all((tmp_path / job.name / jobs.RESULT).exists() for job in every[1:])
    end = capsys.readouterr().out.splitlines()[-2:]
    assert end[0].startswith("1 jobs failed")
    assert end[1].endswith("seed_1/log.txt: ValueError: no luck")


def test_no_job_starts_when_time_is_up(
    every: list[jobs.Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Pretended(tmp_path)
    code, _ = run(every, executor, minutes=0.0)
    assert code == 0 and executor.started == []
    assert "time is up: 4 of 4 jobs are left" in capsys.readouterr().out


def test_the_estimate_goes_by_arm(every: list[jobs.Job], tmp_path: Path) -> None:
    files.write_json(tmp_path / every[0].name / jobs.RESULT, result(seconds=100.0))
    one, two = Pretended(tmp_path, count=1), Pretended(tmp_path, count=2)
    # The other arm is assumed to be as slow.
    assert scheduler.Scheduler(every, tmp_path, one).seconds_left() == 300.0
    files.write_json(tmp_path / every[1].name / jobs.RESULT, result(seconds=20.0))
    assert scheduler.Scheduler(every, tmp_path, one).seconds_left() == 120.0
    assert scheduler.Scheduler(every, tmp_path, two).seconds_left() == 100.0  # no job is split
    words = [scheduler.in_words(s) for s in (5, 89, 200, 11400)]
    assert words == ["5 s", "89 s", "3 min", "3 h 10 min"]


def test_two_runners_of_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        run_study._alone(tmp_path),
        pytest.raises(ConfigError) as caught,
        run_study._alone(tmp_path),
    ):
        pass
    assert f"process {os.getpid()}" in str(caught.value)
    with run_study._alone(tmp_path):  # free again
        pass


def test_slots_follow_threads_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for options, slots in (
        ({"gpus": "none"}, 2), ({"gpus": "none", "jobs": 5}, 5), ({"gpus": "0,1"}, 2),
        ({"gpus": "0,1", "per_gpu": 3}, 6), ({"gpus": "0,1", "per_gpu": 3, "jobs": 4}, 4),
    ):  # fmt: skip
        executor = executors.make_executor(3, **options)
        assert executor.slots() == slots and executor.on_gpu == (options["gpus"] != "none")


def test_gpus_are_those_that_a_batch_system_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert executors._gpus(None) == ["0", "1"] == executors._gpus("0, 1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-71b6")
    assert executors._gpus(None) == ["2", "GPU-71b6"] and executors._gpus("GPU-71b6") == [
        "GPU-71b6"
    ]
    with pytest.raises(ConfigError, match="expected some of 2,GPU-71b6"):
        executors._gpus("0")


@pytest.mark.parametrize("asked", ["2", "abc", "", "0,", ",", "-1"])
def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Jobs would train on the CPU instead, without a word."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="expected some of 0,1"):
        executors.make_executor(1, gpus=asked)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="expected 'none'"):
        executors.make_executor(1, gpus="0")


def test_ray_takes_neither_jobs_nor_gpus() -> None:
    with pytest.raises(ConfigError, match="--ray with --jobs or --gpus"):
        executors.make_executor(1, ray="", jobs=2)


def test_an_unexpected_error_leaves_no_job_alone(
    make_study: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Pretended(tmp_path)
    stopped: list[bool] = []

    def fail(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(executor, "stop", lambda: stopped.append(True))
    monkeypatch.setattr(executor, "submit", fail)
    monkeypatch.setattr(executors, "make_executor", lambda *_: executor)
    with pytest.raises(RuntimeError, match="no luck"):
        run_study.run_study(make_study(), tmp_path / "out", run_study.Options())
    assert stopped == [True]


def test_the_time_for_datasets_counts(
    make_study: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Pretended(tmp_path)
    clock = [0.0]
    prepare = run_study.prepare

    def slow(*args: Any, **kwargs: Any) -> Any:
        clock[0] += 90.0
        return prepare(*args, **kwargs)

    monkeypatch.setattr(run_study.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run_study, "prepare", slow)
    monkeypatch.setattr(executors, "make_executor", lambda *_: executor)
    options = run_study.Options(gpus="none", minutes=1.0)
    assert run_study.run_study(make_study(), tmp_path / "out", options) == 0
    assert executor.started == []


def test_a_job_that_was_killed_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("47%|####7     | 94/200")
    assert scheduler._reason(-9, log) == "ended by SIGKILL, perhaps out of memory"
    assert scheduler._reason(-15, log) == "ended by SIGTERM"
    assert scheduler._reason(1, log).startswith("47%")


@pytest.fixture
def make_study(dataset: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(threads: int = 1) -> Any:
        config = {"algo_name": "bc", "observation": {"modalities": {"obs": {"low_dim": ["x"]}}}}
        (tmp_path / "bc.json").write_text(json.dumps(config))
        study = {
            "name": "broken",
            "tasks": {"tiny": {"dataset": str(dataset), "horizon": 3}},
            "arms": {"bc": {"config": "bc.json"}},
            "seeds": [1, 2],
            "training": {
                "steps": 2, "steps_per_checkpoint": 1, "batch_size": 4, "threads": threads,
            },
            "evaluation": {
                "final_episodes": 1, "earlier_episodes": 1, "earlier_checkpoints": 0, "seed": 0,
            },
            "reference_arm": "bc",
        }  # fmt: skip
        path = tmp_path / "study.json"
        path.write_text(json.dumps(study))
        return read_study(path)

    return make


def lapo_study(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "robomimic_vae_ext", "study", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_script_lists_failures_and_exits_with_1(make_study: Any, tmp_path: Path) -> None:
    study, out = make_study(), tmp_path / "out"  # asks for an observation that is not there
    process = lapo_study(study.path, "--out", out, "--only-seed", 2, "--gpus", "none")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    last = output.splitlines()[-1]
    assert "tiny/bc/seed_2/log.txt: DatasetError" in last and "'x'" in last
    assert not (out / "tiny/bc/seed_1").exists()


@pytest.mark.slow
def test_ctrl_c_stops_the_jobs_and_says_how_to_go_on(make_study: Any, tmp_path: Path) -> None:
    study, out = make_study(), tmp_path / "out"
    process = lapo_study(study.path, "--out", out, "--gpus", "none", "--jobs", 1)
    deadline = time.monotonic() + 600  # a busy machine
    while not (out / "tiny/bc/seed_1/log.txt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in output


@pytest.mark.parametrize(
    "words",
    [[], ["x.json", "--jobs", "0"], ["x.json", "--minutes", "-1"], ["x.json", "y.json"]],
    ids=len,
)
def test_wrong_flags_are_refused(words: list[str]) -> None:
    process = lapo_study(*words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and ("lapo" in errors)


def test_a_file_in_the_way_is_one_line(make_study: Any, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.touch()
    process = lapo_study(make_study().path, "--out", out, "--gpus", "none")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert str(out) in errors.splitlines()[-1] and "Traceback" not in errors


def test_a_study_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    process = lapo_study(tmp_path / "none.json")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "none.json" in errors.splitlines()[-1] and "Traceback" not in errors
