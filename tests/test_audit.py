"""robomimic's own algorithms raise no false alarm; the four arms say what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext import audit as models
from robomimic_vae_ext.cli import main
from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow import Report, Verdict

SMALL = {"batch_size": 4}
CAMERA = {"modalities": {"obs": {"low_dim": ["robot0_eef_pos"], "rgb": ["agentview_image"]}}}


def audit(tmp_path: Path, settings: dict[str, Any], steps: int = 2) -> Report:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    setup = models.build(models.load_config(path, None, None), use_dataset=False)
    return models.audit(setup, steps).report(setup.contract)


STOCK: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (algorithm's settings, modules that must be driven)
    "bc": ({"algo_name": "bc"}, {"policy"}),
    "bc_gmm": ({"algo_name": "bc", "algo": {"gmm": {"enabled": True}}}, {"policy"}),
    "bc_vae": ({"algo_name": "bc", "algo": {"vae": {"enabled": True}}}, {"policy"}),
    "bcq": ({"algo_name": "bcq"}, {"critic[0]", "critic[1]", "action_sampler"}),
    "bcq_with_actor": (
        {"algo_name": "bcq", "algo": {"actor": {"enabled": True}}},
        {"critic[0]", "critic[1]", "action_sampler", "actor"},
    ),
    "cql": ({"algo_name": "cql"}, {"actor", "critic[0]", "critic[1]", "log_cql_weight"}),
    "iql": ({"algo_name": "iql"}, {"actor", "critic[0]", "critic[1]", "vf"}),
    "td3_bc": ({"algo_name": "td3_bc"}, {"actor", "critic[0]", "critic[1]"}),
    "hbc": ({"algo_name": "hbc"}, {"planner.goal_network", "actor.policy"}),
    "iris": (
        {"algo_name": "iris"},
        {"planner.planner.goal_network", "planner.value_net.action_sampler", "actor.policy"},
    ),
}


@pytest.mark.parametrize("name", STOCK)
def test_no_false_alarm_on_robomimics_own(name: str, tmp_path: Path) -> None:
    settings, driven = STOCK[name]
    report = audit(tmp_path, settings | {"train": SMALL})
    assert report.ok, str(report)
    states = {m for m, v in report.states.items() if v is Verdict.DRIVEN}
    assert driven <= states, str(report)


def test_what_is_odd_in_cql_is_a_note(tmp_path: Path) -> None:
    # Its critic loss samples actions without detaching, and its actor loss the temperature.
    report = audit(tmp_path, {"algo_name": "cql", "train": SMALL})
    assert report.losses.count("_train_critic_on_batch") == 1  # both critics, one loss
    discarded = {(f.loss, f.module) for f in report.notes if f.verdict is Verdict.DISCARDED}
    assert discarded == {
        ("_train_critic_on_batch", "actor"),
        ("_train_critic_on_batch", "log_cql_weight"),
        ("_train_policy_on_batch", "log_entropy_weight"),
    }


@pytest.mark.slow
def test_a_td3_actor_on_images_is_a_note_not_a_failure(tmp_path: Path) -> None:
    report = audit(tmp_path, {"algo_name": "td3_bc", "train": SMALL, "observation": CAMERA})
    assert report.ok, str(report)
    assert (Verdict.TRANSIT, "critic[0]") in {(f.verdict, f.module) for f in report.notes}
    # robomimic's Polyak update copies parameters only: BatchNorm statistics of targets stay.
    assert (Verdict.TARGET, "critic_target[0]") in {(f.verdict, f.module) for f in report.notes}


OWNERS = {"critic": "critic", "joint": "critic", "vae": "actor_vae"}


@pytest.mark.parametrize("owner", ["critic", "vae", "joint", "frozen"])
def test_the_four_arms(owner: str, tmp_path: Path) -> None:
    settings = {
        "algo_name": "lapo",
        "train": SMALL,
        "algo": {"encoder": {"owner": owner}},
        "observation": CAMERA,
    }
    report = audit(tmp_path, settings)
    found = [(f.verdict, f.loss, f.module) for f in report.broken]
    bug = (Verdict.DISCARDED, "critic_loss", "obs_encoder")
    assert found == ([bug] if owner == "vae" else []), str(report)
    owners = report.recording.module_owners("obs_encoder")
    assert owners == ((OWNERS[owner],) if owner in OWNERS else ())
    state = Verdict.FROZEN if owner == "frozen" else Verdict.DRIVEN
    assert report.states["obs_encoder"] is state
    if owner == "vae":
        frame = report.broken[0].site.frames[0]
        assert (Path(frame.file).name, frame.function) == ("algo.py", "_step")


def test_an_arm_that_breaks_its_contract_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"algo_name": "lapo", "train": SMALL, "observation": CAMERA}))
    setup = models.build(models.load_config(path, None, None), use_dataset=False)
    setup.model._update_targets = lambda: None
    report = models.audit(setup, 2).report(setup.contract)
    assert {f.module for f in report.broken} == {
        "critic_target",
        "actor_vae_target",
        "actor_target",
    }


def test_with_a_dataset(tmp_path: Path, dataset: Path) -> None:
    path = tmp_path / "config.json"
    keys = {"low_dim": ["robot0_eef_pos", "object"]}
    path.write_text(
        json.dumps(
            {
                "algo_name": "iql",
                "train": SMALL | {"hdf5_filter_key": "train"},
                "observation": {"modalities": {"obs": keys}},
            }
        )
    )
    json_path = tmp_path / "out.json"
    arguments = ["--config", str(path), "--dataset", str(dataset), "--out", str(json_path)]
    assert main(["audit", *arguments]) == 0
    assert json.loads(json_path.read_text())["modules"]["critic_target[0]"] == "target"


def test_the_plugins_own_algorithm_with_a_dataset(
    tmp_path: Path, dataset: Path, make_config: Callable[..., Any]
) -> None:
    path = tmp_path / "config.json"
    filters = {"hdf5_filter_key": "train", "hdf5_validation_filter_key": "valid"}
    path.write_text(
        json.dumps(
            {
                "algo_name": "lapo",
                "experiment": {"validate": True},
                "train": SMALL | filters,
                "algo": {"encoder": {"owner": "critic"}},
                "observation": json.loads(make_config().dump())["observation"],
            }
        )
    )
    assert main(["audit", "--config", str(path), "--dataset", str(dataset)]) == 0


@pytest.mark.parametrize("flag", ["--out", "--json"])
def test_the_command_writes_json_and_reports_a_broken_contract(tmp_path: Path, flag: str) -> None:
    path, json_path = tmp_path / "config.json", tmp_path / "out.json"
    settings = {
        "algo_name": "lapo",
        "train": SMALL,
        "algo": {"encoder": {"owner": "vae"}},
        "observation": CAMERA,
    }
    path.write_text(json.dumps(settings))
    assert main(["audit", "--config", str(path), flag, str(json_path)]) == 1
    data = json.loads(json_path.read_text())
    assert data["ok"] is False
    assert [f["verdict"] for f in data["findings"] if f["severity"] == "broken"] == ["discarded"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "missing.json"], "missing.json"),
        (["--algo", "sac"], "'sac'"),
        (["--algo", "bcq", "--dataset", "missing.hdf5"], "missing.hdf5"),
        (["--algo", "bc", "--steps", "0"], "--steps is 0"),
        (["--algo", "bc", "--figure", "flow.exe"], "flow.exe"),
        ([], "--config"),
    ],
)
def test_unusable_input_exits_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *arguments]) == 2
    assert named in capsys.readouterr().err


def test_a_shipped_config_is_found_by_its_name(tmp_path: Path) -> None:
    figure, trace = tmp_path / "new" / "flow.png", ["--trace", "--steps", "1"]
    arguments = ["audit", "--config", "vae_fixed_low_dim", "--figure", str(figure), *trace]
    assert main(arguments) == 0
    assert [path.name for path in figure.parent.iterdir()] == ["flow.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "config.json holds [1, 2]"),
        ('"x"', "config.json holds 'x'"),
        ("null", "config.json holds None"),
        ("[" * 100_000, "config.json is not JSON"),
        ('{"algo_name": ["bc"]}', "the algorithm is ['bc']"),
        ('{"algo_name": "bc", "train": 3}', "key 'train' is 3"),
        ('{"algo_name": "bc", "train": null}', "key 'train' is None"),
        ('{"algo_name": "bc", "experiment": "x"}', "key 'experiment' is 'x'"),
        ('{"algo_name": "bc", "observation": [1]}', "key 'observation' is [1]"),
    ],
)
def test_a_config_of_the_wrong_shape_exits_2(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert main(["audit", "--config", str(path)]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_config_that_robomimic_refuses(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"algo_name": "bc", "algo": {"no_such_key": 1}}))
    with pytest.raises(AuditError, match="refuses"):
        models.load_config(path, None, None)


@pytest.mark.parametrize("kind", ["core that does not exist", "algorithm that cannot start"])
def test_what_fails_before_the_audit_is_unusable_not_broken(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "core that does not exist":
        path = tmp_path / "config.json"
        encoder = {"encoder": {"rgb": {"core_class": "NatureCNCore"}}}
        path.write_text(json.dumps({"algo_name": "lapo", "observation": CAMERA | encoder}))
        status, named = main(["audit", "--config", str(path)]), "NatureCNCore"
    else:
        status, named = main(["audit", "--algo", "gl"]), "gl"
    assert status == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
