"""Closed forms of the losses."""

from __future__ import annotations

import pytest
import torch

from robomimic_vae_ext.lapo import losses


def window(rewards: list[float], dones: list[float], padded: list[bool], discount: float = 0.5):
    return losses.n_step_return(
        torch.tensor([rewards]), torch.tensor([dones]), torch.tensor([padded]), discount
    )


def test_n_step_sums_discounted_rewards() -> None:
    result = window([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [False, False, False])
    assert result.rewards.item() == 1.0 + 0.5 * 2.0 + 0.25 * 4.0
    assert result.discounts.item() == 0.5**3
    assert result.last.item() == 2


def test_n_step_stops_at_the_first_done_and_pays_it() -> None:
    result = window([1.0, 2.0, 4.0], [0.0, 1.0, 0.0], [False, False, False])
    assert result.rewards.item() == 2.0
    assert result.discounts.item() == 0.0
    assert result.last.item() == 1


def test_n_step_does_not_pay_a_padded_terminal_reward_again() -> None:
    result = window([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [False, True, True])
    assert result.rewards.item() == 1.0
    assert result.discounts.item() == 0.0


def test_n_step_of_a_padded_time_out_bootstraps_with_the_real_length() -> None:
    result = window([0.0, 3.0, 3.0], [0.0, 0.0, 0.0], [False, False, True])
    assert result.rewards.item() == 1.5
    assert result.discounts.item() == 0.25
    assert result.last.item() == 1


def test_done_makes_the_target_the_reward() -> None:
    result = window([0.7], [1.0], [False])
    target = result.rewards + result.discounts * 1e6
    assert target.item() == pytest.approx(0.7)


@pytest.mark.parametrize(("m", "expected"), [(1.0, 1.0), (0.0, 3.0), (0.75, 1.5)])
def test_mix_min_max(m: float, expected: float) -> None:
    assert losses.mix_min_max(torch.tensor([[3.0], [1.0]]), m).item() == expected


def test_kl_is_zero_at_the_prior_and_has_the_closed_form_elsewhere() -> None:
    assert losses.gaussian_kl(torch.zeros(2, 5), torch.zeros(2, 5)).abs().max() == 0
    mean, log_std = torch.randn(4, 3), torch.randn(4, 3)
    posterior = torch.distributions.Normal(mean, log_std.exp())
    prior = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(losses.gaussian_kl(mean, log_std), expected)


def test_weights_are_only_expectile_or_its_complement() -> None:
    weights = losses.expectile_weights(torch.tensor([-2.0, 0.0, 1e-6, 5.0]), 0.9)
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.1, 0.9, 0.9]))


def test_critic_loss_is_the_sum_of_three_squared_errors() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    loss, info = losses.critic_loss(
        q, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0])
    )
    assert loss.item() == pytest.approx(0.5 + (4 + 9) / 2 + 1.0)
    assert info["critic/v_loss"].item() == pytest.approx(1.0)


def test_critic_targets_get_no_gradient() -> None:
    target_q = torch.ones(2, requires_grad=True)
    q = torch.zeros(2, 2, requires_grad=True)
    loss, _ = losses.critic_loss(q, q[0], target_q, target_q)
    loss.backward()
    assert target_q.grad is None
    assert q.grad is not None


def test_vae_loss_weights_each_sample() -> None:
    actions = torch.tensor([[1.0], [1.0]])
    loss, _ = losses.vae_loss(
        actions,
        torch.tensor([[0.0], [1.0]]),
        torch.tensor([[0.0], [1.0]]),
        torch.zeros(2, 1),
        torch.tensor([0.9, 0.1]),
        kl_beta=2.0,
    )
    assert loss.item() == pytest.approx((0.9 * 1.0 + 0.1 * 2.0 * 0.5) / 2)


def test_losses_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    a, t = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)

    def vae(reconstruction: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor):
        return losses.vae_loss(a, reconstruction, mean, log_std, t, 0.3)[0]

    inputs = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(vae, inputs)

    def critic(q: torch.Tensor, v: torch.Tensor):
        return losses.critic_loss(q, v, t, 2 * t)[0]

    q = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(critic, (q, v))


def logits_of(histogram: torch.Tensor) -> torch.Tensor:
    return histogram.clamp(min=1e-30).log()


@pytest.mark.parametrize("sigma", [0.6, 0.75, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-20.0, 5.0)])
def test_the_mean_of_a_values_histogram_is_the_value(low: float, high: float, sigma: float) -> None:
    bins = losses.Bins(low, high, 51, sigma)
    values = torch.linspace(low, high, 301)  # both bounds among them
    histogram = bins.histogram(values)
    torch.testing.assert_close(histogram.sum(dim=-1), torch.ones(301))
    error = (bins.expectation(logits_of(histogram)) - values).abs().max().item()
    assert error < 1e-3 * bins.width


def test_bins_cover_the_bounds_and_their_padding() -> None:
    bins = losses.Bins(0.0, 1.0, 51, 0.75)
    edges = bins.edges(torch.zeros(1))
    assert len(edges) == 52
    assert bins.width == pytest.approx(1 / 45)  # three bins of padding on either side
    torch.testing.assert_close(edges[[3, 48]], torch.tensor([0.0, 1.0]))


def test_a_histogram_is_the_mass_of_a_gaussian_between_edges() -> None:
    bins = losses.Bins(0.0, 1.0, 20, 1.0)
    value = torch.tensor(0.4)
    found = bins.histogram(value)
    normal = torch.distributions.Normal(value, bins.width)
    mass = normal.cdf(bins.edges(value)).diff()
    torch.testing.assert_close(found, mass / mass.sum())
    assert found.argmax() == int((0.4 - bins.edges(value)[0]) / bins.width)


def test_values_beyond_the_bounds_are_moved_to_them() -> None:
    bins = losses.Bins(0.0, 1.0, 51, 0.75)
    found = bins.histogram(torch.tensor([-3.0, 7.0]))
    assert torch.equal(found, bins.histogram(torch.tensor([0.0, 1.0])))


def test_the_gradient_of_cross_entropy_is_softmax_minus_target() -> None:
    bins = losses.Bins(0.0, 1.0, 21, 0.75)
    q = torch.randn(2, 3, 21, requires_grad=True)
    v = torch.randn(3, 21, requires_grad=True)
    target_q, target_v = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    loss, info = losses.categorical_critic_loss(q, v, target_q, target_v, bins)
    loss.backward()
    torch.testing.assert_close(q.grad, (q.softmax(-1) - bins.histogram(target_q)) / 3)
    torch.testing.assert_close(v.grad, (v.softmax(-1) - bins.histogram(target_v)) / 3)
    assert target_q.grad is None and target_v.grad is None
    torch.testing.assert_close(info["critic/q_mean"], bins.expectation(q.detach()).mean())


def test_cross_entropy_is_least_at_the_target_where_it_is_the_entropy() -> None:
    bins = losses.Bins(0.0, 1.0, 21, 0.75)
    target = bins.histogram(torch.tensor([0.3]))
    entropy = -torch.special.xlogy(target, target).sum()
    best = losses.cross_entropy(logits_of(target), target)
    torch.testing.assert_close(best, entropy[None])
    worse = losses.cross_entropy(logits_of(target) + 0.1 * torch.randn(1, 21), target)
    assert worse > best
