"""LAPO as a robomimic algorithm: one shared encoder, its owner a setting.

The order of one gradient step is in `LAPO._losses_and_updates`, its equations are in losses.py, and
who trains the encoder is in owners.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from copy import deepcopy
from typing import Any, NamedTuple

import robomimic.algo.algo as algo
import robomimic.utils.tensor_utils as tensor_utils
import robomimic.utils.torch_utils as torch_utils
import torch
from torch import Tensor, nn

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.errors import CheckpointError, OwnershipError
from robomimic_vae_ext.lapo import (
    auxiliary,
    batches,
    extraction,
    gradients,
    heads,
    losses,
    obs_encoder,
    owners,
    speed,
)
from robomimic_vae_ext.lapo.owners import AUXILIARY_TARGET_OF, TARGET_OF

logger = logging.getLogger(__name__)

Obs = dict[str, Tensor]


class Targets(NamedTuple):
    """What the losses regress to; computed once, before any optimizer steps."""

    q: Tensor  # (B,)
    v: Tensor  # (B,)
    weights: Tensor  # (B,), of the CVAE


class LAPO(algo.PolicyAlgo, algo.ValueAlgo):
    """Latent-variable advantage-weighted policy optimisation over robomimic observations.

    Source: arXiv 2203.08949. Differs: one encoder shared by all heads and owned by the critic
    optimizer; n-step returns; trunks; targets are computed once per step, before any update.
    """

    nets: Any  # a ModuleDict, made by robomimic's base class; its entries have own methods

    # ---- the names that users know ----

    @property
    def owner(self) -> str:
        """Who trains the encoder: critic, joint, vae or frozen."""
        return str(self.algo_config.encoder.owner)

    @property
    def obs_encoder(self) -> nn.Module:
        """The shared encoder."""
        return self.nets["obs_encoder"]

    @property
    def actor_vae(self) -> nn.Module:
        """The CVAE over actions."""
        return self.nets["actor_vae"]

    @property
    def critic_optimizer(self) -> torch.optim.Optimizer:
        """Optimizer of the critic heads, and of the encoder unless its owner says otherwise."""
        return self.optimizers["critic"]

    # ---- construction ----

    def _create_networks(self) -> None:
        groups: OrderedDict[str, Any] = OrderedDict(obs=OrderedDict(self.obs_shapes))
        if len(self.goal_shapes) > 0:
            groups["goal"] = OrderedDict(self.goal_shapes)
        config = self.algo_config
        self.frame_stack = self.global_config.train.frame_stack
        self._rule = owners.OWNERS[self.owner]
        encoder = obs_encoder.ObsEncoder(
            groups,
            self.obs_config.encoder,
            norm=config.encoder.norm,
            frame_stack=self.frame_stack,
            frozen=not self._rule.trains_encoder,
            channels_last=config.speed.channels_last,
            bf16=speed.wants_bf16(config.speed.bf16_encoder, self.device),
        )
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
        self._target_of = dict(TARGET_OF)
        if asked := owners.active_auxiliary(config.encoder.auxiliary):
            # After the others, which so begin with the same weights with it and without it.
            self.nets["auxiliary"] = auxiliary.Auxiliary(
                **dims,
                action_dim=self.ac_dim,
                layer_dims=config.encoder.auxiliary.layer_dims,
                losses=asked,
            )
            self._target_of |= AUXILIARY_TARGET_OF
        for target, source in self._target_of.items():
            self.nets[target] = deepcopy(self.nets[source]).requires_grad_(False)
        self.nets = self.nets.float().to(self.device)
        self._gradient_steps = 0
        self._prior_draws = extraction.prior_draws(config.actor.samples, latent_dim).to(self.device)

    def _create_optimizers(self) -> None:
        """Create one optimizer per loss; the encoder joins that of its owner as a named group.

        Raises:
            OwnershipError: a trainable parameter without an optimizer, or with two.
        """
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.lr_schedulers: dict[str, Any] = {}
        # robomimic 0.5.0 reads this to decide when schedulers step.
        self.step_lr_schedulers_every_batch = {}
        encoder = list(self.obs_encoder.parameters())
        for name in owners.HEADS:
            params = self.optim_params[name]
            optimizer = torch_utils.optimizer_from_optim_params(params, self.nets[name])
            optimizer.param_groups[0]["name"] = name
            if self._rule.optimizer == name and encoder:
                optimizer.add_param_group({"params": encoder, "name": "obs_encoder"})
            if name == "critic" and "auxiliary" in self.nets:
                weights = list(self.nets["auxiliary"].parameters())
                optimizer.add_param_group({"params": weights, "name": "auxiliary"})
            speed.set_fused(optimizer, self.algo_config.speed.fused_optimizers)
            self.optimizers[name] = optimizer
            self.lr_schedulers[name] = torch_utils.lr_scheduler_from_optim_params(
                params, self.nets[name], optimizer
            )
            self.step_lr_schedulers_every_batch[name] = params.learning_rate.get(
                "step_every_batch", False
            )
        self._check_ownership()
        if self.owner in ("vae", "frozen") and not encoder:
            logger.warning(
                "algo.encoder.owner = %s changes nothing: the encoder has no weights (no images)",
                self.owner,
            )
        self._audit = gradient_flow.PeriodicAudit(
            dict(self.nets.items()),
            self.optimizers,
            self.algo_config.audit.every_n_steps,
            gradient_flow.Contract.from_dict(owners.contract_data(self.algo_config)),
        )

    def _check_ownership(self) -> None:
        owner_names: dict[int, list[str]] = {}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    owner_names.setdefault(id(parameter), []).append(name)
        for name, parameter in self.nets.named_parameters():
            found = owner_names.get(id(parameter), [])
            if len(found) != int(parameter.requires_grad):
                raise OwnershipError(
                    f"parameter '{name}' is in the optimizers {found}",
                    "exactly one owner per trainable parameter and none for the others",
                    "Name it in one optimizer only (LAPO._create_optimizers).",
                )

    # ---- batches ----

    def process_batch_for_training(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Cut a batch of windows down to one n-step transition per sample, and move it.

        Args:
            batch: from robomimic's SequenceDataset, windows of length frame_stack - 1 + seq_length,
                or from our replay dataset, which did this already (it holds `discounts`).

        Returns:
            `obs`, `next_obs`: key to (B, F, ...); `actions`: (B, A); `rewards`, `discounts`: (B,);
            `goal_obs`: key to (B, ...) or None; and what else `batches.Horizon` asks for. Images
            still as the dataset has them.
        """
        if "discounts" not in batch:
            batch = batches.reduce_windows(
                batch,
                list(self.obs_shapes),
                self.frame_stack,
                batches.Horizon.of(self.algo_config),
            )
        needed = ("obs", "next_obs", "goal_obs", "actions", "rewards", "discounts")
        optional = ("later", "action_window", "action_valid")
        wanted = (*needed, *(key for key in optional if key in batch))

        def move(x: Tensor) -> Tensor:
            # uint8 images stay as they are: robomimic's postprocessing scales them to [0, 1].
            dtype = x.dtype if x.dtype in (torch.uint8, torch.bool) else torch.float32
            # Only page-locked memory can be copied while the CPU goes on.
            return x.to(self.device, dtype, non_blocking=x.is_pinned())

        return tensor_utils.recursive_dict_list_tuple_apply(
            {key: batch.get(key) for key in wanted},
            {torch.Tensor: move, type(None): lambda x: x},
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
        encoder_learns = self._rule.trains_encoder and not validate
        with torch.enable_grad() if encoder_learns else torch.no_grad():
            features = self.encode(batch["obs"], batch["goal_obs"])  # (B, D), graph kept
        with torch.no_grad(), obs_encoder.batch_norm_in_eval_mode(self.nets):
            next_features = self.encode(batch["next_obs"], batch["goal_obs"])
        with torch.no_grad() if validate else torch.enable_grad():
            # V once, for the critic's loss and the advantage.
            v_outputs = self.nets["critic"].v_outputs(features)  # (B, K)
            v = self.nets["critic"].to_values(v_outputs)  # (B,)
            targets = self._targets(batch, features, next_features, v)
            extra_loss, info = self._auxiliary_loss(batch, features, next_features)
            info |= self._update_critic_and_vae(
                batch, features, v_outputs, extra_loss, targets, validate
            )
            info |= self._update_actor(features.detach(), validate)
        if validate:
            info["encoder/dead_features"] = obs_encoder.dead_share(features)
        else:
            self._update_targets()
        return info

    @torch.no_grad()
    def _targets(
        self, batch: dict[str, Any], features: Tensor, next_features: Tensor, v: Tensor
    ) -> Targets:
        config = self.algo_config
        next_value = self.nets["critic"].value(next_features)  # (B,)
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
        """Value of the slow policy under the slow Q: (B,)."""
        rule = self.algo_config.actor.target_extraction
        actor, vae = self.nets["actor_target"], self.nets["actor_vae_target"]
        critic = self.nets["critic_target"]
        z = extraction.choose_latent(rule, features, actor, vae, critic, self._prior_draws)
        if noise and rule == "actor":  # draws from the prior are spread out already
            config = self.algo_config.actor
            bound = config.target_noise_clip
            epsilon = (config.target_noise * torch.randn_like(z)).clamp(-bound, bound)
            limit = actor.max_latent_action
            z = (z + limit * epsilon).clamp(-limit, limit)
        q = critic.q_values(features, vae.decode(features, z))
        return losses.mix_min_max(q, self.algo_config.critic.doubleq_min)

    def _update_critic_and_vae(
        self,
        batch: dict[str, Any],
        features: Tensor,
        v_outputs: Tensor,
        extra_loss: Tensor | None,
        targets: Targets,
        validate: bool,
    ) -> dict[str, Any]:
        config, rule = self.algo_config, self._rule
        q_outputs = self.nets["critic"].q_outputs(features, batch["actions"])  # (2, B, K)
        critic_loss, info = self._critic_loss(q_outputs, v_outputs, targets)
        if extra_loss is not None:
            critic_loss = critic_loss + extra_loss
        vae_features = rule.features_for_vae(features, config.encoder.vae_grad_scale)
        reconstruction, mean, log_std = self.nets["actor_vae"](vae_features, batch["actions"])
        vae_loss, vae_info = losses.vae_loss(
            batch["actions"], reconstruction, mean, log_std, targets.weights, config.vae.kl_beta
        )
        info |= vae_info
        info["Loss"] = critic_loss.detach() + vae_loss.detach()  # robomimic's best_validation
        if validate:
            return info
        if rule.one_backward:
            info |= self._step(critic_loss + vae_loss, "critic", "actor_vae")
        else:
            info |= self._step(critic_loss, "critic", retain_graph=rule.keeps_graph)
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

    def _auxiliary_loss(
        self, batch: dict[str, Any], features: Tensor, next_features: Tensor
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """What `algo.encoder.auxiliary` adds to the critic's loss; None without it."""
        if "auxiliary" not in self.nets:
            return None, {}
        later = next_features
        if "later" in batch:
            with torch.no_grad(), obs_encoder.batch_norm_in_eval_mode(self.nets):
                later = self.encode(batch["later"]["obs"], batch["goal_obs"])
        return auxiliary.auxiliary_loss(
            self.nets["auxiliary"],
            self.nets["auxiliary_target"],
            batch,
            features,
            later,
            next_features,
            self.algo_config.encoder.auxiliary,
        )

    def _update_actor(self, features: Tensor, validate: bool) -> dict[str, Any]:
        with gradients.without_gradient(self.nets["critic"]):
            z = self.nets["actor"](features)
            actions = self.nets["actor_vae_target"].decode(features, z)
            q = self.nets["critic"].q1_value(features, actions)
            loss, info = losses.actor_loss(q, z, self.algo_config.actor.prior_weight)
            if not validate:
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
        for target, source in self._target_of.items():
            slow: list[Tensor] = list(self.nets[target].parameters())
            torch._foreach_lerp_(
                slow, list(self.nets[source].parameters()), self.algo_config.target_tau
            )

    # ---- logging and modes ----

    def log_info(self, info: dict[str, Any]) -> OrderedDict[str, float]:
        """Metrics as plain numbers, with every parameter group's learning rate."""
        names = [name for name, value in info.items() if isinstance(value, Tensor)]
        log = OrderedDict((k, v) for k, v in info.items() if not isinstance(v, Tensor))
        if names:
            # One transfer for all: on a GPU every .item() would wait for the device.
            values = torch.stack([info[name].float() for name in names]).tolist()
            log.update(zip(names, values, strict=True))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                log[f"Optimizer/{group['name']}_lr"] = group["lr"]
        return log

    def set_train(self) -> None:
        """Set training mode; slow copies stay in eval mode."""
        super().set_train()
        for name in self._target_of:
            self.nets[name].eval()

    # ---- rollouts ----

    def encode(self, obs: Obs, goal: Obs | None = None) -> Tensor:
        """Features of observations (B, F, ...): (B, D). Gradient: reaches the encoder."""
        return self.obs_encoder(obs, goal)

    def features_of(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """Features (B, D) of what rollouts see, which has no frame axis without frame stacking."""
        obs = {key: obs_dict[key] for key in self.obs_shapes}
        if self.frame_stack == 1:
            obs = {
                key: value if value.ndim == len(self.obs_shapes[key]) + 2 else value.unsqueeze(1)
                for key, value in obs.items()
            }
        return self.encode(obs, goal_dict)

    @torch.no_grad()
    def get_action(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """Deterministic action of the policy.

        Args:
            obs_dict: key to (B, ...), or (B, F, ...) with frame stacking.
            goal_dict: key to (B, ...) where the config names goals.

        Returns:
            (B, A), in [-1, 1].
        """
        assert not self.nets.training
        config = self.algo_config.actor
        features = self.features_of(obs_dict, goal_dict)
        vae = self.nets["actor_vae" if config.decoder == "online" else "actor_vae_target"]
        z = extraction.choose_latent(
            config.extraction, features, self.nets["actor"], vae, self.nets["critic"],
            self._prior_draws,
        )  # fmt: skip
        return vae.decode(features, z)

    @torch.no_grad()
    def get_state_value(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """V of observations: (B, 1)."""
        return self.nets["critic"].value(self.features_of(obs_dict, goal_dict))[:, None]

    @torch.no_grad()
    def get_state_action_value(
        self, obs_dict: Obs, actions: Tensor, goal_dict: Obs | None = None
    ) -> Tensor:
        """Mixed Q of observations and actions (B, A): (B, 1)."""
        return self.mixed_q(self.features_of(obs_dict, goal_dict), actions)[:, None]

    def mixed_q(self, features: Tensor, actions: Tensor) -> Tensor:
        """Mixed Q of features (B, D) and actions (B, A), with its graph: (B,)."""
        q = self.nets["critic"].q_values(features, actions)
        return losses.mix_min_max(q, self.algo_config.critic.doubleq_min)

    # ---- checkpoints ----

    def serialize(self) -> dict[str, Any]:
        """All that training needs to go on: networks, optimizers, schedulers, step count.

        Tensors and plain types only, since torch loads checkpoints with `weights_only`.
        """
        schedulers = self.lr_schedulers.items()
        return {
            "nets": self.nets.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "lr_schedulers": {name: s and s.state_dict() for name, s in schedulers},
            "gradient_steps": self._gradient_steps,
        }

    def deserialize(self, model_dict: dict[str, Any], load_optimizers: bool = False) -> None:
        """Load what `serialize` returned.

        Args:
            model_dict: from `serialize`, of this robomimic version or an older one.
            load_optimizers: also restore optimizers and schedulers, to go on training.

        Raises:
            CheckpointError: the weights belong to other networks.
        """
        try:
            self.nets.load_state_dict(model_dict["nets"])
        except (KeyError, RuntimeError) as error:
            # torch's first line names only the container; the second what is wrong with it.
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"the checkpoint does not fit the networks ({reason})",
                "weights of the same algorithm, observation keys, shapes and sizes",
                "Build the model from the checkpoint's own config.",
            ) from error
        self._gradient_steps = model_dict.get("gradient_steps", 0)
        if load_optimizers:
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(model_dict["optimizers"][name])
                # The checkpoint brought the switches it was trained with.
                speed.set_fused(optimizer, self.algo_config.speed.fused_optimizers)
                if self.lr_schedulers[name] is not None:
                    self.lr_schedulers[name].load_state_dict(model_dict["lr_schedulers"][name])
