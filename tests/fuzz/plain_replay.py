"""What the replay is to serve, computed plainly from a file, one transition at a time."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from hypothesis import strategies as st

from robomimic_vae_ext.lapo.batches import Horizon
from tests.conftest import data_entry

KEYS = {"robot0_eef_pos": (3,), "robot0_gripper_qpos": (2,), "agentview_image": (4, 5, 3)}
ENV_ARGS = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'


@dataclass(frozen=True)
class Example:
    """A file, and what is asked of it.

    Args:
        seed: of its numbers.
        lengths: transitions of each demonstration.
        names: numbers of the demonstrations.
        dtypes: of the vectors, the actions, the rewards and the dones.
        storage: how arrays are stored: options of h5py.
        surplus: columns with a row after the last transition.
        apart: whether next observations are recorded apart.
        dones: share of steps that end an episode.
        members: how many demonstrations the mask has.
        in_order: whether the mask names them in their order.
        frame_stack: F.
        horizon: n-step and what auxiliary losses ask for.
        goals: whether batches have goals.
        disk: whether pictures are in files.
    """

    seed: int
    lengths: tuple[int, ...]
    names: tuple[int, ...]
    dtypes: tuple[str, str, str, str]
    storage: dict[str, Any]
    surplus: frozenset[str]
    apart: bool
    dones: float
    members: int
    in_order: bool
    frame_stack: int
    horizon: Horizon
    goals: bool
    disk: bool


@st.composite
def examples(draw: Any) -> Example:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    names = draw(
        st.lists(st.integers(0, 120), min_size=len(lengths), max_size=len(lengths), unique=True)
    )
    n_step = draw(st.integers(1, 4))
    storage = draw(
        st.sampled_from(
            [{}, {"chunks": True}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"},
             {"chunks": True, "maxshape": None}, {"fletcher32": True}]
        )
    )  # fmt: skip
    dtypes = (
        draw(st.sampled_from(["f8", "f4", "f2", "i4", "u1"])),
        draw(st.sampled_from(["f8", "f4", "f2", ">f4"])),
        draw(st.sampled_from(["f8", "f4", "i8", "u1", "?"])),
        draw(st.sampled_from(["i8", "f4", "?", "u1"])),
    )
    columns = ["actions", "rewards", "dones", "obs", "next_obs", "states"]
    return Example(
        seed=draw(st.integers(0, 2**31)),
        lengths=tuple(lengths),
        names=tuple(names),
        dtypes=dtypes,
        storage=storage,
        surplus=frozenset(draw(st.sets(st.sampled_from(columns)))),
        apart=draw(st.booleans()),
        dones=draw(st.sampled_from([0.0, 0.3, 1.0])),
        members=draw(st.integers(1, len(lengths))),
        in_order=draw(st.booleans()),
        frame_stack=draw(st.integers(1, 3)),
        horizon=Horizon(
            n_step,
            draw(st.sampled_from([0.99, 0.5, 1.0, 0.0])),
            draw(st.none() | st.integers(1, n_step)),
            draw(st.booleans()),
        ),
        goals=draw(st.booleans()),
        disk=draw(st.booleans()),
    )


def write(path: Path, example: Example) -> dict[str, dict[str, Any]]:
    """Write the file; return what each demonstration of the mask holds, by name."""
    rng = np.random.default_rng(example.seed)
    vectors, actions, rewards, dones = example.dtypes
    demos: dict[str, dict[str, Any]] = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"], data.attrs["total"] = ENV_ARGS, sum(example.lengths)
        for number, length in zip(example.names, example.lengths, strict=True):
            demo: dict[str, Any] = {
                "actions": rng.uniform(-1, 1, (length, 2)).astype(actions),
                "rewards": rng.integers(0, 3, length).astype(rewards),
                "dones": (rng.random(length) < example.dones).astype(dones),
                "states": rng.normal(size=(length, 4)),
            }
            for key, shape in KEYS.items():
                kind = "u1" if len(shape) == 3 else vectors
                frames = rng.integers(0, 99, (length + 1, *shape)).astype(kind)
                demo[f"obs/{key}"] = frames[:-1]
                noise = rng.integers(0, 99, (length, *shape)).astype(kind)
                demo[f"next_obs/{key}"] = noise if example.apart else frames[1:]
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = length
            for name, values in demo.items():
                stored = values
                if name.partition("/")[0] in example.surplus:
                    stored = np.concatenate([values, np.ones_like(values[:1])])
                options = dict(example.storage)
                if "maxshape" in options:
                    options["maxshape"] = (None, *stored.shape[1:])
                group.create_dataset(name, data=stored, **options)
            demos[f"demo_{number}"] = demo
        chosen = list(demos)[: example.members]
        ordered = sorted(chosen, key=lambda name: int(name.removeprefix("demo_")))
        members = ordered if example.in_order else ordered[::-1]
        file["mask/train"] = np.array(members, dtype="S8")
    return {name: demos[name] for name in ordered}


def stacked(demo: dict[str, Any], key: str, step: int, count: int) -> np.ndarray:
    """Frames up to an observation, the first one repeated: (F, ...)."""
    obs = demo[f"obs/{key}"]
    return np.stack([obs[max(0, step - back)] for back in range(count - 1, -1, -1)])


def stacked_after(demo: dict[str, Any], key: str, step: int, count: int) -> np.ndarray:
    """Frames up to a next observation: the observations before it, then itself."""
    newest = demo[f"next_obs/{key}"][step]
    earlier = [demo[f"obs/{key}"][max(0, step + 1 - back)] for back in range(count - 1, 0, -1)]
    return np.stack([*earlier, newest])


def plain(demos: dict[str, dict[str, Any]], example: Example) -> list[dict[str, Any]]:
    """What the replay is to serve, in the order of its transitions."""
    made = []
    horizon, count = example.horizon, example.frame_stack
    for demo in demos.values():
        length = len(demo["actions"])
        for step in range(length):
            total, last, discount = 0.0, 0, 1.0
            for ahead in range(horizon.n_step):
                if step + ahead >= length:
                    break
                last = ahead
                total += horizon.discount**ahead * float(demo["rewards"][step + ahead])
                discount = horizon.discount ** (ahead + 1)
                if demo["dones"][step + ahead]:
                    discount = 0.0
                    break
            item: dict[str, Any] = {
                "actions": demo["actions"][step], "rewards": total, "discounts": discount,
            }  # fmt: skip
            for key in KEYS:
                item[f"obs/{key}"] = stacked(demo, key, step, count)
                item[f"next_obs/{key}"] = stacked_after(demo, key, step + last, count)
                if example.goals:
                    item[f"goal_obs/{key}"] = demo[f"next_obs/{key}"][-1]
                if horizon.later_steps is not None:
                    at = step + min(last, horizon.later_steps - 1)
                    item[f"later/obs/{key}"] = stacked_after(demo, key, at, count)
            if horizon.action_window:
                steps = [step + min(ahead, last) for ahead in range(horizon.n_step)]
                item["action_window"] = demo["actions"][steps]
                item["action_valid"] = np.arange(horizon.n_step) <= last
            made.append(item)
    return made


def configure(config: Any, path: Path, example: Example) -> None:
    """Let a LAPO config ask for the example."""
    horizon = example.horizon
    with config.unlocked():
        config.train.data = data_entry(path)
        config.train.frame_stack, config.train.seq_length = example.frame_stack, horizon.n_step
        config.train.batch_size, config.train.goal_mode = 1, "last" if example.goals else None
        config.algo.n_step, config.algo.discount = horizon.n_step, horizon.discount
        config.algo.critic.value_bounds = None
        config.algo.replay.storage = "disk" if example.disk else "memory"
        auxiliary = config.algo.encoder.auxiliary
        auxiliary.inverse = float(horizon.later_steps is not None)
        auxiliary.inverse_steps = horizon.later_steps
        auxiliary.dynamics = float(horizon.action_window)


def check(config: Any, example: Example) -> int:
    """Compare the replay with the plain computation; return the number of transitions."""
    import robomimic.utils.train_utils as train_utils

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hdf5"
        demos = write(path, example)
        configure(config, path, example)
        replay = train_utils.dataset_factory(config, list(KEYS), filter_by_attribute="train")
        expected = plain(demos, example)
        assert len(replay) == len(expected)
        batch = flatten(replay.gather(torch.arange(len(replay))))
        if example.horizon.later_steps == example.horizon.n_step:
            # Those are the next observations, which the batch has already.
            batch |= {
                k.replace("next_obs", "later/obs"): v for k, v in batch.items() if "next" in k
            }
        for index, item in enumerate(expected):
            assert batch.keys() == item.keys()
            for name, value in item.items():
                found = batch[name][index].numpy()
                if name in ("rewards", "discounts"):
                    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6, err_msg=name)
                elif name.startswith("action") and name != "action_valid":
                    np.testing.assert_array_equal(found, value.astype("f4"), err_msg=name)
                else:
                    np.testing.assert_array_equal(found, value, err_msg=name)
                    assert "obs" not in name or found.dtype == value.dtype
        return len(expected)


def flatten(batch: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Levels of a batch joined by slashes."""
    flat: dict[str, Any] = {}
    for key, value in batch.items():
        flat |= (
            flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
