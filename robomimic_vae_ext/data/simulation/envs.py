"""Our robosuite environments, how they are built, seeded, and read.

Importing this module registers `LiftFast`, `StackFast`, `PickPlaceCanFast` and `PlayLift` in
robosuite, so that a dataset whose `env_args` name one of them can be rolled out by stock robomimic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

import robomimic_vae_ext.robosuite_advice  # noqa: F401  (before robosuite is imported)
from robomimic_vae_ext.errors import DatasetError, SimulationError, VaeExtError

try:
    import robosuite
except (
    AttributeError,
    RuntimeError,
) as error:  # raised by PyOpenGL and mujoco if a library is missing
    renderer = os.environ.get("MUJOCO_GL", "")
    raise SimulationError(
        f"robosuite cannot be imported with MUJOCO_GL={renderer!r} ({error})",
        "a renderer that is installed",
        "Set MUJOCO_GL=egl and install the system package libegl1.",
    ) from error

try:
    from robosuite.controllers import load_composite_controller_config
except ImportError as error:  # robosuite 1.4 has no composite controllers
    raise SimulationError(
        f"robosuite {robosuite.__version__} ({error})",
        "robosuite 1.5.2 or later, older than 1.6, for collection and rollouts",
        'Install it: pip install "robosuite>=1.5.2,<1.6".',
    ) from error
from robosuite.environments.base import REGISTERED_ENVS
from robosuite.environments.manipulation.lift import Lift
from robosuite.environments.manipulation.pick_place import PickPlaceCan
from robosuite.environments.manipulation.stack import Stack
from robosuite.utils.log_utils import ROBOSUITE_DEFAULT_LOGGER

from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.data.simulation.render import (
    own_render_context,
    require_rendering,
    simplify_rendering,
)

# Name of the robosuite environment for every task and rendering.
ENVIRONMENTS: Final = {
    "Lift": {"fast": "LiftFast", "full": "Lift"},
    "Stack": {"fast": "StackFast", "full": "Stack"},
    "PickPlaceCan": {"fast": "PickPlaceCanFast", "full": "PickPlaceCan"},
    "PlayLift": {"fast": "PlayLift"},
}
TASKS: Final = tuple(ENVIRONMENTS)
CONTROL_FREQUENCY: Final = 20  # [Hz]

_MODEL_SEED: Final = 0


class FastRendering:
    """Mixin for robosuite environments: a scene that renders fast and does not vary.

    Differs: robosuite draws the size of Lift's cube from the environment's random generator when
    it loads the model. Here that draw always starts from the same state, so every process and
    every rollout has the same model, and a hard reset leaves the generator where a soft one does.
    """

    model: Any
    rng: np.random.Generator

    def _load_model(self) -> None:
        """Load the model with a fixed random state, then simplify how it is rendered."""
        before = self.rng.bit_generator.state
        reseed(self, _MODEL_SEED)
        super()._load_model()  # type: ignore[misc]  # the robosuite class that we are mixed into
        self.rng.bit_generator.state = before
        simplify_rendering(self.model.root)

    def _reset_internal(self) -> None:
        """Set our render context before robosuite creates its own."""
        own_render_context(self)
        super()._reset_internal()  # type: ignore[misc]


class LiftFast(FastRendering, Lift):
    """robosuite's Lift with `FastRendering`."""


class StackFast(FastRendering, Stack):
    """robosuite's Stack with `FastRendering`."""


class PickPlaceCanFast(FastRendering, PickPlaceCan):
    """robosuite's PickPlaceCan with `FastRendering`; a can that falls off the bins is a failure."""

    def check_failure(self) -> bool:
        """Return whether the can lies lower than the bins, out of the robot's reach."""
        height = self.sim.data.body_xpos[self.obj_body_id["Can"]][2]
        return bool(height < self.bin1_pos[2] - 0.1)


