"""One training step and one action against a reference in plain torch, and mutants of both.

The reference shares the layers with the algorithm and nothing else: neither losses.py nor the
methods of heads.py nor the optimizers' set-up. Every mutant is a one-line mistake that trains on
without an error; each must be noticed by one of the two comparisons.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from robomimic_vae_ext.lapo import heads, losses, owners
from robomimic_vae_ext.lapo.algo import LAPO

# Everything that a mistake could hide behind: noise on, bounds that bind, a mixed minimum, a prior.
SETTINGS: dict[str, Any] = {
    "algo": {
        "discount": 0.9,
        "critic": {"doubleq_min": 0.7, "value_bounds": [-0.1, 0.1]},
        "vae": {"expectile": 0.8, "kl_beta": 0.3},
        "actor": {"target_noise": 0.5, "target_noise_clip": 0.4, "prior_weight": 0.2},
        "target_tau": 0.3,
        "speed": {"bf16_encoder": "off"},
        "audit": {"every_n_steps": 0},
    }
}


def reference_step(nets: Any, batch: dict[str, Any], config: Any, owner: str) -> None:
    """One LAPO step on these networks, in place; random numbers in the algorithm's order."""
    critic, vae, actor = nets["critic"], nets["actor_vae"], nets["actor"]
    m, limit = config.critic.doubleq_min, config.actor.max_latent_action
    r, d, a = batch["rewards"], batch["discounts"], batch["actions"]
    encoder = list(nets["obs_encoder"].parameters())
    parameters = {name: list(nets[name].parameters()) for name in ("critic", "actor_vae", "actor")}
    if owner != "frozen":
        parameters["actor_vae" if owner == "vae" else "critic"] += encoder
    adam = {name: torch.optim.Adam(group, lr=3e-4) for name, group in parameters.items()}

    def q_of(net: Any, f: Tensor, action: Tensor) -> list[Tensor]:
        x = torch.cat([net.q_trunk(f), action], -1)
        return [net.q1(x)[:, 0], net.q2(x)[:, 0]]

    def z_of(net: Any, f: Tensor) -> Tensor:
        return limit * torch.tanh(net.mlp(net.trunk(f)))

    def decode(net: Any, f: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(net.decoder(torch.cat([net.trunk(f), z], -1)))

    def slow_value(f: Tensor, noise: bool) -> Tensor:
        z = z_of(nets["actor_target"], f)
        if noise:
            clip = config.actor.target_noise_clip
            epsilon = (config.actor.target_noise * torch.randn_like(z)).clamp(-clip, clip)
            z = (z + limit * epsilon).clamp(-limit, limit)
        q = q_of(nets["critic_target"], f, decode(nets["actor_vae_target"], f, z))
        return m * torch.minimum(*q) + (1 - m) * torch.maximum(*q)

    f = nets["obs_encoder"](batch["obs"])
    with torch.no_grad():
        g = nets["obs_encoder"](batch["next_obs"])
        y_q = r + d * critic.v(critic.v_trunk(g))[:, 0]
        advantage = r + d * slow_value(g, noise=False) - critic.v(critic.v_trunk(f))[:, 0]
        y_v = slow_value(f, noise=True).clamp(*config.critic.value_bounds)
        w = torch.where(advantage > 0, config.vae.expectile, 1 - config.vae.expectile)
    q1, q2 = q_of(critic, f, a)
    v = critic.v(critic.v_trunk(f))[:, 0]
    critic_loss = ((q1 - y_q) ** 2).mean() + ((q2 - y_q) ** 2).mean() + ((v - y_v) ** 2).mean()
    seen = f if owner in ("joint", "vae") else f.detach()  # by the CVAE
    mean, log_std = vae.posterior(torch.cat([vae.trunk(seen), a], -1)).chunk(2, -1)
    z = mean + log_std.clamp(-4, 4).exp() * torch.randn_like(mean)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    error = ((a - decode(vae, seen, z)) ** 2).sum(-1)
    vae_loss = (w * (error + config.vae.kl_beta * kl)).mean()
    encoder_loss = {"critic": critic_loss, "joint": critic_loss + vae_loss, "vae": vae_loss}
    for module, loss in (("critic", critic_loss), ("actor_vae", vae_loss)):
        own = list(nets[module].parameters())
        for p, grad in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
            p.grad = grad
    if owner != "frozen":
        grads = torch.autograd.grad(encoder_loss[owner], encoder)
        for p, grad in zip(encoder, grads, strict=True):
            p.grad = grad
    adam["critic"].step()
    adam["actor_vae"].step()
    f = f.detach()
    z = z_of(actor, f)
    q = q_of(critic, f, decode(nets["actor_vae_target"], f, z))[0]
    prior = 0.5 * (z**2).sum(-1).mean()
    loss = config.actor.prior_weight * prior - q.mean() / q.detach().abs().mean()
    own = parameters["actor"]
    for p, grad in zip(own, torch.autograd.grad(loss, own), strict=True):
        p.grad = grad
    adam["actor"].step()
    with torch.no_grad():
        for target, source in owners.TARGET_OF.items():
            for slow, p in zip(nets[target].parameters(), nets[source].parameters(), strict=True):
                slow += config.target_tau * (p - slow)


Make = Callable[..., Any]


def compare_step(make_model: Make, make_batch: Make, owner: str) -> None:
    """Raise unless the algorithm's step moves every parameter as the reference does."""
    model = make_model(SETTINGS, owner=owner)
    batch = make_batch(model, size=32)
    # Copies that have gone apart, so that it shows which of two networks was read; and values on
    # both sides of the bounds.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in owners.TARGET_OF:
            for parameter in model.nets[name].parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    nets = deepcopy(model.nets)
    torch.manual_seed(3)
    model.train_on_batch(batch, epoch=1)
    torch.manual_seed(3)
    reference_step(nets, batch, model.algo_config, owner)
    expected = dict(nets.named_parameters())
    for name, parameter in model.nets.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def compare_action(make_model: Make) -> None:
    """Raise unless actions are the decode of the actor's z by the online networks."""
    model = make_model(SETTINGS)
    with torch.no_grad():
        for name in owners.TARGET_OF:
            for parameter in model.nets[name].parameters():
                parameter += 0.1
    model.set_eval()
    obs = {key: torch.rand(3, *shape) for key, shape in model.obs_shapes.items()}
    nets = model.nets
    with torch.no_grad():
        f = nets["obs_encoder"]({key: value[:, None] for key, value in obs.items()})
        z = torch.tanh(nets["actor"].mlp(nets["actor"].trunk(f)))
        x = torch.cat([nets["actor_vae"].trunk(f), z], -1)
        expected = torch.tanh(nets["actor_vae"].decoder(x))
    torch.testing.assert_close(model.get_action(obs), expected)


@pytest.mark.parametrize("owner", owners.OWNERS)
def test_a_training_step_is_the_reference(make_model: Make, make_batch: Make, owner: str) -> None:
    compare_step(make_model, make_batch, owner)


def test_an_action_is_the_reference(make_model: Make) -> None:
    compare_action(make_model)


#: What is wrong; class or module, function, its right text, and the mistake in its place.
MUTANTS: dict[str, tuple[Any, str, str, str]] = {
    "target noise on the advantage": (LAPO, "_targets", "noise=False", "noise=True"),
    "no target noise": (LAPO, "_targets", "noise=True", "noise=False"),
    "clamped bootstrap in the advantage": (
        LAPO, "_targets", "batch[\"discounts\"] * value_of_next_policy",
        "batch[\"discounts\"] * value_of_next_policy.clamp(*config.critic.value_bounds)",
    ),
    "no bounds": (LAPO, "_targets", "target_v.clamp(*config.critic.value_bounds)", "target_v"),
    "slow V's place taken by the policy's value": (
        LAPO, "_targets", "* next_value", "* value_of_next_policy",
    ),
    "features of the next step in V's target": (
        LAPO, "_targets", "self._policy_value(features, noise=True)",
        "self._policy_value(next_features, noise=True)",
    ),
    "actor on the slow Q": (
        LAPO, "_update_actor", 'self.nets["critic"].q1_value',
        'self.nets["critic_target"].q1_value',
    ),
    "actor through the online decoder": (
        LAPO, "_update_actor", 'self.nets["actor_vae_target"]', 'self.nets["actor_vae"]',
    ),
    "online actor in the target": (
        LAPO, "_policy_value", 'self.nets["actor_target"]', 'self.nets["actor"]',
    ),
    "online decoder in the target": (
        LAPO, "_policy_value", 'self.nets["actor_vae_target"]', 'self.nets["actor_vae"]',
    ),
    "online Q in the target": (
        LAPO, "_policy_value", 'self.nets["critic_target"]', 'self.nets["critic"]',
    ),
    "noise without the latent's bound": (
        LAPO, "_policy_value", "limit * epsilon).clamp(-limit, limit)", "limit * epsilon)",
    ),
    "slow copies twice": (
        LAPO, "_update_targets", "self.algo_config.target_tau", "2 * self.algo_config.target_tau",
    ),
    "attached features in the CVAE": (
        owners.Owner, "features_for_vae", "return features.detach()", "return features",
    ),
    "prior weight not normalised": (
        losses, "actor_loss", "q.mean() / q.detach().abs().mean().clamp(min=1e-6)", "q.mean()",
    ),
    "maximum for minimum": (losses, "mix_min_max", "q.amin(dim=0)", "q.amax(dim=0)"),
    "one Q in the loss": (losses, "critic_loss", ".mean(dim=1).sum()", ".mean(dim=1)[0]"),
    "weights of the other sign": (losses, "expectile_weights", "> 0", "< 0"),
    "KL without its weight": (losses, "vae_loss", "kl_beta * kl", "kl"),
    "KL outside the weights": (
        losses, "vae_loss", "(weights.detach() * (error + kl_beta * kl)).mean()",
        "(weights.detach() * error + kl_beta * kl).mean()",
    ),
    "mean in place of a sample": (
        heads.ActorVAE, "forward", "mean + log_std.exp() * torch.randn_like(mean)", "mean",
    ),
    "the slow decoder in rollouts": (
        LAPO, "get_action", 'config.decoder == "online"', 'config.decoder != "online"',
    ),
    "the slow actor in rollouts": (
        LAPO, "get_action", 'self.nets["actor"]', 'self.nets["actor_target"]',
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MUTANTS)
def test_every_mutant_is_noticed(
    make_model: Make, make_batch: Make, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    owner, name, right, wrong = MUTANTS[mistake]
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, "the mutant no longer fits the code"
    namespace = dict(function.__globals__)
    # Annotations stay text, as `from __future__ import annotations` leaves them in the module.
    exec("from __future__ import annotations\n" + source.replace(right, wrong), namespace)
    monkeypatch.setattr(owner, name, namespace[name])
    # autograd itself refuses a second walk through a graph that is gone.
    with pytest.raises((AssertionError, RuntimeError)):
        compare_action(make_model)
        compare_step(make_model, make_batch, "critic")
