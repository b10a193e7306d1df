"""A study file: its values, its jobs, and an error message for everything wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study import job as jobs
from robomimic_vae_ext.study import run_study
from robomimic_vae_ext.study.study_file import read_study
from tests.conftest import REPOSITORY, merge

Values = dict[str, Any]

VALUES: Values = {
    "name": "made_up",
    "tasks": {
        "play": {"collect": {"env": "PlayLift", "n": 3}, "horizon": 40, "training": {"steps": 8}},
        "own": {"dataset": "own.hdf5", "horizon": 50},
    },
    "arms": {
        "vae": {"config": "vae.json", "set": {"algo": {"n_step": 3}}},
        "bc": {"config": "bc.json", "training": {"steps": 12, "batch_size": 2}},
    },
    "seeds": [3, 1],
    "training": {"steps": 4, "steps_per_checkpoint": 2, "batch_size": 5},
    "evaluation": {
        "final_episodes": 2, "earlier_episodes": 1, "earlier_checkpoints": 1, "seed": 9,
    },
    "reference_arm": "vae",
}  # fmt: skip


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[[Values], Path]:
    def write(values: Values) -> Path:
        (tmp_path / "own.hdf5").touch()
        (tmp_path / "vae.json").write_text('{"algo_name": "lapo"}')
        (tmp_path / "bc.json").write_text('{"algo_name": "bc", "train": {"batch_size": 7}}')
        path = tmp_path / "study.json"
        path.write_text(json.dumps(values))
        return path

    return write


def test_a_study_is_read_and_its_values_have_an_order(write_study: Any) -> None:
    study = read_study(write_study(VALUES))
    play, own = study.tasks
    vae, bc = study.arms
    assert own.dataset is not None and own.dataset.name == "own.hdf5" and own.collect is None
    assert study.training_of(own, vae).steps == 4
    assert study.training_of(play, vae).steps == 8  # the task's before the study's
    assert study.training_of(play, bc).steps == 12  # the arm's before the task's
    assert study.training_of(play, bc).batch_size == 2
    assert study.training_of(play, bc).threads == 1


@pytest.mark.parametrize(
    "path",
    [
        *sorted((REPOSITORY / "studies" / "files").glob("*.json")),
        *sorted((REPOSITORY / "configs" / "study").glob("*.json")),
    ],
    ids=lambda p: p.stem,
)
def test_the_studies_of_the_repository_are_in_order(path: Path) -> None:
    study = read_study(path)
    assert jobs.all_jobs(study)
    for task in study.tasks:
        assert task.collect is None or run_study.collect_settings(task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taks": {}}, "unknown key 'taks'"),
        ({"training": {"step": 3}}, "training has the unknown key 'step'"),
        ({"training": {"steps": 0}}, "training.steps is 0"),
        ({"training": {"steps": True}}, "training.steps is True"),
        ({"training": {"steps": 5}}, "5 steps with a checkpoint every 2"),
        ({"tasks": {"own": {"horizon": 1.5}}}, "tasks.own.horizon is 1.5"),
        ({"tasks": {"own": {"dataset": "no.hdf5"}}}, "tasks.own.dataset: there is no file"),
        ({"tasks": {"own": {"collect": {"env": "Lift", "n": 1}}}}, "dataset or collect"),
        ({"tasks": {"play": {"collect": {"episodes": 1}}}}, "unknown key 'episodes'"),
        ({"tasks": {"datasets": {"dataset": "own.hdf5", "horizon": 1}}}, "a task named 'datasets'"),
        ({"tasks": {"a/b": {}}}, "holds the name 'a/b'"),
        ({"arms": {"vae": {"config": "no.json"}}}, "arms.vae.config: there is no file"),
        ({"arms": {"vae": {"set": {"train": {"seed": 1}}}}}, "arms.vae.set changes train.seed"),
        ({"arms": {"vae": {"set": 3}}}, "arms.vae.set is 3"),
        ({"seeds": []}, "seeds is []"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]"),
        ({"seeds": [-1]}, "seeds is -1"),
        ({"evaluation": {"earlier_checkpoints": 2}}, "makes 2 checkpoints"),
        ({"evaluation": {"seed": "x"}}, "evaluation.seed is 'x'"),
        ({"evaluation": {"zero_latent_episodes": -1}}, "evaluation.zero_latent_episodes is -1"),
        ({"evaluation": {"zero_latent_episodes": 99}}, "episodes is 99; expected at most final_"),
        ({"reference_arm": "vea"}, "reference_arm is 'vea'"),
        ({"claims_of": ["vae"]}, "unknown key 'claims_of'"),
        ({"references": {"bc": "none"}}, "references is {'bc': 'none'}; expected arm to another"),
        ({"references": {"bc": "bc"}}, "references is {'bc': 'bc'}; expected arm to another"),
        ({"references": {"vae": "bc"}}, "references is {'vae': 'bc'}; expected arm to another"),
        ({"references": ["bc"]}, "references is ['bc']; expected arm to another"),
        ({"seeds": [2**32]}, "seeds is [4294967296]; expected numbers below 4294967296"),
        ({"tasks": {"play": {"collect": {"n": 1.5}}}}, "tasks.play.collect.n is 1.5"),
        ({"tasks": {"play": {"collect": {"seed": True}}}}, "tasks.play.collect.seed is True"),
        ({"tasks": {"play": {"collect": {"cameras": "agentview"}}}}, "cameras is 'agentview'; exp"),
        ({"tasks": {"play": {"collect": {"cameras": None}}}}, "collect.cameras is None"),
        ({"tasks": {"play": {"collect": {"quality": 3}}}}, "tasks.play.collect.quality is 3"),
        ({"arms": {"vae": {"config": "~nobody_here/a.json"}}}, "arms.vae.config: there is no file"),
        ({"arms": {"vae": {"config": 300 * "a"}}}, "arms.vae.config: there is no file"),
    ],
)
def test_wrong_values_are_one_message(write_study: Any, change: Values, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(write_study(merge(VALUES, change)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["tasks", "seeds", "reference_arm"])
def test_a_missing_key_is_named(write_study: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=f"lacks '{key}'"):
        read_study(write_study({k: v for k, v in VALUES.items() if k != key}))


def test_episodes_with_z_0_are_played_where_a_study_asks(write_study: Any) -> None:
    assert read_study(write_study(VALUES)).evaluation.zero_latent_episodes == 0
    asked = merge(VALUES, {"evaluation": {"zero_latent_episodes": 1}})
    assert read_study(write_study(asked)).evaluation.zero_latent_episodes == 1


def test_missing_and_damaged_files_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_study(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_study(tmp_path / "bad.json")


def test_an_arm_that_was_copied_and_not_renamed_is_refused(write_study: Any) -> None:
    path = write_study(VALUES)
    path.write_text(path.read_text().replace('"bc": {"config"', '"vae": {"config"'))
    with pytest.raises(ConfigError, match="has the key 'vae' twice in one section"):
        read_study(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"vae": {"set": {"algo": {"critc": 1}}}}}, "arms.vae (vae.json with its `set`)"),
        ({"arms": {"vae": {"set": {"train": {"frame_stack": 2}}}}}, "train.frame_stack is 2"),
        (
            {"arms": {"bc": {"set": {"train": {"hdf5_normalize_obs": True}}}}},
            "hdf5_normalize_obs is True",
        ),
        ({"arms": {"vae": {"set": {"train": None}}}}, "arms.vae: train is None in its `set`"),
        ({"tasks": {"play": {"collect": {"env": "Lfit"}}}}, "tasks.play.collect"),
        ({"tasks": {"play": {"collect": {"n": 0}}}}, "tasks.play.collect"),
        ({"tasks": {"play": {"collect": {"quality": "best"}}}}, "'best'"),
    ],
)
def test_what_robomimic_or_the_collector_refuse_is_refused_before_anything_is_made(
    write_study: Any, change: Values, message: str
) -> None:
    study = read_study(write_study(merge(VALUES, change)))
    with pytest.raises(ConfigError) as caught:
        jobs.all_jobs(study)
        for task in study.tasks:
            if task.collect is not None:
                run_study.collect_settings(task)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_algorithm_that_does_not_exist_is_named_with_its_arm(write_study: Any) -> None:
    study = read_study(write_study(VALUES))
    (study.path.parent / "bc.json").write_text('{"algo_name": "bcc"}')
    with pytest.raises(ConfigError, match=r"arms\.bc \(bc\.json .*\): algorithm 'bcc'"):
        jobs.all_jobs(study)


def test_jobs_are_balanced_and_hold_the_whole_config(write_study: Any, tmp_path: Path) -> None:
    study = read_study(write_study(VALUES))
    every = jobs.all_jobs(study)
    assert [job.name for job in every] == [
        f"{task}/{arm}/seed_{seed}" for seed in (3, 1) for task in ("play", "own")
        for arm in ("vae", "bc")
    ]  # fmt: skip
    bc = every[1]
    assert (bc.steps, bc.batch_size, bc.rollout_steps) == (12, 2, (12, 10))
    train, experiment = bc.config["train"], bc.config["experiment"]
    assert (train["seed"], train["batch_size"], train["num_epochs"]) == (3, 2, 6)
    assert experiment["epoch_every_n_steps"] == 2 and experiment["validate"]
    assert not experiment["rollout"]["enabled"]
    assert every[0].config["algo"]["n_step"] == 3
    assert every[0].config["algo"]["vae"]["kl_beta"] == 0.5  # a default, which no file names
    folder = tmp_path / "out" / bc.name
    collected = tmp_path / "out" / "datasets" / "play.hdf5"
    assert (folder / bc.dataset).resolve() == collected


@pytest.fixture
def other_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version, whose default of algo.vae.kl_beta is another one."""
    from robomimic_vae_ext.lapo.config import LAPOConfig

    own = LAPOConfig.algo_config

    def changed(self: Any) -> None:
        own(self)
        self.algo.vae.kl_beta = 0.25

    monkeypatch.setattr(LAPOConfig, "algo_config", changed)


