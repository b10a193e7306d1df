"""A study's file: what it says, and one clear sentence for all that can be wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study import datasets, plan
from robomimic_vae_ext.study.protocol import read_protocol
from tests.conftest import REPOSITORY, merge

Study = dict[str, Any]

VALUES: Study = {
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
def write_study(tmp_path: Path) -> Callable[[Study], Path]:
    def write(values: Study) -> Path:
        (tmp_path / "own.hdf5").touch()
        (tmp_path / "vae.json").write_text('{"algo_name": "lapo"}')
        (tmp_path / "bc.json").write_text('{"algo_name": "bc", "train": {"batch_size": 7}}')
        path = tmp_path / "study.json"
        path.write_text(json.dumps(values))
        return path

    return write


def test_a_study_is_read_and_its_values_have_an_order(write_study: Any) -> None:
    study = read_protocol(write_study(VALUES))
    play, own = study.tasks
    vae, bc = study.arms
    assert own.dataset is not None and own.dataset.name == "own.hdf5" and own.collect is None
    assert study.training_of(own, vae).steps == 4
    assert study.training_of(play, vae).steps == 8  # the task's before the study's
    assert study.training_of(play, bc).steps == 12  # the arm's before the task's
    assert study.training_of(play, bc).batch_size == 2
    assert study.training_of(play, bc).threads == 1


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs" / "study").glob("*.json")), ids=lambda p: p.stem
)
def test_the_studies_of_the_repository_are_in_order(path: Path) -> None:
    study = read_protocol(path)
    if all(task.collect is not None for task in study.tasks):
        plan.check_configs(study)


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
        ({"tasks": {"datasets": {"dataset": "own.hdf5", "horizon": 1}}}, "the folder is taken"),
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
        ({"claims_of": ["vae"]}, "claims_of is ['vae']; expected some of ['bc']"),
        ({"claims_of": "bc"}, "claims_of is 'bc'; expected a list"),
        ({"label": 18}, "label is 18; expected words of letters"),
        ({"label": "a | b"}, "label is 'a | b'; expected words of letters"),
        ({"label": " "}, "label is ' '; expected words of letters"),
        ({"groups": ["vae", "bc"]}, "groups is ['vae', 'bc']; expected title to a list of arms"),
        ({"groups": {" ": ["vae", "bc"]}}, "groups has the title ' '; expected words without '$'"),
        ({"groups": {"$x$": ["vae", "bc"]}}, "groups has the title '$x$'; expected words"),
        ({"groups": {"all": "vae"}}, "groups.all is 'vae'; expected a list"),
        ({"groups": {"all": ["vae", "cql"]}}, "groups.all is ['vae', 'cql']; expected some of"),
        ({"groups": {"all": []}}, "groups.all is []; expected some of ['vae', 'bc']"),
        ({"groups": {"all": ["vae", "vae"]}}, "groups.all is ['vae', 'vae']; expected some of"),
        ({"groups": {"owner": ["vae"]}}, "groups has no ['bc']; expected every arm in a group"),
        ({"references": {"bc": "none"}}, "references is {'bc': 'none'}; expected arm to another"),
        ({"references": {"bc": "bc"}}, "references is {'bc': 'bc'}; expected arm to another"),
        ({"references": {"vae": "bc"}}, "references is {'vae': 'bc'}; expected arm to another"),
        ({"references": ["bc"]}, "references is ['bc']; expected arm to another"),
        ({"claims_of": ["bc", "bc"]}, "claims_of is ['bc', 'bc']; expected some of ['bc'], each"),
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
def test_wrong_values_are_one_sentence(write_study: Any, change: Study, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_protocol(write_study(merge(VALUES, change)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["tasks", "seeds", "reference_arm"])
def test_a_missing_key_is_named(write_study: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=f"lacks '{key}'"):
        read_protocol(write_study({k: v for k, v in VALUES.items() if k != key}))


def test_episodes_with_z_0_are_played_where_a_study_asks(write_study: Any) -> None:
    assert read_protocol(write_study(VALUES)).evaluation.zero_latent_episodes == 0
    asked = merge(VALUES, {"evaluation": {"zero_latent_episodes": 1}})
    assert read_protocol(write_study(asked)).evaluation.zero_latent_episodes == 1


def test_missing_and_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_protocol(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_protocol(tmp_path / "bad.json")


def test_an_arm_that_was_copied_and_not_renamed_is_refused(write_study: Any) -> None:
    path = write_study(VALUES)
    path.write_text(path.read_text().replace('"bc": {"config"', '"vae": {"config"'))
    with pytest.raises(ConfigError, match="has the key 'vae' twice in one section"):
        read_protocol(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"vae": {"set": {"algo": {"critc": 1}}}}}, "arms.vae (vae.json with its `set`)"),
        ({"arms": {"vae": {"set": {"train": {"frame_stack": 2}}}}}, "train.frame_stack is 2"),
        ({"arms": {"bc": {"set": {"train": {"hdf5_normalize_obs": True}}}}}, "single observations"),
        ({"arms": {"vae": {"set": {"train": None}}}}, "arms.vae: train is None in its `set`"),
        ({"tasks": {"play": {"collect": {"env": "Lfit"}}}}, "tasks.play.collect"),
        ({"tasks": {"play": {"collect": {"n": 0}}}}, "tasks.play.collect"),
        ({"tasks": {"play": {"collect": {"quality": "best"}}}}, "'best'"),
    ],
)
def test_what_robomimic_or_the_collector_refuse_is_refused_before_anything_is_made(
    write_study: Any, change: Study, message: str
) -> None:
    study = read_protocol(write_study(merge(VALUES, change)))
    with pytest.raises(ConfigError) as caught:
        plan.check_configs(study)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_algorithm_that_does_not_exist_is_named_with_its_arm(write_study: Any) -> None:
    study = read_protocol(write_study(VALUES))
    (study.path.parent / "bc.json").write_text('{"algo_name": "bcc"}')
    with pytest.raises(ConfigError, match=r"arms\.bc \(bc\.json .*\): algorithm 'bcc'"):
        plan.check_configs(study)


def test_jobs_are_balanced_and_hold_the_whole_config(write_study: Any, tmp_path: Path) -> None:
    study = read_protocol(write_study(VALUES))
    jobs = plan.all_jobs(study)
    assert [job.name for job in jobs] == [
        f"{task}/{arm}/seed_{seed}" for seed in (3, 1) for task in ("play", "own")
        for arm in ("vae", "bc")
    ]  # fmt: skip
    bc = jobs[1]
    assert (bc.steps, bc.batch_size, bc.rollout_steps) == (12, 2, (12, 10))
    train, experiment = bc.config["train"], bc.config["experiment"]
    assert (train["seed"], train["batch_size"], train["num_epochs"]) == (3, 2, 6)
    assert experiment["epoch_every_n_steps"] == 2 and experiment["validate"]
    assert not experiment["rollout"]["enabled"]
    assert jobs[0].config["algo"]["n_step"] == 3
    folder = tmp_path / "out" / bc.name
    assert (folder / bc.dataset).resolve() == datasets.dataset_path(
        study.tasks[0], tmp_path / "out"
    )


def test_filters_leave_what_was_asked_for(write_study: Any) -> None:
    study = read_protocol(write_study(VALUES))
    assert plan.select(study, ["own"], [], [1]) == {"own/vae/seed_1", "own/bc/seed_1"}
    assert len(plan.select(study, [], [], [])) == 8
    for filters, flag in [
        ((["x"], [], []), "task"),
        (([], ["x"], []), "arm"),
        (([], [], [9]), "seed"),
    ]:
        with pytest.raises(ConfigError, match=f"--only-{flag}"):
            plan.select(study, *filters)


def test_a_changed_study_does_not_go_on_in_the_same_folder(
    write_study: Any, tmp_path: Path
) -> None:
    out, own = tmp_path / "out", {"own/vae/seed_1"}
    study = read_protocol(write_study(VALUES))
    (job,) = plan.prepare(study, out, own, workers=1)
    assert plan.prepare(study, out, own, workers=1) == [job]
    more = read_protocol(write_study(VALUES | {"seeds": [1, 2]}))
    assert len(plan.prepare(more, out, {*own, "own/vae/seed_2"}, workers=1)) == 2
    changed = merge(VALUES, {"arms": {"vae": {"set": {"algo": {"n_step": 4}}}}})
    with pytest.raises(ConfigError, match="was begun with other settings of config"):
        plan.prepare(read_protocol(write_study(changed)), out, own, workers=1)
