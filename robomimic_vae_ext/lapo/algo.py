"""LAPO as a robomimic algorithm: one shared encoder, its owner a setting.

The order of one gradient step stands in `LAPO.train_on_batch`; the equations in losses.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import robomimic.utils.torch_utils as torch_utils
import torch
from torch import Tensor

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.errors import OwnershipError
from robomimic_vae_ext.lapo import gradients, heads, interface, losses, obs_encoder, owners, speed
from robomimic_vae_ext.lapo.interface import TARGETS

logger = logging.getLogger(__name__)


class Features(NamedTuple):
    """What the heads see of observations; the same but with a policy branch."""

    critic: Tensor  # (B, D), for Q and V
    policy: Tensor  # (B, D), for CVAE and actor


class Targets(NamedTuple):
    """What the losses regress to; computed once, before any optimizer steps."""

    q: Tensor  # (B,)
    v: Tensor  # (B,)
    weights: Tensor  # (B,), of the CVAE


class LAPO(interface.Interface):
    """Latent-variable advantage-weighted policy optimisation over robomimic observations.

    Source: arXiv 2203.08949. Differs: one encoder shared by all heads and owned by the critic
    optimizer; n-step returns; trunks; targets are computed once per step, before any update.
    """

    # ---- construction ----

    def _create_networks(self) -> None:
        groups: OrderedDict[str, Any] = OrderedDict(obs=OrderedDict(self.obs_shapes))
        if len(self.goal_shapes) > 0:
            groups["goal"] = OrderedDict(self.goal_shapes)
        config = self.algo_config
        self.frame_stack = self.global_config.train.frame_stack
        make_encoder = partial(
            obs_encoder.ObsEncoder,
            groups,
            self.obs_config.encoder,
            norm=config.encoder.norm,
            frame_stack=self.frame_stack,
            frozen=self.owner == "frozen",
            channels_last=config.speed.channels_last,
            bf16=speed.wants_bf16(config.speed.bf16_encoder, self.device),
        )
        encoder = make_encoder()
        dims = {"feature_dim": encoder.output_dim, "trunk_dim": config.encoder.trunk_dim}
        latent_dim = config.vae.latent_dim or 2 * self.ac_dim
        self.nets["obs_encoder"] = encoder
        self.nets["critic"] = heads.Critic(
            **dims,
            action_dim=self.ac_dim,
            layer_dims=config.critic.layer_dims,
            bins=heads.make_bins(config.critic),
        )
        self.nets["actor_vae"] = heads.ActorVAE(
            **dims,
            action_dim=self.ac_dim,
            latent_dim=latent_dim,
            layer_dims=config.vae.layer_dims,
        )
        self.nets["actor"] = heads.LatentActor(
            **dims,
            latent_dim=latent_dim,
            layer_dims=config.actor.layer_dims,
            max_latent_action=config.actor.max_latent_action,
        )
        if config.encoder.policy_branch:
            # Last, so that all others start as they do without it.
            self.nets["policy_encoder"] = make_encoder()
        for target, source in TARGETS.items():
            self.nets[target] = deepcopy(self.nets[source]).requires_grad_(False)
        self.nets = self.nets.float().to(self.device)
        self._gradient_steps = 0

    def _create_optimizers(self) -> None:
        """Create one optimizer per loss; the encoder joins that of its owner as a named group.

        Raises:
            OwnershipError: a trainable parameter without an optimizer, or with two.
        """
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.lr_schedulers: dict[str, Any] = {}
        # robomimic 0.5.0 reads this to decide when schedulers step.
        self.step_lr_schedulers_every_batch = {}
        home = {"critic": "critic", "joint": "critic", "vae": "actor_vae"}.get(self.owner)
        homes = {"obs_encoder": home, "policy_encoder": "actor_vae"}
        for name in ("critic", "actor_vae", "actor"):
            params = self.optim_params[name]
            optimizer = torch_utils.optimizer_from_optim_params(params, self.nets[name])
            optimizer.param_groups[0]["name"] = name
            scale = self.algo_config.encoder.learning_rate_scale
            rate = params.learning_rate.initial * scale
            for encoder in (e for e in homes if homes[e] == name and e in self.nets):
                if weights := list(self.nets[encoder].parameters()):
                    optimizer.add_param_group({"params": weights, "name": encoder, "lr": rate})
            speed.set_fused(optimizer, self.algo_config.speed.fused_optimizers)
            self.optimizers[name] = optimizer
            self.lr_schedulers[name] = torch_utils.lr_scheduler_from_optim_params(
                params, self.nets[name], optimizer
            )
            self.step_lr_schedulers_every_batch[name] = params.learning_rate.get(
                "step_every_batch", False
            )
        self._check_ownership()
        branch = self.algo_config.encoder.policy_branch
        if (self.owner in ("vae", "frozen") or branch) and not list(self.obs_encoder.parameters()):
            logger.warning(
                "algo.encoder.%s changes nothing: the encoder has no weights (no images)",
                "policy_branch" if branch else f"owner = {self.owner}",
            )
        self._audit = gradient_flow.PeriodicAudit(
            dict(self.nets.items()),
            self.optimizers,
            self.algo_config.audit.every_n_steps,
            gradient_flow.Contract.from_dict(owners.contract_data(self.algo_config)),
        )

    def _check_ownership(self) -> None:
        owners: dict[int, list[str]] = {}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    owners.setdefault(id(parameter), []).append(name)
        for name, parameter in self.nets.named_parameters():
            found = owners.get(id(parameter), [])
            if len(found) != int(parameter.requires_grad):
                raise OwnershipError(
                    f"parameter '{name}' is in the optimizers {found}",
                    "exactly one owner per trainable parameter and none for the others",
                    "Name it in one optimizer only (LAPO._create_optimizers).",
                )

    # ---- one gradient step ----

    def train_on_batch(
        self, batch: dict[str, Any], epoch: int, validate: bool = False
    ) -> OrderedDict[str, Any]:
        """Step critic, CVAE and actor once, then their slow copies.

        Args:
            batch: from `process_batch_for_training` and robomimic's postprocessing.
            epoch: counted from 1.
            validate: compute the same losses and step nothing.

        Returns:
            Metric name to detached scalar.
        """
        super().train_on_batch(batch, epoch, validate=validate)
        if validate:
            return OrderedDict(self._losses_and_updates(batch, validate=True))
        with self._audit.step(self._gradient_steps):
            info = self._losses_and_updates(batch, validate=False)
        self._gradient_steps += 1
        info |= {f"audit/{name}": value for name, value in self._audit.metrics().items()}
        return OrderedDict(info)

    def _losses_and_updates(self, batch: dict[str, Any], validate: bool) -> dict[str, Any]:
        """The step itself: features once, targets once, then critic, CVAE, actor, slow copies."""
        with torch.no_grad() if validate or self.owner == "frozen" else torch.enable_grad():
            features = self._encode_for_all(batch["obs"], batch["goal_obs"])  # graph kept
        with torch.no_grad(), obs_encoder.batch_norm_in_eval_mode(self.nets):  # encoders have them
            next_features = self._encode_for_all(batch["next_obs"], batch["goal_obs"])
        with torch.no_grad() if validate else torch.enable_grad():
            # V once, for the critic's loss and the advantage.
            v_outputs = self.nets["critic"].v_outputs(features.critic)  # (B, K)
            v = self.nets["critic"].to_values(v_outputs)  # (B,)
            targets = self._targets(batch, features, next_features, v)
            info = self._update_critic_and_vae(batch, features, v_outputs, targets, validate)
            info |= self._update_actor(features, validate)
        if validate:
            info["encoder/dead_features"] = obs_encoder.dead_share(features.critic)
        else:
            self._update_targets()
        return info

    def _encode_for_all(self, obs: interface.Obs, goal: interface.Obs | None) -> Features:
        """Encode observations once for every encoder that there is."""
        features = self.encode(obs, goal)
        if self.algo_config.encoder.policy_branch:
            return Features(features, self.policy_encoder(obs, goal))
        if self._combines_gradients:
            # Q and V read the first, the CVAE the second: their gradients meet at the features.
            config = self.algo_config.encoder
            rule = (config.vae_grad_scale, config.vae_grad_norm, config.vae_grad_surgery)
            return Features(*gradients.CombineGradients.apply(features, *rule))
        return Features(features, features)

    @property
    def _combines_gradients(self) -> bool:
        config = self.algo_config.encoder
        return config.vae_grad_norm is not None or config.vae_grad_surgery

    @torch.no_grad()
    def _targets(
        self, batch: dict[str, Any], features: Features, next_features: Features, v: Tensor
    ) -> Targets:
        config = self.algo_config
        next_value = self.nets["critic"].value(next_features.critic)  # (B,)
        value_of_next_policy = self._policy_value(next_features, noise=False)
        target_v = self._policy_value(features, noise=True)
        if config.critic.value_bounds is not None:
            target_v = target_v.clamp(*config.critic.value_bounds)
        future = batch["discounts"] * value_of_next_policy
        advantage = batch["rewards"] + future - v
        return Targets(
            q=batch["rewards"] + batch["discounts"] * next_value,
            v=target_v,
            weights=losses.expectile_weights(advantage, config.vae.expectile),
        )

    def _policy_value(self, features: Features, noise: bool) -> Tensor:
        """Value of the slow policy under the slow Q: (B,)."""
        actor = self.nets["actor_target"]
        z = actor(features.policy)  # (B, Z)
        if noise:
            config = self.algo_config.actor
            bound = config.target_noise_clip
            epsilon = (config.target_noise * torch.randn_like(z)).clamp(-bound, bound)
            limit = actor.max_latent_action
            z = (z + limit * epsilon).clamp(-limit, limit)
        actions = self.nets["actor_vae_target"].decode(features.policy, z)
        q = self.nets["critic_target"].q_values(features.critic, actions)
        return losses.mix_min_max(q, self.algo_config.critic.doubleq_min)

    def _update_critic_and_vae(
        self,
        batch: dict[str, Any],
        features: Features,
        v_outputs: Tensor,
        targets: Targets,
        validate: bool,
    ) -> dict[str, Any]:
        q_outputs = self.nets["critic"].q_outputs(features.critic, batch["actions"])  # (2, B, K)
        critic_loss, info = self._critic_loss(q_outputs, v_outputs, targets)
        reconstruction, mean, log_std = self.nets["actor_vae"](
            self._features_for_vae(features.policy), batch["actions"]
        )
        vae_loss, vae_info = losses.vae_loss(
            batch["actions"],
            reconstruction,
            mean,
            log_std,
            targets.weights,
            self.algo_config.vae.kl_beta,
        )
        info |= vae_info
        info["Loss"] = critic_loss.detach() + vae_loss.detach()  # robomimic's best_validation
        if validate:
            return info
        if self.owner == "joint":
            # One backward: both gradients are in the encoder when the critic optimizer steps.
            info |= self._step(critic_loss + vae_loss, "critic", "actor_vae")
        else:
            # `vae` walks through the same encoder graph a second time.
            info |= self._step(critic_loss, "critic", retain_graph=self.owner == "vae")
            info |= self._step(vae_loss, "actor_vae")
        return info

    def _critic_loss(
        self, q_outputs: Tensor, v_outputs: Tensor, targets: Targets
    ) -> tuple[Tensor, losses.Info]:
        critic = self.nets["critic"]
        if critic.bins is not None:
            return losses.categorical_critic_loss(
                q_outputs, v_outputs, targets.q, targets.v, critic.bins
            )
        q, v = critic.to_values(q_outputs), critic.to_values(v_outputs)
        return losses.critic_loss(q, v, targets.q, targets.v)

    def _features_for_vae(self, features: Tensor) -> Tensor:
        """What the CVAE may see of its encoder; the whole difference between the owners."""
        if self.owner == "vae" or self.algo_config.encoder.policy_branch:
            return features
        if self._combines_gradients:
            return features  # CombineGradients waits for what comes back
        if self.owner == "joint":
            return gradients.ScaleGradient.apply(features, self.algo_config.encoder.vae_grad_scale)
        return features.detach()

    def _update_actor(self, features: Features, validate: bool) -> dict[str, Any]:
        features = Features(*(part.detach() for part in features))
        with gradients.without_gradient(self.nets["critic"]):
            z = self.nets["actor"](features.policy)
            actions = self.nets["actor_vae_target"].decode(features.policy, z)
            q = self.nets["critic"].q1_value(features.critic, actions)
            loss, info = losses.actor_loss(q, z, self.algo_config.actor.prior_weight)
            if not validate and self._gradient_steps >= self.algo_config.actor.start_step:
                info |= self._step(loss, "actor")
        return info

    def _step(self, loss: Tensor, *names: str, retain_graph: bool = False) -> dict[str, Any]:
        """Clear, backward, clip and step the named optimizers."""
        for name in names:
            self.optimizers[name].zero_grad()
        loss.backward(retain_graph=retain_graph)
        info: dict[str, Any] = {}
        for name in names:
            limit = self.optim_params[name].max_gradient_norm
            info |= gradients.clip(self.optimizers[name], limit)
            self.optimizers[name].step()
        return info

    @torch.no_grad()
    def _update_targets(self) -> None:
        for target, source in TARGETS.items():
            slow: list[Tensor] = list(self.nets[target].parameters())
            torch._foreach_lerp_(
                slow, list(self.nets[source].parameters()), self.algo_config.target_tau
            )
