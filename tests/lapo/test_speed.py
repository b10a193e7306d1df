"""Fast paths against plain ones: the same training, the same checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from robomimic_vae_ext.lapo import speed
from robomimic_vae_ext.lapo.config import OWNERS

PLAIN = {"fused_optimizers": False, "channels_last": False, "bf16_encoder": "off"}
FAST = {"fused_optimizers": True, "channels_last": True, "bf16_encoder": "on"}
LOSSES = ("critic/loss", "vae/loss", "actor/loss")
STEPS = 50
# Of the range of the plain loss curve. Float noise, and what rounding to 8 bits does.
FLOAT_TOLERANCE, BF16_TOLERANCE = 1e-4, 0.02


def switches(**values: Any) -> dict[str, Any]:
    return {"algo": {"speed": {**PLAIN, **values}}}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest distance of two curves, over the range of the expected one."""
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def curves(model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    infos = [model.train_on_batch(batch, epoch=1) for _ in range(STEPS)]
    return {name: torch.stack([info[name] for info in infos]) for name in LOSSES}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ({"fused_optimizers": True}, FLOAT_TOLERANCE),
        ({"channels_last": True}, FLOAT_TOLERANCE),
        ({"bf16_encoder": "on"}, BF16_TOLERANCE),
        (FAST, BF16_TOLERANCE),
    ],
    ids=["fused_optimizers", "channels_last", "bf16_encoder", "all"],
)
def test_fifty_steps_are_those_of_the_plain_path(
    make_model: Callable[..., Any],
    make_batch: Callable[..., Any],
    owner: str,
    values: dict[str, Any],
    tolerance: float,
) -> None:
    plain, fast = make_model(switches(), owner=owner), make_model(switches(**values), owner=owner)
    batch = make_batch(plain)
    expected, found = curves(plain, batch), curves(fast, batch)
    for name, curve in expected.items():
        assert distance(found[name], curve) < tolerance, name


def first_conv(model: Any) -> nn.Conv2d:
    return next(m for m in model.obs_encoder.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("values", [PLAIN, FAST], ids=["plain", "fast"])
def test_each_switch_reaches_what_it_is_for(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], values: dict[str, Any]
) -> None:
    model = make_model(switches(**values))
    batch = make_batch(model)
    fast = values is FAST
    seen: list[tuple[torch.dtype, bool]] = []

    def spy(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        channels_last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((output.dtype, channels_last))

    first_conv(model).register_forward_hook(spy)
    model.train_on_batch(batch, epoch=1)
    in_training = torch.bfloat16 if fast else torch.float32
    assert seen == 2 * [(in_training, fast)]
    assert model.encode(batch["obs"]).dtype == torch.float32
    for optimizer in model.optimizers.values():
        assert all(bool(group["fused"]) == fast for group in optimizer.param_groups)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.nets.parameters())
    # Rollouts are in float32 whatever the machine, and so is validation.
    model.set_eval()
    model.get_action({key: value[:, 0] for key, value in batch["obs"].items()})
    assert seen[-1] == (torch.float32, fast)


@pytest.mark.parametrize(("before", "after"), [(PLAIN, FAST), (FAST, PLAIN)])
def test_checkpoints_go_from_one_path_to_the_other(
    make_model: Callable[..., Any],
    make_batch: Callable[..., Any],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    """Going on in the other path is going on: weights and optimizer states mean the same."""
    model, other = make_model(switches(**before)), make_model(switches(**after), seed=1)
    batch = make_batch(model)
    for _ in range(5):
        model.train_on_batch(batch, epoch=1)
    other.deserialize(deepcopy(model.serialize()), load_optimizers=True)
    assert {key: value.shape for key, value in model.nets.state_dict().items()} == {
        key: value.shape for key, value in other.nets.state_dict().items()
    }
    expected, found = curves(model, batch), curves(other, batch)
    for name, curve in expected.items():
        assert distance(found[name], curve) < BF16_TOLERANCE, name
    for optimizer in other.optimizers.values():
        fused = after["fused_optimizers"]
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)


def test_bf16_auto_is_for_cpus_with_matrix_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for amx in (True, False):
        monkeypatch.setattr(speed, "has_amx", lambda amx=amx: amx)
        assert speed.wants_bf16("auto", cpu) is amx
        assert not speed.wants_bf16("auto", gpu)
        assert speed.wants_bf16("on", cpu) and not speed.wants_bf16("off", cpu)


def test_runs_from_before_the_switches_go_on_in_float32(make_config: Callable[..., Any]) -> None:
    from robomimic.config import config_factory

    older = json.loads(make_config().dump())
    del older["algo"]["speed"]
    assert config_factory("lapo", dic=older).algo.speed.bf16_encoder == "off"
    assert make_config().algo.speed.bf16_encoder == "auto"


def test_bf16_leaves_vectors_exact(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    """A position in bfloat16 would be off by millimetres."""
    model = make_model(switches(**FAST))
    batch = make_batch(model)
    features = model.encode(batch["obs"])
    for key in ("robot0_eef_pos", "robot0_gripper_qpos"):
        value = batch["obs"][key][:, 0]  # (B, N)
        windows = features.unfold(1, value.shape[1], 1)  # (B, D - N + 1, N)
        assert (windows == value[:, None]).all(dim=(0, 2)).any(), key