class PlayLift(FastRendering, Stack):
    """Stack's two cubes, of which only the red one is to be lifted.

    For datasets whose behaviour ignores the reward. Lifting the green cube is a failure: during
    collection it ends the episode with reward 0 and done 1.
    """

    def reward(self, action: Any = None) -> float:
        """Return `reward_scale` if the red cube is lifted, else 0; the reward is sparse."""
        return float(self.reward_scale or 1.0) if self._check_success() else 0.0

    def _check_success(self) -> bool:
        """Return whether the red cube is lifted by 2 cm, as in Lift."""
        return bool(self.sim.data.body_xpos[self.cubeA_body_id][2] > self.table_offset[2] + 0.04)

    def check_failure(self) -> bool:
        """Return whether the green cube, which is 5 mm higher at rest, is lifted by 2 cm."""
        return bool(self.sim.data.body_xpos[self.cubeB_body_id][2] > self.table_offset[2] + 0.045)


def has_failed(env: Any) -> bool:
    """Return whether the task can no longer succeed; most environments have no such state."""
    return bool(env.check_failure()) if hasattr(env, "check_failure") else False


@dataclass(frozen=True)
class EnvSpec:
    """Environment of a dataset.

    Args:
        task: one of `TASKS`.
        cameras: names of robosuite cameras; none means low-dimensional observations only.
        size: height and width of every image [pixel].
        rendering: `fast` (classes of this package) or `full` (robosuite's own, where there is one).
    """

    task: str
    cameras: tuple[str, ...] = ()
    size: int = 84
    rendering: str = "fast"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise DatasetError(
                f"environment {self.task!r}",
                f"one of {', '.join(TASKS)}",
                "Choose one of them with --env.",
            )
        if self.rendering not in ENVIRONMENTS[self.task]:
            raise DatasetError(
                f"rendering {self.rendering!r}",
                f"for {self.task} one of {', '.join(ENVIRONMENTS[self.task])}",
                "Choose one of them with --rendering.",
            )
        if self.size < 1:
            raise DatasetError(
                f"image size {self.size}", "at least 1 pixel", "Choose another --size."
            )

    def env_args(self) -> dict[str, Any]:
        """Return robomimic's environment metadata, as `EnvRobosuite.serialize` would write it."""
        kwargs: dict[str, Any] = {
            "robots": ["Panda"],
            "controller_configs": _controller_config(),
            "control_freq": CONTROL_FREQUENCY,
            "lite_physics": True,
            "reward_shaping": False,
            # A hard reset reloads the model: 1.1 s instead of 2 ms, for the same distribution.
            "hard_reset": False,
            "ignore_done": True,
            "use_object_obs": True,
            "has_renderer": False,
            "has_offscreen_renderer": bool(self.cameras),
            "use_camera_obs": bool(self.cameras),
            "camera_depths": False,
        }
        if self.cameras:
            kwargs["camera_names"] = list(self.cameras)
            kwargs["camera_heights"] = self.size
            kwargs["camera_widths"] = self.size
        if self.rendering == "full":
            # Stock Lift draws the cube's size at load: the seed gives every process the same one.
            kwargs["seed"] = _MODEL_SEED
        return {
            "env_name": ENVIRONMENTS[self.task][self.rendering],
            "env_version": robosuite.__version__,
            "type": ROBOMIMIC_ENV_TYPE,
            "env_kwargs": kwargs,
        }


def _controller_config() -> dict[str, Any]:
    """Return robosuite's own composite controller for the Panda: BASIC with OSC_POSE deltas."""
    with quiet_robosuite():
        config: dict[str, Any] = load_composite_controller_config(robot="Panda")
    return config


@contextmanager
def quiet_robosuite() -> Iterator[None]:
    """Silence robosuite's logger within the block."""
    level = ROBOSUITE_DEFAULT_LOGGER.level
    ROBOSUITE_DEFAULT_LOGGER.setLevel("CRITICAL")
    try:
        yield
    finally:
        ROBOSUITE_DEFAULT_LOGGER.setLevel(level)


