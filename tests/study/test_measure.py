"""Values and returns: closed forms, and every algorithm's own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from robomimic_vae_ext import audit
from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.study import measure, rollouts
from tests.conftest import CAMERAS, IMAGE_SIZE


def test_returns_of_known_rewards() -> None:
    np.testing.assert_allclose(
        measure.discounted_returns(np.array([0.0, 0.0, 1.0]), 0.5), [0.25, 0.5, 1.0]
    )
    np.testing.assert_allclose(measure.discounted_returns(np.array([1.0, 2.0]), 0.9), [2.8, 2.0])
    assert measure.discounted_returns(np.zeros(4), 0.9).tolist() == [0.0] * 4


def test_auc_of_known_scores() -> None:
    labels = np.array([False, False, True, True])
    assert measure.auc(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 1.0
    assert measure.auc(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 0.0
    assert measure.auc(np.zeros(4), labels) == 0.5  # ties count half
    assert measure.auc(np.array([1.0, 2.0, 2.0, 3.0]), labels) == 0.875
    assert measure.auc(np.array([1.0, 2.0]), np.array([True, True])) is None
    assert measure.auc(np.array([np.nan, 2.0]), np.array([True, False])) is None


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    above = scores[labels][:, None] - scores[~labels][None]
    assert measure.auc(scores, labels) == pytest.approx(np.mean((np.sign(above) + 1) / 2))


def test_measures_of_a_perfect_and_of_a_constant_critic() -> None:
    returns, succeeds = np.array([0.5, 1.0, 0.0, 0.0]), np.array([True, True, False, False])
    perfect = measure.critic_measures(returns.copy(), returns, succeeds)
    assert perfect["critic_error"] == 0.0 and perfect["auc"] == 1.0
    assert perfect["correlation"] == pytest.approx(1.0)
    constant = measure.critic_measures(np.full(4, 0.5), returns, succeeds)
    assert constant["critic_error"] == pytest.approx((0.25 + 0.25 + 0.25) / 4)
    assert constant["auc"] == 0.5 and constant["correlation"] is None


def test_held_out_demonstrations_are_those_of_the_mask(dataset: Path, tmp_path: Path) -> None:
    held_out = measure.load_held_out(dataset, ["robot0_eef_pos", CAMERAS[0]])
    with h5py.File(dataset) as file:
        demo = file["data"][file["mask/valid"][0].decode()]
        np.testing.assert_array_equal(held_out.actions, demo["actions"][()])
        np.testing.assert_array_equal(held_out.obs[CAMERAS[0]], demo[f"obs/{CAMERAS[0]}"][()])
        succeeds = bool(demo["rewards"][()].sum())
    assert held_out.obs[CAMERAS[0]].dtype == np.uint8
    assert held_out.succeeds().tolist() == [succeeds] * len(held_out.actions)
    with pytest.raises(DatasetError, match="mask/nobody"):
        measure.load_held_out(dataset, [], mask="nobody")


def test_values_come_from_eval_mode_and_processed_pictures(
    make_model: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    model.set_eval()
    held_out = measure.load_held_out(dataset, list(model.obs_shapes))
    q = measure.held_out_values(model, held_out)
    assert q is not None and q.shape == (len(held_out.actions),)
    monkeypatch.setattr(measure, "BATCH", 3)  # the last batch is a shorter one
    np.testing.assert_allclose(q, measure.held_out_values(model, held_out), atol=1e-6)
    picture = measure.process(held_out.obs[CAMERAS[0]], CAMERAS[0], model)
    assert picture.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE) and picture.dtype == torch.float32
    expected = torch.from_numpy(held_out.obs[CAMERAS[0]] / 255.0).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(picture, expected)


@pytest.mark.parametrize("name", ["bc", "bcq", "cql", "iql", "td3_bc", "lapo"])
def test_every_algorithm_gives_its_own_value_or_none(name: str) -> None:
    setup = audit.build(audit.load_config(None, name, None), use_dataset=False)
    model, batch = setup.model, setup.batch
    model.set_eval()
    values = measure.value_function(model)
    if name == "bc":
        assert values is None
        return
    assert values is not None
    obs, actions = batch["obs"], batch["actions"]
    q = values(obs, actions)
    assert q.shape == (len(actions),) and not q.requires_grad
    if name == "iql":  # robomimic gives no answer: the minimum, as its own losses take it
        both = [critic(obs, actions) for critic in model.nets["critic"]]
        torch.testing.assert_close(q, torch.cat(both, 1).min(1).values)
    else:
        torch.testing.assert_close(q, model.get_state_action_value(obs, actions).flatten())


def episode(index: int, q: list[float], returns: list[float], success: bool) -> dict[str, Any]:
    return {
        "index": index, "success": success, "failed": not success, "length": len(q), "q": q,
        "returns": returns,
    }  # fmt: skip


def test_the_value_error_is_over_steps_and_episodes_are_in_order() -> None:
    records = [
        episode(1, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], False),
        episode(0, [0.5], [1.0], True),
    ]
    summary = rollouts.summary(30, records)
    assert summary["value_error"] == pytest.approx(0.25 / 4)
    assert (summary["q_start"], summary["return_start"]) == (0.25, 0.5)
    assert summary["success"] == [1, 0] and summary["failures"] == 1
    assert rollouts.thinned_pairs(records)["q"] == [0.5, 0.0, 0.0, 0.0]
    without = rollouts.summary(30, [episode(0, [], [], True)])
    assert without["value_error"] is None and without["q_start"] is None


def test_pairs_are_thinned_evenly() -> None:
    many = [float(x) for x in range(5000)]
    pairs = rollouts.thinned_pairs([episode(0, many, many, True)])
    assert len(pairs["q"]) == rollouts.PAIRS == len(pairs["return"])
    assert pairs["q"][0] == 0.0 and pairs["q"][-1] == 4999.0
    assert max(np.diff(pairs["q"])) <= 11


def test_a_line_that_a_killed_job_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    assert rollouts.read(path) == []
    rollouts.append(path, {"index": 0})
    with path.open("a") as file:
        file.write('{"index": 1, "succ')
    assert rollouts.read(path) == [{"index": 0}]
    rollouts.append(path, {"index": 1})
    assert rollouts.read(path) == [{"index": 0}, {"index": 1}]
