"""Policy extraction: which latent is played, in rollouts and in the target of V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robomimic_vae_ext import overrides
from robomimic_vae_ext.lapo.config import EXTRACTIONS
from robomimic_vae_ext.rollout import stored_policy
from tests.conftest import REPOSITORY

Make = Callable[..., Any]


def make(make_model: Make, **actor: Any) -> Any:
    model = make_model({"algo": {"actor": {"layer_dims": [16]} | actor}})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # slow copies that differ, and latents that matter
        for parameter in model.nets.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.set_eval()
    return model


def rollout_obs(model: Any, n: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(n, *s, generator=generator) for key, s in model.obs_shapes.items()}


@torch.no_grad()
def by_hand(model: Any, obs: dict[str, torch.Tensor], with_actor: bool) -> torch.Tensor:
    """The best action one candidate after the other, a row at a time."""
    features = model.features_of(obs)
    actions = []
    for row in features:
        f = row[None]
        latents = [z[None] for z in model._prior_draws]
        if with_actor:
            latents.insert(0, model.nets["actor"](f))
        decoded = [model.actor_vae.decode(f, z) for z in latents]
        q = [model.nets["critic"].q_values(f, action).min() for action in decoded]
        actions.append(decoded[int(torch.stack(q).argmax())])
    return torch.cat(actions)


@pytest.mark.parametrize("with_actor", [False, True])
def test_the_best_of_n_is_the_one_found_by_hand(make_model: Make, with_actor: bool) -> None:
    rule = "actor_in_best_of_n" if with_actor else "best_of_n"
    model = make(make_model, extraction=rule, samples=7)
    obs = rollout_obs(model)
    found = model.get_action(obs)
    torch.testing.assert_close(found, by_hand(model, obs, with_actor))
    assert torch.equal(found, model.get_action(obs))  # nothing is drawn anew


def test_more_candidates_have_no_smaller_q(make_model: Make) -> None:
    models = [
        make(make_model, extraction=rule, samples=7) for rule in ("actor", "actor_in_best_of_n")
    ]
    obs = rollout_obs(models[0])
    q = [model.get_state_action_value(obs, model.get_action(obs)) for model in models]
    assert (q[1] >= q[0]).all() and (q[1] > q[0]).any()


@pytest.mark.parametrize("rule", EXTRACTIONS)
def test_an_action_costs_one_encoding(make_model: Make, rule: str) -> None:
    model = make(make_model, extraction=rule)
    calls = []
    model.obs_encoder.register_forward_hook(lambda *_: calls.append(1))
    assert model.get_action(rollout_obs(model)).shape == (4, 7)
    assert len(calls) == 1


def test_the_slow_decoder_plays_where_it_is_asked_for(make_model: Make) -> None:
    model = make(make_model, decoder="slow")
    obs = rollout_obs(model)
    with torch.no_grad():
        f = model.features_of(obs)
        expected = model.nets["actor_vae_target"].decode(f, model.nets["actor"](f))
    assert torch.equal(model.get_action(obs), expected)
    assert not torch.equal(make(make_model).get_action(obs), expected)


@pytest.mark.parametrize("rule", EXTRACTIONS)
def test_the_target_of_v_follows_its_own_rule(
    make_model: Make, make_batch: Make, rule: str
) -> None:
    bounds = {"critic": {"layer_dims": [16], "value_bounds": None}}
    actor = {"layer_dims": [16], "target_extraction": rule, "target_noise": 0.0, "samples": 5}
    model = make_model({"algo": {"actor": actor} | bounds})
    model.set_eval()
    batch = make_batch(model)
    nets = model.nets
    with torch.no_grad():
        f = model.encode(batch["obs"])
        targets = model._targets(batch, f, f, nets["critic"].value(f))
        actor_z = nets["actor_target"](f)

        def value(z: torch.Tensor) -> torch.Tensor:
            action = nets["actor_vae_target"].decode(f, z)
            return nets["critic_target"].q_values(f, action).amin(dim=0)

        draws = [value(z.expand(len(f), -1)) for z in model._prior_draws]
        expected = {
            "actor": value(actor_z),
            "zero": value(torch.zeros_like(actor_z)),
            "best_of_n": torch.stack(draws).amax(dim=0),
            "actor_in_best_of_n": torch.stack([value(actor_z), *draws]).amax(dim=0),
        }
    torch.testing.assert_close(targets.v, expected[rule])


@pytest.mark.parametrize("rule", EXTRACTIONS)
def test_an_old_checkpoint_plays_with_any_rule(rule: str) -> None:
    path = REPOSITORY / "tests" / "files" / "lapo_at_49d96ed.pth"
    checkpoint = overrides.apply(
        stored_policy.load_checkpoint(path), {"algo.actor.extraction": rule}
    )
    algo = stored_policy.load_policy(checkpoint, "cpu").policy
    assert algo.algo_config.actor.extraction == rule
    assert algo.get_action(rollout_obs(algo)).shape == (4, 7)
