"""One policy for several episodes: which can be one, and that each action is what it was alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.rollout import batch_policy
from tests.rollout.conftest import OBS, make_policy


def observations(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{key: rng.normal(size=shape) for key, shape in OBS.items()} for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "trouble"),
    [
        ("lapo", None),
        ("bc", None),
        ("bc_gmm", "the policy draws random numbers"),
        ("bc_rnn", "the policy keeps something from step to step"),
    ],
)
def test_who_may_act_for_several_episodes(kind: str, trouble: str | None) -> None:
    policy = make_policy(kind)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert batch_policy.batching_trouble(policy) == trouble
    assert torch.equal(torch.get_rng_state(), before)
    assert batch_policy.policy_in_parent(policy, wanted=None) is None  # on a CPU
    if trouble is None:
        assert batch_policy.policy_in_parent(policy, wanted=True) is not None
    else:
        with pytest.raises(CheckpointError, match=trouble):
            batch_policy.policy_in_parent(policy, wanted=True)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", ["lapo", "bc"])
def test_an_action_does_not_depend_on_who_else_waits(kind: str, rows: int) -> None:
    together = batch_policy.BatchPolicy(make_policy(kind), rows)
    waiting = observations(6)  # more than one batch
    alone = [together(ob=ob) for ob in waiting]
    for count in range(1, 7):
        for start in range(7 - count):
            actions = together.act(waiting[start : start + count])
            for action, expected in zip(actions, alone[start:], strict=False):
                assert np.array_equal(action, expected)
    plain = [make_policy(kind)(ob=ob) for ob in waiting]
    np.testing.assert_allclose(alone, plain, rtol=1e-4, atol=1e-5)
    if rows == 1:
        assert np.array_equal(alone, plain)


def normalization(shape: list[int]) -> dict[str, np.ndarray]:
    """(x - 1) / 2, in the words of robomimic 0.3.0 and of 0.5.0."""
    one, two = np.ones((1, *shape), np.float32), np.full((1, *shape), 2.0, np.float32)
    return {"mean": one, "std": two, "offset": one, "scale": two}


def test_normalization_is_kept() -> None:
    policy = make_policy("bc")
    policy.obs_normalization_stats = {key: normalization(shape) for key, shape in OBS.items()}
    ob = observations(1)[0]
    expected = make_policy("bc")(ob={key: (value - 1.0) / 2.0 for key, value in ob.items()})
    if hasattr(policy, "action_normalization_stats"):  # robomimic 0.5.0
        policy.action_normalization_stats = {"actions": normalization([7])}
        expected = expected * 2.0 + 1.0
    actions = batch_policy.BatchPolicy(policy, 2).act([ob, ob])
    np.testing.assert_allclose(actions, [expected, expected], rtol=1e-4, atol=1e-5)
    assert np.array_equal(batch_policy.BatchPolicy(policy, 1)(ob=ob), policy(ob=dict(ob)))


class Stub:
    """As much of an algorithm as the check of rows touches."""

    device = torch.device("cpu")
    obs_shapes = {"object": [3]}  # noqa: RUF012
    global_config = SimpleNamespace(train=SimpleNamespace(frame_stack=1))

    def __init__(self, function: Any) -> None:
        self.function = function

    def get_action(self, obs_dict: dict[str, torch.Tensor]) -> torch.Tensor:
        result: torch.Tensor = self.function(obs_dict["object"])
        return result


@pytest.mark.parametrize(
    ("function", "independent"),
    [
        (lambda x: 2 * x, True),
        (lambda x: x + 1e-6 * x.mean(0), False),  # sees its neighbours
        (lambda x: x + 1e-6 * torch.arange(len(x))[:, None], False),  # sees its place
        (lambda x: x + float(len(x)), False),  # another function of larger batches
    ],
)
def test_dependent_rows_are_found(function: Any, independent: bool) -> None:
    assert batch_policy.rows_are_independent(Stub(function), 4) is independent
