"""The contenders: complete, on the same batch, with the same encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robomimic_vae_ext.benchmark import bench_results, gradient_steps, peers, timing
from robomimic_vae_ext.lapo.cores import NatureCNNCore

CPU = torch.device("cpu")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.0)


def test_every_number_is_produced(setting: peers.Setting, short: None) -> None:
    found = gradient_steps.measure(setting, CPU, rounds=2)
    names = {*peers.OURS, *peers.PEERS}
    assert set(found["step"]) == {*names, bench_results.LIMIT}
    assert set(found["log"]) == set(found["parameters"]) == names
    for sample in (*found["step"].values(), *found["log"].values()):
        assert len(sample["seconds"]) == 2 and min(sample["seconds"]) > 0
    assert found["step"]["td3_bc"]["calls"] % 2 == 0
    ratios = bench_results.step_ratios(found)
    assert {f"steps_vs_{name}" for name in peers.PEERS} | {"step_over_limit"} == set(ratios)
    theirs, ours = (found["step"][name]["seconds"] for name in ("bcq", bench_results.OURS))
    expected = sum(a / b for a, b in zip(theirs, ours, strict=True)) / 2  # a median of two
    assert ratios["steps_vs_bcq"].value == pytest.approx(expected)


def cores(model: Any) -> list[int]:
    """Sizes of all convolutional cores of a model."""
    found = [m for m in model.nets.modules() if isinstance(m, NatureCNNCore)]
    return [sum(p.numel() for p in core.parameters()) for core in found]


def test_same_batch_and_same_encoder_for_all(setting: peers.Setting) -> None:
    line_up = [peers.make_peer(setting, name, CPU) for name in (*peers.OURS, *peers.PEERS)]
    sizes = {size for peer in line_up for size in cores(peer.model)}
    assert len(sizes) == 1
    counts = {peer.name: len(cores(peer.model)) for peer in line_up}
    assert counts["lapo_critic"] == 2 and counts["bc"] == 2  # one encoder of two cameras
    assert counts["bcq"] > counts["iql"] > 2
    for peer in line_up[1:]:
        for key, value in line_up[0].batch["obs"].items():
            other = peer.batch["obs"][key]
            assert torch.equal(value.flatten(), other.flatten()), (peer.name, key)
    for peer in line_up:
        peer.model.set_train()
        assert peer.model.device == CPU


def test_bcq_has_sampler_and_perturbation_actor(setting: peers.Setting) -> None:
    nets = peers.make_peer(setting, "bcq", CPU).model.nets
    assert {"action_sampler", "actor", "critic"} <= set(nets)
    assert "VAE" in type(nets["action_sampler"]).__name__


def test_the_limit_trains_nothing_and_leaves_gradients_in_the_encoder_alone(
    setting: peers.Setting,
) -> None:
    peer = peers.make_peer(setting, "lapo_critic", CPU)
    before = {name: value.clone() for name, value in peer.model.nets.state_dict().items()}
    peers.EncoderAlone(peer).step()
    for name, value in peer.model.nets.state_dict().items():
        assert torch.equal(value, before[name]), name
    graded = {n.split(".")[0] for n, p in peer.model.nets.named_parameters() if p.grad is not None}
    assert graded == {"obs_encoder"}
