"""Decides the rewards, dones and lengths of a dataset that lacks them.

Nothing is decided unseen: each rule says for which rewards it holds, and asks for a flag elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.data.description import Demonstration, Description, whole_number
from robomimic_vae_ext.data.hdf5 import list_names
from robomimic_vae_ext.data.rewards import RewardKind, kind_of
from robomimic_vae_ext.errors import DatasetError

DONES_FROM: Final = ("success", "end", "none")
LENGTHS: Final = ("num_samples", "actions")
_REWARD_TOLERANCE: Final = 1e-6
_BY_RULE: Final = {
    "success": "1 at every step whose reward shows success",
    "end": "1 at the last step of every demonstration",
    "none": "0 everywhere",
}


@dataclass(frozen=True)
class Outcome:
    """What a demonstration gets.

    Args:
        length: number of its transitions.
        rewards: (T,).
        dones: (T,).
        added: arrays that it did not have.
        changed: arrays that it had with other values, and how they were changed.
    """

    length: int
    rewards: np.ndarray
    dones: np.ndarray
    added: tuple[str, ...]
    changed: tuple[str, ...]


class Rules:
    """How lengths, rewards and dones of one dataset are decided.

    Args:
        found: the dataset.
        assume_success: every demonstration ends with success.
        dones_from: one of `DONES_FROM`, for every demonstration; empty: keep those that are there,
            and infer the others where the reward is sparse.
        length: one of `LENGTHS`; empty: num_samples where the actions agree with it.

    Raises:
        DatasetError: a flag that contradicts the file, or changes nothing.
    """

    def __init__(
        self, found: Description, assume_success: bool, dones_from: str, length: str
    ) -> None:
        for value, known, flag in (
            (dones_from, DONES_FROM, "--dones-from"),
            (length, LENGTHS, "--length"),
        ):
            if value and value not in known:
                raise DatasetError(f"{flag} {value}", f"one of {list_names(known)}", "Correct it.")
        self.found, self.dones_from, self.by_length = found, dones_from, length
        self.assumed = self._assumed() if assume_success else frozenset()
        rest = [demo.rewards for demo in found.demonstrations if demo.name not in self.assumed]
        given = [rewards for rewards in rest if rewards is not None]
        shaping = found.env_args["env_kwargs"].get("reward_shaping")
        sparse = self.assumed and not given  # all of them are made here
        self.kind = RewardKind.SPARSE if sparse else kind_of(given, shaping)
        self.decisions: list[str] = []
        self.rewards_lost: list[str] = []  # demonstrations whose last transition is left out
        if assume_success:
            what = f"reward 1 at the end of {len(self.assumed)} demonstrations"
            self._decide(f"--assume-success: {what if self.assumed else 'changed nothing'}")

    def all_decisions(self) -> tuple[str, ...]:
        """What was decided, and what that cost."""
        lost = (
            f"a reward is lost with the last transition of {len(self.rewards_lost)} demonstrations "
            f"({list_names(self.rewards_lost)}), which is no end and has no next observation; "
            "--dones-from success or end keeps it"
        )
        return (*self.decisions, *([lost] if self.rewards_lost else []))

    def _decide(self, text: str) -> None:
        if text not in self.decisions:
            self.decisions.append(text)

    def _assumed(self) -> frozenset[str]:
        """Names of the demonstrations whose rewards are made."""
        demos, path = self.found.demonstrations, self.found.path
        failed = [demo.name for demo in demos if demo.success is False]
        missing = [demo.name for demo in demos if demo.rewards is None]
        zero = [it.name for it in demos if it.rewards is not None and not it.rewards.any()]
        if failed:
            raise DatasetError(
                f"{path}: --assume-success, and {list_names(failed)} have success = False",
                "demonstrations that all end with success",
                "Remove these demonstrations, or their attribute success if it is wrong.",
            )
        if zero and len(zero) + len(missing) < len(demos):
            raise DatasetError(
                f"{path}: --assume-success, and the rewards of {list_names(zero)} are 0 while "
                "others are paid",
                "rewards that are all 0, or missing, in every demonstration",
                "Leave out --assume-success: these look like failures. If they are not, remove "
                "their rewards.",
            )
        return frozenset(missing + zero)

    def length(self, demo: Demonstration, where: str) -> int:
        """Number of transitions of a demonstration."""
        column = demo.columns.get("actions")
        if demo.actions is None or column is None or column.rows == 0:
            raise DatasetError(
                f"{where}/actions is {'missing' if column is None else column.shape}",
                "an array (T, A), T > 0",
                "Leave out this demonstration.",
            )
        declared = whole_number(demo.declared)
        if self.by_length == "actions":
            return column.rows
        if self.by_length == "num_samples":
            if declared is None or not 0 < declared <= column.rows:
                raise DatasetError(
                    f"{where}: num_samples is {demo.declared!r}"[:200],
                    f"from 1 to {column.rows}, its number of actions",
                    "Use --length actions.",
                )
            return declared
        if declared is None:
            self._decide("transitions counted by the actions (--length), without num_samples")
        elif declared != demo.length:
            raise DatasetError(
                f"{where}: num_samples is {declared} with {column.rows} actions",
                "as many actions, or one more",
                "Say which of them counts the transitions: --length num_samples or "
                "--length actions.",
            )
        return demo.length

    def outcome(self, demo: Demonstration, where: str) -> Outcome:
        """Length, rewards and dones of a demonstration."""
        length = self.length(demo, where)
        rewards, dones = (self._cut(demo, key, length, where) for key in ("rewards", "dones"))
        added: list[str] = []
        changed: list[str] = []
        if demo.name in self.assumed:
            (added if rewards is None else changed).append("rewards")
            rewards = np.eye(length)[-1]
        if rewards is None:
            raise DatasetError(
                f"{where} has no rewards",
                "rewards, which cannot be computed from observations",
                "Compute them with --replay, or add --assume-success if every "
                "demonstration ends with success.",
            )
        made = self._dones(demo, dones, rewards, where)
        if dones is None:
            added.append("dones")
        elif not np.array_equal(made, dones):
            changed.append("dones")
        return Outcome(
            length, rewards, made, tuple(added), tuple(f"{key} replaced" for key in changed)
        )

    def _cut(self, demo: Demonstration, key: str, length: int, where: str) -> np.ndarray | None:
        """Return rewards or dones of the transitions."""
        values = demo.rewards if key == "rewards" else demo.dones
        if values is None:
            return None
        column = demo.columns[key]
        enough = column.rows >= length if self.by_length else column.rows in (length, length + 1)
        if len(column.shape) != 1 or not enough:
            raise DatasetError(
                f"{where}/{key} is {column.shape}",
                f"({length},), one per action",
                "Repair or remove them.",
            )
        return values[:length]

    def _dones(
        self, demo: Demonstration, dones: np.ndarray | None, rewards: np.ndarray, where: str
    ) -> np.ndarray:
        if self.dones_from:
            self._decide(f"--dones-from {self.dones_from}: dones {_BY_RULE[self.dones_from]}")
            return self._by_rule(self.dones_from, rewards, where)
        if demo.name in self.assumed:
            if dones is not None and dones.any():
                if not dones[-1]:
                    raise DatasetError(
                        f"{where}/dones ends the episode before its last step",
                        "an episode that ends with success, by --assume-success",
                        "Add --dones-from end, or leave out --assume-success.",
                    )
                return dones
            self._decide("--assume-success: done 1 at the end, too (--dones-from)")
            return self._by_rule("end", rewards, where)
        if dones is not None:
            return dones
        if self.kind is not RewardKind.SPARSE:
            raise DatasetError(
                f"{where} has no dones, and the rewards are {self.kind.value}",
                "dones, or rewards that are paid once at the end, which show where an episode "
                "ended",
                "Add --dones-from success, end or none.",
            )
        self._decide(
            f"dones 1 where the reward is positive (--dones-from): rewards are {self.kind.value}"
        )
        return self._by_rule("success", rewards, where)

    def _by_rule(self, rule: str, rewards: np.ndarray, where: str) -> np.ndarray:
        if rule == "none":
            return np.zeros(len(rewards), np.int64)
        if rule == "end":
            return np.eye(len(rewards), dtype=np.int64)[-1]
        if self.kind in (RewardKind.SPARSE, RewardKind.HELD):
            return (rewards > 0).astype(np.int64)
        env_args = self.found.env_args
        if self.kind is RewardKind.DENSE and env_args["type"] == ROBOMIMIC_ENV_TYPE:
            # robosuite scales rewards such that success gives reward_scale, and less before it.
            scale = env_args["env_kwargs"].get("reward_scale", 1.0)
            if scale:
                self._decide(f"success is a reward of {scale:g}, robosuite's reward_scale")
                return (rewards >= scale - _REWARD_TOLERANCE).astype(np.int64)
        raise DatasetError(
            f"{where}: --dones-from success, and the rewards are {self.kind.value}",
            "rewards that show success",
            "Use --dones-from end or none.",
        )
