"""A whole job with real training and real episodes, killed in every stage."""

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

import numpy as np
import pytest
import torch

from robomimic_vae_ext import provenance
from robomimic_vae_ext.errors import CheckpointError, ConfigError
from robomimic_vae_ext.rollout import seeded_episode, stored_policy
from robomimic_vae_ext.study import job as jobs
from robomimic_vae_ext.study import job_rollouts, run_job, run_study
from robomimic_vae_ext.study.study_file import Arm, Evaluation, Study, Task, Training
from tests.conftest import image_settings, merge

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEPS, EVERY, EPISODES, ZERO_LATENT = 60, 20, {40: 2, 60: 3}, 2


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """LAPO and BC on a few short episodes of PlayLift, the last of which is held out."""
    import torchvision  # noqa: F401  # before EGL, see tests/data/conftest.py

    from robomimic_vae_ext.data.simulation.collect import collect
    from robomimic_vae_ext.data.simulation.envs import EnvSpec
    from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings

    folder = tmp_path_factory.mktemp("study")
    cameras = ("agentview", "robot0_eye_in_hand")
    settings = CollectSettings(EnvSpec("PlayLift", cameras, 44), "expert", 4, 0, horizon=12)
    collect(settings, folder / "play.hdf5")
    images = image_settings()
    (folder / "lapo.json").write_text(json.dumps(images | {"algo_name": "lapo"}))
    del images["algo"]
    bc = merge(images, {"algo_name": "bc", "algo": {"actor_layer_dims": [16]}})
    (folder / "bc.json").write_text(json.dumps(bc))
    (folder / "study.json").write_text("{}")
    return Study(
        name="tiny",
        path=folder / "study.json",
        tasks=(Task("play", 5, folder / "play.hdf5", None, {}),),
        arms=tuple(Arm(name, folder / f"{name}.json", {}, {}) for name in ("lapo", "bc")),
        seeds=(1,),
        training=Training(STEPS, EVERY, batch_size=8, threads=1),
        evaluation=Evaluation(
            EPISODES[60], EPISODES[40], 1, seed=7, zero_latent_episodes=ZERO_LATENT
        ),
        reference_arm="lapo",
    )


@pytest.fixture(scope="module")
def make_job(study: Study) -> Callable[[Path, str], Path]:
    def make(out: Path, arm: str) -> Path:
        name = f"play/{arm}/seed_1"
        every = jobs.all_jobs(study)
        run_study.prepare(study, out, every, [job for job in every if job.name == name])
        return out / name

    return make