@contextmanager
def bare_errors(refuse: Callable[[str], VaeExtError]) -> Iterator[None]:
    """Name what robosuite raises where it cannot make an environment: exceptions of any kind.

    Args:
        refuse: makes the error to raise instead, from the reason.
    """
    try:
        yield
    except VaeExtError:
        raise
    except Exception as error:
        raise refuse(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def build_env(env_args: dict[str, Any]) -> Any:
    """Build the robosuite environment that `env_args` describes, as robomimic would.

    Args:
        env_args: robomimic's environment metadata (see `EnvSpec.env_args`).

    Returns:
        A robosuite environment with the observables that robomimic activates.

    Raises:
        SimulationError: nothing can be rendered, or a camera does not exist.
    """
    kwargs = env_args["env_kwargs"]
    if kwargs.get("has_offscreen_renderer"):
        require_rendering()
    try:
        with quiet_robosuite():
            env = robosuite.make(env_args["env_name"], **kwargs)
    except ValueError as error:
        if "_image is invalid" not in str(error):
            raise
        # robosuite tries every sensor once; why this one failed, it only logs.
        raise SimulationError(
            f"{env_args['env_name']} lacks one of the cameras {', '.join(kwargs['camera_names'])} "
            f"({str(error.__context__ or error).rstrip('.')})",
            "cameras that the environment has",
            "Choose others with --cameras.",
        ) from error
    own_render_context(env)
    for name in env.observation_names:
        if "joint_pos" in name or "eef_vel" in name:
            env.modify_observable(observable_name=name, attribute="active", modifier=True)
    return env


def gives_goals(name: str) -> bool:
    """Whether a robosuite environment gives robomimic goals in rollouts; an unknown one may."""
    environment = REGISTERED_ENVS.get(name)
    return environment is None or hasattr(environment, "_get_goal")


def reseed(env: Any, seed: int) -> None:
    """Set the state of an environment's random generator.

    robosuite hands one `Generator` object to the placement samplers and the robots when the model
    is loaded: replacing `env.rng` would leave them with the old one, so its state is replaced.
    The same seed before `env.reset()` gives the same initial state.

    Args:
        env: a robosuite environment (unwrapped: for robomimic's `EnvRobosuite`, its `.env`).
        seed: any non-negative integer.
    """
    env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def read_observation(raw: dict[str, Any], env: Any) -> dict[str, np.ndarray]:
    """Return the observation that robomimic's `EnvRobosuite.get_observation` gives at rollout.

    Args:
        raw: what `env.reset()` or `env.step()` returned.
        env: the robosuite environment it came from.

    Returns:
        Images (H, W, 3) uint8 with the first row on top (MuJoCo's have the bottom row first),
        `object` (n,), and every `robot0_*` key but the concatenated proprio-state.
    """
    obs = {name: np.ascontiguousarray(raw[name][::-1]) for name in camera_keys(env)}
    obs["object"] = np.array(raw["object-state"])
    prefixes = tuple(robot.robot_model.naming_prefix for robot in env.robots)
    for name, value in raw.items():
        if name.startswith(prefixes) and name not in obs and not name.endswith("proprio-state"):
            obs[name] = np.array(value)
    return obs


def camera_keys(env: Any) -> list[str]:
    """Return the observation keys of an environment's images."""
    return [f"{name}_image" for name in env.camera_names] if env.use_camera_obs else []


def portable_model_xml(env: Any) -> str:
    """Return the model's XML with mesh paths that start at `robosuite/`.

    MuJoCo writes absolute paths, of this machine. robosuite's `edit_model_xml`, through which
    robomimic loads every `model_file`, looks for the last `robosuite` in a path and puts its own
    installation before it, so nothing else is needed.
    """
    root = ElementTree.fromstring(env.sim.model.get_xml())
    for element in root.iter():
        path = element.get("file")
        if path is not None and "/robosuite/" in path:
            element.set("file", "robosuite/" + path.rsplit("/robosuite/", 1)[1])
    return ElementTree.tostring(root, encoding="unicode")