def test_settings_hold_the_defaults_of_the_algorithm(
    write_study: Any, request: pytest.FixtureRequest
) -> None:
    study = read_study(write_study(VALUES))
    before = {job.name: job.settings for job in jobs.all_jobs(study)}
    assert len(set(before.values())) == len(before)
    request.getfixturevalue("other_default")
    after = {job.name: job.settings for job in jobs.all_jobs(study)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "/vae/" in name}


def test_settings_do_not_depend_on_paths_device_and_outputs(write_study: Any) -> None:
    job = jobs.all_jobs(read_study(write_study(VALUES)))[0]
    config = merge(job.config, {
        "train": {"data": "/elsewhere/x.hdf5", "output_dir": "/tmp", "cuda": False},
        "experiment": {"logging": {"terminal_output_to_txt": False}},
        "algo": {"replay": {"folder": "/tmp"}},
    })  # fmt: skip
    assert replace(job, config=config, dataset=f"/elsewhere/{Path(job.dataset).name}").settings == (
        job.settings
    )
    assert replace(job, dataset="/other.hdf5").settings != job.settings
    assert replace(job, config=merge(config, {"train": {"seq_length": 9}})).settings != job.settings


def test_a_folder_with_other_defaults_is_refused(
    write_study: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    study = read_study(write_study(VALUES))
    every = jobs.all_jobs(study)
    own = [job for job in every if job.name == "own/vae/seed_1"]
    run_study.prepare(study, tmp_path / "out", every, own)
    request.getfixturevalue("other_default")
    with pytest.raises(ConfigError, match=r"config\.algo\.vae\.kl_beta = 0\.5, now 0\.25"):
        run_study.prepare(study, tmp_path / "out", jobs.all_jobs(study), [])


def test_filters_leave_what_was_asked_for(write_study: Any) -> None:
    study = read_study(write_study(VALUES))
    every = jobs.all_jobs(study)
    options = run_study.Options(only_tasks=("own",), only_seeds=(1,))
    names = [job.name for job in run_study.select(study, every, options)]
    assert names == ["own/vae/seed_1", "own/bc/seed_1"]
    assert run_study.select(study, every, run_study.Options()) == every
    for wrong, flag in (
        (run_study.Options(only_tasks=("x",)), "task"),
        (run_study.Options(only_arms=("x",)), "arm"),
        (run_study.Options(only_seeds=(9,)), "seed"),
    ):
        with pytest.raises(ConfigError, match=f"--only-{flag}"):
            run_study.select(study, every, wrong)


def test_a_changed_study_is_refused_in_the_same_folder(write_study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def prepare(values: Values) -> None:
        study = read_study(write_study(values))
        every = jobs.all_jobs(study)
        own = [job for job in every if job.task == "own"]
        run_study.prepare(study, out, every, own)

    prepare(VALUES)
    prepare(VALUES)
    prepare(VALUES | {"seeds": [3, 1, 2]})
    with pytest.raises(ConfigError, match=r"algo\.n_step = 3, now 4"):
        prepare(merge(VALUES, {"arms": {"vae": {"set": {"algo": {"n_step": 4}}}}}))