@pytest.fixture(scope="module")
def finished(make_job: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LAPO job without interruptions."""
    folder: Path = make_job(tmp_path_factory.mktemp("undisturbed"), "lapo")
    threads = torch.get_num_threads()
    devices: list[str | None] = []
    own = stored_policy.policy_device

    def spy(checkpoint: dict[str, Any], device: str | None) -> torch.device:
        devices.append(device)
        return own(checkpoint, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_policy, "policy_device", spy)
        run_job.run_job(folder)
    # Not what the checkpoints ask for, which may be of another machine: 3 are measured, 2 played,
    # and the last one with z = 0, too.
    assert devices == ["cpu"] * (3 + 2 + 2)
    torch.set_num_threads(threads)
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / jobs.LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "robomimic_vae_ext.study.run_job", str(folder)],
            stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def kill_when(folder: Path, condition: Callable[[], bool]) -> None:
    """Start the job and kill it, without any warning, as soon as a condition holds."""
    process = start(folder)
    deadline = time.monotonic() + 600  # a busy machine
    while not condition():
        assert process.poll() is None, (folder / jobs.LOG).read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def lines(folder: Path, name: str = jobs.EPISODES) -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("seconds", "commit")}


@pytest.mark.simulator
@pytest.mark.slow
def test_a_job_that_is_killed_in_every_stage_ends_as_one_that_is_not(
    make_job: Any, finished: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path / "out", "lapo")

    kill_when(folder, lambda: any(folder.glob("training/*/models/*.pth")))
    assert not (folder / "train.json").exists()
    kill_when(folder, lambda: (folder / "train.json").exists())
    assert not (folder / "measure.json").exists()
    # The same run, continued.
    assert len(list(folder.glob("training/*"))) == 1
    trained = (folder / "train.json").stat().st_mtime_ns
    kill_when(folder, lambda: len(lines(folder)) >= 1)
    played = lines(folder)
    assert not (folder / "rollouts.json").exists()
    kill_when(folder, lambda: len(lines(folder, jobs.ZERO_LATENT_FILE)) >= 1)
    assert not (folder / jobs.RESULT).exists()

    assert start(folder).wait(600) == 0, (folder / jobs.LOG).read_text()[-2000:]
    assert (folder / "train.json").stat().st_mtime_ns == trained
    assert lines(folder)[: len(played)] == played
    counts = [(line["step"], line["index"]) for line in lines(folder)]
    assert sorted(counts) == [(s, i) for s, n in EPISODES.items() for i in range(n)]
    zero = lines(folder, jobs.ZERO_LATENT_FILE)
    assert [(line["step"], line["index"]) for line in zero] == [(STEPS, 0), (STEPS, 1)]
    seconds = json.loads((folder / jobs.RESULT).read_text())["seconds"]
    assert seconds["zero_latent"] > sum(line["seconds"] for line in zero)  # of both sittings
    result = json.loads((folder / jobs.RESULT).read_text())
    undisturbed = json.loads((finished / jobs.RESULT).read_text())
    assert without_times(result) == without_times(undisturbed)


@pytest.mark.simulator
def test_a_result_holds_what_it_promises(study: Study, finished: Path) -> None:
    text = (finished / jobs.RESULT).read_text()
    result = json.loads(text)
    assert [point["step"] for point in result["curve"]] == [20, 40, 60]
    assert all(point["critic_error"] >= 0 for point in result["curve"])
    assert [(r["step"], r["episodes"]) for r in result["rollouts"]] == list(EPISODES.items())
    for rollout in result["rollouts"]:
        assert len(rollout["success"]) == rollout["episodes"]
        assert rollout["value_error"] >= 0 and rollout["q_start"] is not None
    assert result["action_error"] > 0 and result["algo"] == "lapo"
    assert set(result["seconds"]) == {"train", "measure", "rollouts", "zero_latent"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["config"]["train"]["seed"] == 1 and result["config"]["algo"]["discount"] == 0.99
    assert result["versions"]["device"] == provenance.processor() != ""
    # Nothing of this machine.
    for word in (str(finished.parents[2]), str(study.tasks[0].dataset.parent), os.uname().nodename):
        assert word not in text


@pytest.mark.simulator
def test_values_in_rollouts_are_those_of_the_acting_policy(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robomimic_vae_ext.rollout import batch_policy, stored_policy

    job = jobs.read_job(finished)
    checkpoint = stored_policy.load_checkpoint(jobs.last_checkpoint(finished))
    player = job_rollouts.Player(checkpoint, job.horizon, discount=0.99)
    line = next(line for line in lines(finished) if line["step"] == STEPS)
    again = player.play(line["index"], job.evaluation.seed)
    assert again["q"] == line["q"] and len(line["q"]) == line["length"]
    # The same episode by a runner without recording.
    plain = seeded_episode.Runner(checkpoint, job.horizon)
    episode = plain.play(0, seeded_episode.episode_seed(job.evaluation.seed, line["index"]))
    assert (episode.length, episode.success) == (line["length"], line["success"])
    # On a GPU a policy acts on several rows, of which an episode alone has the first. On a CPU
    # rows are independent only up to the last digits.
    monkeypatch.setattr(batch_policy, "rows_are_independent", lambda algo, rows: True)
    monkeypatch.setattr(
        batch_policy,
        "policy_in_parent",
        lambda policy, wanted: batch_policy.BatchPolicy(policy, rows=3),
    )
    padded = job_rollouts.Player(checkpoint, 3, discount=0.99, before=player)
    assert padded.runner.policy.rows == 3
    found = padded.play(line["index"], job.evaluation.seed)
    assert found["q"] == pytest.approx(line["q"][:3], abs=1e-3) and len(found["q"]) == 3


@pytest.mark.simulator
def test_episodes_with_z_0_are_those_of_the_decoder_alone(finished: Path) -> None:
    from robomimic_vae_ext import overrides
    from robomimic_vae_ext.rollout import stored_policy

    job = jobs.read_job(finished)
    zero = json.loads((finished / jobs.RESULT).read_text())["zero_latent"]
    found = lines(finished, jobs.ZERO_LATENT_FILE)
    assert zero["success"] == [int(line["success"]) for line in found] and len(found) == 2
    assert 0 < zero["z"] <= 1 and zero["shift"] > 0 and zero["error"] > 0
    with_actor = next(line for line in lines(finished) if line["step"] == STEPS)
    assert found[0]["seed"] == with_actor["seed"] and found[0]["q"] != with_actor["q"]
    checkpoint = stored_policy.load_checkpoint(jobs.last_checkpoint(finished))
    decoder = overrides.apply(checkpoint, {"algo.actor.extraction": "zero"})
    player = job_rollouts.Player(decoder, job.horizon, discount=0.99)
    assert player.play(0, job.evaluation.seed)["q"] == found[0]["q"]


@pytest.mark.simulator
def test_only_the_last_checkpoint_is_kept(finished: Path) -> None:
    found = [path.name for path in finished.glob("training/*/**/*.pth")]
    assert found == ["model_epoch_3.pth"] == [jobs.last_checkpoint(finished).name]
    with pytest.raises(CheckpointError, match="lacks the checkpoint of step 20"):
        jobs.checkpoints(jobs.read_job(finished), finished)
    before = (finished / jobs.RESULT).stat().st_mtime_ns
    run_job.run_job(finished)  # nothing is left to do
    assert (finished / jobs.RESULT).stat().st_mtime_ns == before


@pytest.mark.simulator
def test_an_algorithm_without_a_critic_has_empty_columns(make_job: Any, tmp_path: Path) -> None:
    result = run_job.run_job(make_job(tmp_path, "bc"))
    assert {point["critic_error"] for point in result["curve"]} == {None}
    assert {point["auc"] for point in result["curve"]} == {None}
    assert result["rollouts"][-1]["value_error"] is None
    assert result["rollouts"][-1]["episodes"] == EPISODES[60]
    assert result["action_error"] is None
    assert "zero_latent" not in result


@pytest.mark.simulator
def test_training_has_the_threads_of_the_study(make_job: Any, tmp_path: Path) -> None:
    folder = make_job(tmp_path, "bc")
    seen: list[int] = []
    with run_job._own_threads():
        torch.set_num_threads(2)  # as stock train.py does
        seen.append(torch.get_num_threads())
    torch.set_num_threads(2)
    seen.append(torch.get_num_threads())
    assert seen == [1, 2] and jobs.read_job(folder).threads == 1


def test_a_job_that_is_run_already_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LOCK_PATIENCE", 0.1)
    with (
        jobs.alone(tmp_path),
        pytest.raises(ConfigError, match="locked by another process"),
        jobs.alone(tmp_path),
    ):
        pass


def test_a_stage_that_the_disk_lost_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    for lost in ("", "[1"):
        path.write_text(lost)
        found = run_job._stage(path, lambda: {"precision": "float32"}, CPU)
        assert found["precision"] == "float32"
    assert run_job._stage(path, lambda: {"precision": "never"}, CPU)["precision"] == "float32"


def test_a_result_names_the_commit_and_versions_of_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may be continued after an upgrade, a commit, or on another machine."""
    monkeypatch.setattr(provenance, "device_name", lambda device: device.type)
    now = {"commit": "a", "versions": {"torch": "1"}}
    monkeypatch.setattr(provenance, "commit", lambda: now["commit"])
    monkeypatch.setattr(provenance, "versions", lambda: now["versions"])

    def commit_meanwhile() -> dict[str, Any]:
        now["commit"] = "b"
        return {}

    first = run_job._stage(tmp_path / "train.json", commit_meanwhile, GPU)
    assert run_job._provenance([first]) == {
        "commit": "a",
        "versions": {"torch": "1", "device": "cuda"},
    }
    now["versions"] = {"torch": "2"}
    second = run_job._stage(tmp_path / "measure.json", dict, CPU)
    found = run_job._provenance([first, second, first])
    versions = {"torch": "1 and 2", "device": "cuda and cpu"}
    assert found == {"commit": "a and b", "versions": versions}
    monkeypatch.setattr(provenance, "commit", lambda: None)
    third = run_job._stage(tmp_path / "rollouts.json", dict, CPU)
    assert run_job._provenance([third])["commit"] is None


def test_the_precision_of_a_gpu_is_what_torch_computes_there(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.read_job(make_job(tmp_path, "bc"))
    assert run_job._precision(job, CPU) == "float32"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert run_job._precision(job, GPU) == "TF32"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert run_job._precision(job, GPU) == "float32"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert provenance.device_name(GPU) == "some GPU" != provenance.device_name(CPU)


def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        run_job.run_job(make_job(tmp_path, "bc"), cuda=True)


def test_a_damaged_job_is_one_message(tmp_path: Path) -> None:
    (tmp_path / jobs.JOB).write_text('{"task": "x"}')
    with pytest.raises(ConfigError, match=r"job\.json cannot be read"):
        jobs.read_job(tmp_path)


def test_a_damaged_job_does_not_start_a_study(make_job: Any, study: Study, tmp_path: Path) -> None:
    folder = make_job(tmp_path, "bc")
    (folder / jobs.JOB).write_text('{"task": "pl')
    with pytest.raises(ConfigError, match=r"job\.json cannot be read"):
        run_study.prepare(study, tmp_path, jobs.all_jobs(study), [])


def test_a_job_survives_its_file(study: Study, tmp_path: Path) -> None:
    job = jobs.all_jobs(study)[0]
    jobs.write_job(job, tmp_path)
    assert jobs.read_job(tmp_path) == job


def test_the_commit_is_that_of_this_repository() -> None:
    found = provenance.commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
    versions = provenance.versions()
    assert set(versions) == {"python", "robomimic", "robosuite", "mujoco", "torch", "numpy", "h5py"}
    assert versions["numpy"] == np.__version__
