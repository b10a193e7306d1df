"""LAPO as a robomimic algorithm: one shared encoder, its owner a setting.

The order of one gradient step stands in `LAPO.train_on_batch`; the equations in losses.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from copy import deepcopy
from typing import Any, NamedTuple

import robomimic.utils.torch_utils as torch_utils
import torch
from torch import Tensor

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.errors import OwnershipError
from robomimic_vae_ext.lapo import contracts, gradients, interface, losses, networks, speed
from robomimic_vae_ext.lapo.interface import TARGETS

logger = logging.getLogger(__name__)


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
        encoder = networks.ObsEncoder(
            groups,
            self.obs_config.encoder,
            norm=config.encoder.norm,
            frame_stack=self.frame_stack,
            frozen=self.owner == "frozen",
            channels_last=config.speed.channels_last,
            bf16=speed.wants_bf16(config.speed.bf16_encoder, self.device),
        )
        dims = {"feature_dim": encoder.output_dim, "trunk_dim": config.encoder.trunk_dim}
        latent_dim = config.vae.latent_dim or 2 * self.ac_dim
        self.nets["obs_encoder"] = encoder
        self.nets["critic"] = networks.Critic(
            **dims, action_dim=self.ac_dim, layer_dims=config.critic.layer_dims
        )
        self.nets["actor_vae"] = networks.ActorVAE(
            **dims,
            action_dim=self.ac_dim,
            latent_dim=latent_dim,
            layer_dims=config.vae.layer_dims,
        )
        self.nets["actor"] = networks.LatentActor(
            **dims,
            latent_dim=latent_dim,
            layer_dims=config.actor.layer_dims,
            max_latent_action=config.actor.max_latent_action,
        )
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
        for name in ("critic", "actor_vae", "actor"):
            params = self.optim_params[name]
            optimizer = torch_utils.optimizer_from_optim_params(params, self.nets[name])
            optimizer.param_groups[0]["name"] = name
            if name == home and any(True for _ in self.nets["obs_encoder"].parameters()):
                scale = self.algo_config.encoder.learning_rate_scale
                optimizer.add_param_group(
                    {
                        "params": list(self.nets["obs_encoder"].parameters()),
                        "name": "obs_encoder",
                        "lr": params.learning_rate.initial * scale,
                    }
                )
            speed.set_fused(optimizer, self.algo_config.speed.fused_optimizers)
            self.optimizers[name] = optimizer
            self.lr_schedulers[name] = torch_utils.lr_scheduler_from_optim_params(
                params, self.nets[name], optimizer
            )
            self.step_lr_schedulers_every_batch[name] = params.learning_rate.get(
                "step_every_batch", False
            )
        self._check_ownership()
        if self.owner != "critic" and not list(self.nets["obs_encoder"].parameters()):
            logger.warning(
                "algo.encoder.owner = %s changes nothing: the encoder has no weights (no images)",
                self.owner,
            )
        self._audit = gradient_flow.PeriodicAudit(
            dict(self.nets.items()),
            self.optimizers,
            self.algo_config.audit.every_n_steps,
            gradient_flow.Contract.from_dict(contracts.contract_data(self.algo_config)),
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
            features = self.encode(batch["obs"], batch["goal_obs"])  # (B, D), graph kept
        with torch.no_grad(), networks.batch_norm_in_eval_mode(self.nets["obs_encoder"]):
            next_features = self.encode(batch["next_obs"], batch["goal_obs"])  # (B, D)
        with torch.no_grad() if validate else torch.enable_grad():
            v = self.nets["critic"].value(features)  # (B,), for the critic's loss and the advantage
            targets = self._targets(batch, features, next_features, v)
            info = self._update_critic_and_vae(batch, features, v, targets, validate)
            info |= self._update_actor(features.detach(), validate)
        if not validate:
            self._update_targets()
        return info

    @torch.no_grad()
    def _targets(
        self, batch: dict[str, Any], features: Tensor, next_features: Tensor, v: Tensor
    ) -> Targets:
        config = self.algo_config
        next_value = self.nets["critic"].value(next_features)  # (B,), shared by q and advantage
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

    def _policy_value(self, features: Tensor, noise: bool) -> Tensor:
        """Value of the slow policy under the slow Q: (B, D) to (B,)."""
        actor = self.nets["actor_target"]
        z = actor(features)  # (B, Z)
        if noise:
            config = self.algo_config.actor
            bound = config.target_noise_clip
            epsilon = (config.target_noise * torch.randn_like(z)).clamp(-bound, bound)
            limit = actor.max_latent_action
            z = (z + limit * epsilon).clamp(-limit, limit)
        actions = self.nets["actor_vae_target"].decode(features, z)
        q = self.nets["critic_target"].q_values(features, actions)
        return losses.mix_min_max(q, self.algo_config.critic.doubleq_min)

    def _update_critic_and_vae(
        self, batch: dict[str, Any], features: Tensor, v: Tensor, targets: Targets, validate: bool
    ) -> dict[str, Any]:
        critic_loss, info = losses.critic_loss(
            self.nets["critic"].q_values(features, batch["actions"]),
            v,
            targets.q,
            targets.v,
        )
        reconstruction, mean, log_std = self.nets["actor_vae"](
            self._features_for_vae(features), batch["actions"]
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

    def _features_for_vae(self, features: Tensor) -> Tensor:
        """What the CVAE may see of the encoder; the whole difference between the owners."""
        if self.owner == "vae":
            return features
        if self.owner == "joint":
            return gradients.ScaleGradient.apply(features, self.algo_config.encoder.vae_grad_scale)
        return features.detach()

    def _update_actor(self, features: Tensor, validate: bool) -> dict[str, Any]:
        with gradients.without_gradient(self.nets["critic"]):
            z = self.nets["actor"](features)
            actions = self.nets["actor_vae_target"].decode(features, z)
            q = self.nets["critic"].q1_value(features, actions)
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
