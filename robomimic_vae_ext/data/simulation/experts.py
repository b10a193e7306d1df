"""Scripted demonstrators for Lift, Stack, PickPlaceCan and PlayLift.

An expert has no memory: its action is a function of what a policy can also see (gripper position
and opening, object positions), so that a policy without memory can imitate it from images. It
steers by one law, `action = gain * error / 5 cm`, towards a target that slides down a funnel: far
from the object the target is above it, close to it the target is the object itself.

A `Behaviour` adds noise on the actions, and mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from robomimic_vae_ext.errors import DatasetError

STEP: Final = 0.05  # [m] displacement that an action of 1 asks of the controller
TURN: Final = 0.5  # [rad] rotation that an action of 1 asks of the controller
OPEN: Final = -1.0
CLOSE: Final = 1.0
ACTION_SIZE: Final = 7
SLIP: Final = 0.012  # [m] how far an object may slip down between closed fingers
CUBE_ON_CUBE: Final = 0.045  # [m] height of Stack's red cube over the green one
LOW_ENOUGH: Final = 0.052  # [m] the red cube may fall so far when it is let go
CAN_PLACE: Final = np.array([0.1975, 0.4025, 0.97])  # [m] above the can's quarter of the bin
CAN_TOSS: Final = np.array([0.10, -0.60, 1.00])  # [m] beside the bins, above the floor


@dataclass(frozen=True)
class Behaviour:
    """How one episode differs from the expert.

    Args:
        name: name of the dataset's mask for such episodes.
        noise: standard deviation of the noise on the six motion actions, in action units.
        offset: horizontal error of the grasp [m].
        offset_steps: number of steps after which the offset is 0.
        random: uniformly random actions instead of the expert's.
        toss: carry the object out of the workspace and drop it there (PickPlaceCan only).
    """

    name: str
    noise: float = 0.0
    offset: float = 0.0
    offset_steps: int = 0
    random: bool = False
    toss: bool = False


CLEAN: Final = Behaviour("clean")
NOISE_LOW: Final = Behaviour("noise_low", noise=0.15)
NOISE_MEDIUM: Final = Behaviour("noise_medium", noise=0.35)
NOISE_HIGH: Final = Behaviour("noise_high", noise=0.7)
RECOVERY: Final = Behaviour("recovery", noise=0.15, offset=0.045, offset_steps=30)
OFFSET: Final = Behaviour("offset", noise=0.15, offset=0.045, offset_steps=1_000_000)
RANDOM: Final = Behaviour("random", random=True)
PLACED: Final = Behaviour("placed", noise=0.15)
TOSSED: Final = Behaviour("tossed", noise=0.15, toss=True)

# Episodes 2k and 2k + 1 of this quality start from the same state; the first succeeds, the second
# throws the can away. As robomimic's Can-Paired: only the reward says which one to imitate.
PAIRED: Final = "paired"
PAIRED_TASKS: Final = ("PickPlaceCan",)

# Probability of each behaviour under each quality. Successful episodes, measured with seed 0 and
# the tasks' own horizons: expert (60 episodes) Lift 60, Stack 59, PickPlaceCan 60; mixed (200
# episodes) Lift 138, Stack 120, PickPlaceCan 127. Every dataset has its own rate in
# `data.attrs["notes"]`.
QUALITIES: Final[dict[str, tuple[tuple[Behaviour, float], ...]]] = {
    "expert": ((CLEAN, 0.5), (NOISE_LOW, 0.5)),
    "mixed": (
        (CLEAN, 0.14),
        (NOISE_LOW, 0.22),
        (NOISE_MEDIUM, 0.20),
        (NOISE_HIGH, 0.14),
        (RECOVERY, 0.10),
        (OFFSET, 0.20),
    ),
    "noisy": ((NOISE_MEDIUM, 0.5), (NOISE_HIGH, 0.5)),
    "random": ((RANDOM, 1.0),),
    PAIRED: ((PLACED, 0.5), (TOSSED, 0.5)),
}


def draw_behaviour(quality: str, rng: np.random.Generator, index: int) -> Behaviour:
    """Draw the behaviour of one episode.

    Args:
        quality: one of `QUALITIES`.
        rng: the episode's own generator.
        index: of the episode; decides alone where the quality is `PAIRED`.

    Raises:
        DatasetError: an unknown quality.
    """
    if quality not in QUALITIES:
        raise DatasetError(
            f"quality {quality!r}",
            f"one of {', '.join(QUALITIES)}",
            "Choose one of them with --quality.",
        )
    behaviours, weights = zip(*QUALITIES[quality], strict=True)
    if quality == PAIRED:
        return (PLACED, TOSSED)[index % 2]
    chosen: Behaviour = behaviours[rng.choice(len(behaviours), p=weights)]
    return chosen


@dataclass(frozen=True)
class Grasp:
    """The part that all tasks share: get the object between the fingers.

    Args:
        object_key: observation key of the object's position.
        height: of the grasp above the object's origin [m].
        reach: horizontal and vertical distance within which the fingers close [m].
        contact: the widest opening at which the fingers can touch the object [m].
        held: the opening at which they certainly hold it [m].
    """

    object_key: str
    height: float
    reach: float
    contact: float
    held: float


class Expert:
    """A demonstrator of one task with one episode's behaviour.

    Args:
        behaviour: noise and mistakes of this episode.
        rng: the episode's own generator.
    """

    grasp: Grasp

    def __init__(self, behaviour: Behaviour, rng: np.random.Generator) -> None:
        self.behaviour = behaviour
        self.rng = rng
        angle = rng.uniform(0, 2 * np.pi)
        self._offset = behaviour.offset * np.array([np.cos(angle), np.sin(angle), 0.0])
        self._noise = np.zeros(6)
        self._steps = 0

    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """Return the next action.

        Args:
            obs: raw observation of the robosuite environment.

        Returns:
            (7,), in [-1, 1]: position, rotation vector, gripper (1 closes).
        """
        if self.behaviour.random:
            return self.rng.uniform(-1, 1, ACTION_SIZE)
        target, gripper = self._decide(obs)
        action = np.empty(ACTION_SIZE)
        action[:3] = steer(target - obs["robot0_eef_pos"])
        action[3:6] = straighten(obs["robot0_eef_quat"])
        action[:6] = np.clip(action[:6], -1, 1) + self._next_noise()
        action[6] = gripper
        return np.clip(action, -1, 1)

    def _decide(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Return the target position (3,) [m] and the gripper's action."""
        self._steps += 1
        if self._steps > self.behaviour.offset_steps:
            self._offset = np.zeros(3)
        grasp = self.grasp
        point = obs[grasp.object_key] + self._offset + np.array([0.0, 0.0, grasp.height])
        error = point - obs["robot0_eef_pos"]
        # An object that slips while it is lifted is below the gripper, but still held.
        slack = SLIP if opening(obs) < grasp.contact else 0.0
        if np.hypot(error[0], error[1]) > grasp.reach or not (
            -grasp.reach - slack < error[2] < grasp.reach
        ):
            return funnel(point, error), OPEN
        # From 0 to 1 while the fingers close: neither a pause nor a hidden state.
        grip = np.clip((grasp.contact - opening(obs)) / (grasp.contact - grasp.held), 0.0, 1.0)
        target, gripper = self._carry(obs) if grip > 0 else (point, CLOSE)
        return (1 - grip) * point + grip * target, gripper

    def _carry(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Return target and gripper action for the held object."""
        raise NotImplementedError

    def _next_noise(self) -> np.ndarray:
        """Return (6,) noise; correlated over about three steps, since white noise averages out."""
        keep = 0.7
        fresh = self.rng.standard_normal(6) * np.array([1, 1, 1, 0.3, 0.3, 0.3])
        self._noise = keep * self._noise + np.sqrt(1 - keep**2) * self.behaviour.noise * fresh
        return self._noise


class LiftExpert(Expert):
    """Grasps the cube and raises it."""

    grasp = Grasp("cube_pos", height=0.0, reach=0.015, contact=0.063, held=0.052)

    def _carry(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Straight up; fingers stay closed."""
        return obs["robot0_eef_pos"] + np.array([0.0, 0.0, STEP]), CLOSE


class StackExpert(Expert):
    """Grasps the red cube, puts it on the green one and releases it."""

    grasp = Grasp("cubeA_pos", height=0.0, reach=0.015, contact=0.060, held=0.050)

    def _decide(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Release a cube that is on top of the other, else grasp and carry."""
        above = obs["cubeA_pos"] - obs["cubeB_pos"]
        if np.hypot(above[0], above[1]) < 0.02 and CUBE_ON_CUBE - 0.01 < above[2] < LOW_ENOUGH:
            return obs["robot0_eef_pos"], OPEN
        return super()._decide(obs)

    def _carry(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Up, over the green cube, and down."""
        goal = obs["cubeB_pos"] + np.array([0.0, 0.0, CUBE_ON_CUBE])
        return carry_over(obs, obs["cubeA_pos"], goal), CLOSE


class PickPlaceCanExpert(Expert):
    """Grasps the can, carries it over its quarter of the other bin (or away) and drops it."""

    grasp = Grasp("Can_pos", height=0.02, reach=0.018, contact=0.060, held=0.053)

    @property
    def place(self) -> np.ndarray:
        """Where the can is released: (3,) [m]."""
        return CAN_TOSS if self.behaviour.toss else CAN_PLACE

    def _decide(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Release a can that is over its place, else grasp and carry."""
        beside = obs["Can_pos"][:2] - self.place[:2]
        if np.max(np.abs(beside)) < 0.05:
            return obs["robot0_eef_pos"], OPEN
        return super()._decide(obs)

    def _carry(self, obs: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Up and over the wall between the bins."""
        return carry_over(obs, obs["Can_pos"], self.place), CLOSE


class PlayLiftExpert(LiftExpert):
    """Lifts one of two cubes at random; the reward does not matter."""

    cubes = (
        Grasp("cubeA_pos", height=0.0, reach=0.015, contact=0.060, held=0.050),
        Grasp("cubeB_pos", height=0.0, reach=0.015, contact=0.073, held=0.062),
    )

    def __init__(self, behaviour: Behaviour, rng: np.random.Generator) -> None:
        super().__init__(behaviour, rng)
        self.grasp = self.cubes[rng.integers(2)]


EXPERTS: Final[dict[str, type[Expert]]] = {
    "Lift": LiftExpert,
    "Stack": StackExpert,
    "PickPlaceCan": PickPlaceCanExpert,
    "PlayLift": PlayLiftExpert,
}


def carry_over(obs: dict[str, Any], held: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the gripper's target (3,) that takes a held object to a place from above.

    There is no sideways motion while the object is below the funnel, to avoid obstacles.

    Args:
        obs: raw observation.
        held: (3,) position of the object [m].
        goal: (3,) its destination [m].
    """
    error = goal - held
    move = funnel(goal, error) - held
    low = np.clip((move[2] - 0.01) / 0.03, 0.0, 1.0)
    move[:2] *= 1 - low
    return obs["robot0_eef_pos"] + move


def opening(obs: dict[str, Any]) -> float:
    """Return the distance between the fingers [m]."""
    left, right = obs["robot0_gripper_qpos"]
    return float(left - right)


def steer(error: np.ndarray, gain: float = 1.5) -> np.ndarray:
    """Return the motion action (3,), not clipped, for a position error (3,) [m]."""
    return gain * error / STEP


def straighten(quat: np.ndarray, gain: float = 0.5) -> np.ndarray:
    """Return the rotation action (3,) that points the gripper straight down.

    Args:
        quat: (4,) x, y, z, w of the gripper; (1, 0, 0, 0) is straight down.
    """
    _, y, z, w = quat if quat[0] >= 0 else -quat
    # For small angles the rotation from `quat` to (1, 0, 0, 0) is 2 * (vector part of the error).
    error = 2 * np.array([w, z, -y])
    return gain * error / TURN


def funnel(point: np.ndarray, error: np.ndarray, slope: float = 2.5, top: float = 0.08) -> Any:
    """Return the point to steer to: above the goal as long as the gripper is not over it.

    Args:
        point: (3,) the goal [m].
        error: (3,) goal minus gripper position [m].
        slope: height per horizontal distance.
        top: greatest height above the goal [m].
    """
    beside = max(0.0, float(np.hypot(error[0], error[1])) - 0.01)
    return point + np.array([0.0, 0.0, min(top, slope * beside)])
