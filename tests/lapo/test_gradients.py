"""Closed forms of what is done to gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robomimic_vae_ext.lapo.gradients import CombineGradients, combine_gradients

CRITIC = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # norm 5 over the batch


def vae_share(vae: torch.Tensor, scale: float, ratio: float | None, surgery: bool) -> torch.Tensor:
    return combine_gradients(CRITIC, vae, scale, ratio, surgery) - CRITIC


def test_without_options_it_is_the_scaled_sum() -> None:
    vae = torch.randn(2, 2)
    torch.testing.assert_close(vae_share(vae, 0.3, None, False), 0.3 * vae)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 2.0])
def test_the_norm_ratio_sets_the_length_and_keeps_the_direction(ratio: float) -> None:
    vae = 1e-3 * torch.randn(2, 2)
    share = vae_share(vae, 1.0, ratio, False)
    assert share.norm().item() == pytest.approx(5.0 * ratio, rel=1e-5)
    torch.testing.assert_close(share / share.norm(), vae / vae.norm())


@pytest.mark.parametrize("surgery", [False, True])
def test_zero_gradients_stay_zero(surgery: bool) -> None:
    zero = torch.zeros(2, 2)
    assert torch.equal(combine_gradients(CRITIC, zero, 1.0, 1.0, surgery), CRITIC)
    assert torch.equal(combine_gradients(zero, CRITIC, 1.0, 1.0, surgery), zero)
    assert torch.equal(combine_gradients(zero, CRITIC, 1.0, None, surgery), CRITIC)


def test_surgery_takes_out_what_opposes_and_nothing_else() -> None:
    across = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(vae_share(across - 0.5 * CRITIC, 1.0, None, True), across)
    for agreeing in (across, across + 0.5 * CRITIC):
        torch.testing.assert_close(vae_share(agreeing, 1.0, None, True), agreeing)


def test_surgery_is_over_the_batch_not_per_sample() -> None:
    # The first sample opposes, the second agrees more strongly: together they agree.
    vae = torch.tensor([[-1.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(vae_share(vae, 1.0, None, True), vae)


def test_surgery_comes_after_the_norm() -> None:
    nearly_opposite = -CRITIC + torch.tensor([[0.0, 0.1], [0.0, 0.0]])
    share = vae_share(nearly_opposite, 1.0, 1.0, True)
    assert (share * CRITIC).sum().abs() < 1e-4
    assert share.norm() < 0.2  # not blown up to 5


def test_both_readers_gradients_meet_and_walk_through_the_encoder_once() -> None:
    torch.manual_seed(0)
    encoder, x = nn.Linear(4, 3), torch.randn(5, 4)
    walks: list[torch.Tensor] = []
    features = encoder(x)
    features.register_hook(walks.append)
    critic, vae = CombineGradients.apply(features, 1.0, 0.5, True)
    assert torch.equal(critic, features) and torch.equal(vae, features)
    # The critic reads its features twice, as Q and V do.
    (critic.square().sum() + critic.sum() - 3.0 * vae.square().sum()).backward()
    known = features.detach()
    expected = combine_gradients(2.0 * known + 1.0, -6.0 * known, 1.0, 0.5, True)
    assert len(walks) == 1
    torch.testing.assert_close(walks[0], expected)
    torch.testing.assert_close(encoder.weight.grad, expected.T @ x)
