"""One policy that acts for several episodes at once, with the result it has for each alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import robomimic.algo.algo as algo_module
import torch
from torch import Tensor

from robomimic_vae_ext.errors import CheckpointError

LOGGER: Final = logging.getLogger(__name__)

#: Observations in every batch on a GPU, however many episodes wait: other shapes may be summed in
#: another order, and contacts make a difference in the last bit grow.
ROWS: Final = 16

Obs = dict[str, np.ndarray]


def normalization_stats(policy: Any) -> dict[str, Any]:
    """What a policy of robomimic normalizes by; which there are depends on robomimic's version."""
    return {key: value for key, value in vars(policy).items() if key.endswith("_stats")}


class BatchPolicy(algo_module.RolloutPolicy):
    """A policy of robomimic that takes one observation or several.

    An action depends on its observation alone, to the bit, not on what else is in the batch: the
    batch has always the same number of rows, and it is tried out first whether rows are independent
    then. Where they are not, and on a CPU, every observation is a batch of its own.

    Args:
        policy: for which `batching_trouble` finds nothing.
        rows: of a batch; None takes what suits the policy's device.
    """

    def __init__(self, policy: Any, rows: int | None = None) -> None:
        super().__init__(policy.policy, **normalization_stats(policy))
        policy.start_episode()
        self.rows = rows or (ROWS if policy.policy.device.type == "cuda" else 1)
        if self.rows > 1 and not rows_are_independent(self.policy, self.rows):
            LOGGER.warning("the rows of a batch are not independent here: acting one by one")
            self.rows = 1

    def act(self, observations: Sequence[Obs]) -> list[np.ndarray]:
        """Return the action (A,) for each raw observation from an environment."""
        actions: list[np.ndarray] = []
        for start in range(0, len(observations), self.rows):
            actions += self._act_at_once(observations[start : start + self.rows])
        return actions

    def __call__(self, ob: Obs, goal: Any = None, **_: Any) -> np.ndarray:
        """Return the action (A,) for one raw observation."""
        return self._act_at_once([ob])[0]

    def _act_at_once(self, observations: Sequence[Obs]) -> list[np.ndarray]:
        prepared = [self._prepare_observation(dict(ob)) for ob in observations]
        used = list(self.policy.obs_shapes)
        padding = [prepared[-1]] * (self.rows - len(prepared))
        batch = {key: torch.cat([ob[key] for ob in prepared + padding]) for key in used}
        rows = self.policy.get_action(obs_dict=batch)  # (rows, A)
        return [self._finish(rows[i : i + 1]) for i in range(len(prepared))]

    def _finish(self, action: Tensor) -> np.ndarray:
        """Let robomimic's own code turn (1, A) into what the environment takes."""
        shell = copy.copy(self)
        shell.policy = SimpleNamespace(
            get_action=lambda **_: action, global_config=self.policy.global_config
        )
        shell._prepare_observation = lambda ob, **_: ob
        result: np.ndarray = algo_module.RolloutPolicy.__call__(shell, ob={})
        return result


def batching_trouble(policy: Any) -> str | None:
    """Why a policy must be alone with its episode; None if one can act for many.

    Args:
        policy: robomimic's RolloutPolicy.
    """
    algo = policy.policy
    if type(algo).reset is not algo_module.Algo.reset:
        return "the policy keeps something from step to step"
    if len(algo.goal_shapes) > 0:
        return "the policy needs goals"
    policy.start_episode()
    if _draws_random_numbers(algo):
        return "the policy draws random numbers"
    return None


def policy_in_parent(policy: Any, wanted: bool | None) -> BatchPolicy | None:
    """The policy for all episodes together, or None if every worker is to have its own.

    Args:
        policy: robomimic's RolloutPolicy.
        wanted: None leaves it to the device: one policy on a GPU, which N processes would have to
            share anyhow, and one for every worker on a CPU, which is faster there.

    Raises:
        CheckpointError: it is wanted and this policy must be alone with its episode.
    """
    if wanted is False or (wanted is None and policy.policy.device.type != "cuda"):
        return None
    trouble = batching_trouble(policy)
    if trouble is not None and wanted:
        raise CheckpointError(
            trouble,
            "one whose actions depend on the observation alone",
            "Use --policy worker, or leave the flag out.",
        )
    if trouble is not None:
        return None
    return policy if isinstance(policy, BatchPolicy) else BatchPolicy(policy)


def rows_are_independent(algo: Any, rows: int) -> bool:
    """Whether a row's action is the same to the bit at every place and beside any other rows."""
    obs = _observations(algo, rows)
    actions = algo.get_action(obs_dict=obs)
    first = algo.get_action(obs_dict={key: value[:1] for key, value in obs.items()})
    if not torch.allclose(actions[:1], first, rtol=1e-3, atol=1e-3):
        return False  # not even the same function
    for shift in range(1, rows):
        moved = {key: value.roll(shift, 0) for key, value in obs.items()}
        if not torch.equal(algo.get_action(obs_dict=moved), actions.roll(shift, 0)):
            return False
        repeated = {key: value[shift].expand_as(value).clone() for key, value in obs.items()}
        if not torch.equal(algo.get_action(obs_dict=repeated), actions[shift].expand_as(actions)):
            return False
    return True


def _observations(algo: Any, count: int) -> dict[str, Tensor]:
    """Made-up observations as `_prepare_observation` returns them: always the same ones."""
    generator = torch.Generator().manual_seed(0)
    frames = algo.global_config.train.frame_stack
    stack = [frames] if frames > 1 else []
    return {
        key: torch.rand([count, *stack, *shape], generator=generator).to(algo.device)
        for key, shape in algo.obs_shapes.items()
    }


def _draws_random_numbers(algo: Any) -> bool:
    """Whether an action moves one of the global generators, which are left as they were."""
    on_gpu = [algo.device] if algo.device.type == "cuda" else []
    numpy_before: Any = np.random.get_state()

    def torch_states() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in on_gpu)]

    with torch.random.fork_rng(devices=on_gpu):
        before = torch_states()
        algo.get_action(obs_dict=_observations(algo, 1))
        moved = any(not torch.equal(*pair) for pair in zip(before, torch_states(), strict=True))
    numpy_after: Any = np.random.get_state()
    np.random.set_state(numpy_before)
    return moved or not all(map(np.array_equal, numpy_before, numpy_after))
