"""Values and returns: closed forms, and every algorithm's own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from robomimic_vae_ext import audit
from robomimic_vae_ext.analysis import critic_values
from robomimic_vae_ext.errors import DatasetError
from tests.conftest import CAMERAS, IMAGE_SIZE


def test_returns_of_known_rewards() -> None:
    np.testing.assert_allclose(
        critic_values.discounted_returns(np.array([0.0, 0.0, 1.0]), 0.5), [0.25, 0.5, 1.0]
    )
    np.testing.assert_allclose(
        critic_values.discounted_returns(np.array([1.0, 2.0]), 0.9), [2.8, 2.0]
    )
    assert critic_values.discounted_returns(np.zeros(4), 0.9).tolist() == [0.0] * 4


def test_auc_of_known_scores() -> None:
    labels = np.array([False, False, True, True])
    assert critic_values.auc(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 1.0
    assert critic_values.auc(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 0.0
    assert critic_values.auc(np.zeros(4), labels) == 0.5  # ties count half
    assert critic_values.auc(np.array([1.0, 2.0, 2.0, 3.0]), labels) == 0.875
    assert critic_values.auc(np.array([1.0, 2.0]), np.array([True, True])) is None
    assert critic_values.auc(np.array([np.nan, 2.0]), np.array([True, False])) is None


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    above = scores[labels][:, None] - scores[~labels][None]
    assert critic_values.auc(scores, labels) == pytest.approx(np.mean((np.sign(above) + 1) / 2))


def test_measures_of_a_perfect_and_of_a_constant_critic() -> None:
    returns, succeeds = np.array([0.5, 1.0, 0.0, 0.0]), np.array([True, True, False, False])
    perfect = critic_values.critic_measures(returns.copy(), returns, succeeds)
    assert perfect["critic_error"] == 0.0 and perfect["auc"] == 1.0
    assert perfect["correlation"] == pytest.approx(1.0)
    constant = critic_values.critic_measures(np.full(4, 0.5), returns, succeeds)
    assert constant["critic_error"] == pytest.approx((0.25 + 0.25 + 0.25) / 4)
    assert constant["auc"] == 0.5 and constant["correlation"] is None


def test_held_out_demonstrations_are_those_of_the_mask(dataset: Path, tmp_path: Path) -> None:
    held_out = critic_values.load_held_out(dataset, ["robot0_eef_pos", CAMERAS[0]])
    with h5py.File(dataset) as file:
        demo = file["data"][file["mask/valid"][0].decode()]
        np.testing.assert_array_equal(held_out.actions, demo["actions"][()])
        np.testing.assert_array_equal(held_out.obs[CAMERAS[0]], demo[f"obs/{CAMERAS[0]}"][()])
        succeeds = bool(demo["rewards"][()].sum())
    assert held_out.obs[CAMERAS[0]].dtype == np.uint8
    assert held_out.succeeds().tolist() == [succeeds] * len(held_out.actions)
    with pytest.raises(DatasetError, match="mask/nobody"):
        critic_values.load_held_out(dataset, [], mask="nobody")


def test_values_come_from_eval_mode_and_processed_pictures(
    make_model: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    model.set_eval()
    held_out = critic_values.load_held_out(dataset, list(model.obs_shapes))
    q = critic_values.held_out_values(model, held_out)
    assert q is not None and q.shape == (len(held_out.actions),)
    monkeypatch.setattr(critic_values, "BATCH", 3)  # the last batch is a shorter one
    np.testing.assert_allclose(q, critic_values.held_out_values(model, held_out), atol=1e-6)
    picture = critic_values.process(held_out.obs[CAMERAS[0]], CAMERAS[0], model)
    assert picture.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE) and picture.dtype == torch.float32
    expected = torch.from_numpy(held_out.obs[CAMERAS[0]] / 255.0).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(picture, expected)


@pytest.mark.parametrize("name", ["bc", "bcq", "cql", "iql", "td3_bc", "lapo"])
def test_every_algorithm_gives_its_own_value_or_none(name: str) -> None:
    setup = audit.build(audit.load_config(None, name, None), use_dataset=False)
    model, batch = setup.model, setup.batch
    model.set_eval()
    values = critic_values.value_function(model)
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
