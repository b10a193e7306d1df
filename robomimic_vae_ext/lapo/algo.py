"""LAPO as a robomimic algorithm: one shared encoder, its owner a setting.

The order of one gradient step stands in `LAPO.train_on_batch`; the equations in losses.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import robomimic.algo.algo as algo
import robomimic.utils.tensor_utils as tensor_utils
import robomimic.utils.torch_utils as torch_utils
import torch
from torch import Tensor, nn

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.errors import CheckpointError, OwnershipError
from robomimic_vae_ext.lapo import batches, contracts, losses, networks, speed

logger = logging.getLogger(__name__)

Obs = dict[str, Tensor]

#: Slow copies and what they copy. The encoder has none: V, and so its features, are online.
TARGETS = {"critic_target": "critic", "actor_vae_target": "actor_vae", "actor_target": "actor"}


class Targets(NamedTuple):
    """What the losses regress to; computed once, before any optimizer steps."""

    q: Tensor  # (B,)
    v: Tensor  # (B,)
    weights: Tensor  # (B,), of the CVAE


class _ScaleGradient(torch.autograd.Function):
    """Identity forward; multiplies the gradient on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class LAPO(algo.PolicyAlgo, algo.ValueAlgo):
    """Latent-variable advantage-weighted policy optimisation over robomimic observations.

    Source: arXiv 2203.08949. Differs: one encoder shared by all heads and owned by the critic
    optimizer; n-step returns; trunks; targets are computed once per step, before any update.
    """

    nets: Any  # a ModuleDict, made by robomimic's base class; its entries have own methods

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

    # ---- the names of the card ----

    @property
    def owner(self) -> str:
        """Who trains the encoder: critic, vae, joint or frozen."""
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

    # ---- batches ----

    def process_batch_for_training(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Cut a batch of windows down to one n-step transition per sample.

        Args:
            batch: from robomimic's SequenceDataset, windows of length frame_stack - 1 + seq_length,
                or from the in-memory replay, which did this already (it holds `discounts`).

        Returns:
            `obs`, `next_obs`: key to (B, F, ...); `actions`: (B, A); `rewards`, `discounts`: (B,);
            `goal_obs`: key to (B, ...) or None. Images still as the dataset has them.
        """
        if "discounts" not in batch:
            config = self.algo_config
            batch = batches.reduce_windows(
                batch, list(self.obs_shapes), self.frame_stack, config.n_step, config.discount
            )
        wanted = ("obs", "next_obs", "goal_obs", "actions", "rewards", "discounts")
        # Only page-locked memory can be copied while the CPU goes on.
        batch = tensor_utils.recursive_dict_list_tuple_apply(
            {key: batch.get(key) for key in wanted},
            {
                torch.Tensor: lambda x: x.to(self.device, non_blocking=x.is_pinned()),
                type(None): lambda x: x,
            },
        )
        # uint8 images stay as they are: robomimic's postprocessing scales them to [0, 1].
        return tensor_utils.recursive_dict_list_tuple_apply(
            batch,
            {
                torch.Tensor: lambda x: x if x.dtype == torch.uint8 else x.float(),
                type(None): lambda x: x,
            },
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

    def encode(self, obs: Obs, goal: Obs | None = None) -> Tensor:
        """Features of observations (B, F, ...): (B, D). Gradient: reaches the encoder."""
        return self.nets["obs_encoder"](obs, goal)

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
            return _ScaleGradient.apply(features, self.algo_config.encoder.vae_grad_scale)
        return features.detach()

    def _update_actor(self, features: Tensor, validate: bool) -> dict[str, Any]:
        with self._without_gradient("critic"):
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
            info |= self._clip(name)
            self.optimizers[name].step()
        return info

    def _clip(self, name: str) -> dict[str, Any]:
        """Clip what the optimizer owns, and nothing else; report norms from before."""
        optimizer = self.optimizers[name]
        info = {}
        for group in optimizer.param_groups:
            grads = [p.grad for p in group["params"] if p.grad is not None]
            if grads:
                info[f"grad_norm/{group['name']}"] = nn.utils.get_total_norm(grads)
        limit = self.optim_params[name].max_gradient_norm
        if limit is not None:
            owned = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(owned, limit)
        return info

    @contextmanager
    def _without_gradient(self, name: str) -> Iterator[None]:
        """Let gradients pass through a network without leaving any in it."""
        parameters = list(self.nets[name].parameters())
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def _update_targets(self) -> None:
        for target, source in TARGETS.items():
            slow: list[Tensor] = list(self.nets[target].parameters())
            torch._foreach_lerp_(
                slow, list(self.nets[source].parameters()), self.algo_config.target_tau
            )

    # ---- what robomimic asks for ----

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
        for name in TARGETS:
            self.nets[name].eval()

    def _features_of(self, obs_dict: Obs, goal_dict: Obs | None) -> Tensor:
        obs = {key: obs_dict[key] for key in self.obs_shapes}
        if self.frame_stack == 1:
            # Rollouts have no frame axis then; batches always have one.
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
        features = self._features_of(obs_dict, goal_dict)
        z = self.nets["actor"](features)
        if self.algo_config.actor.rollout_latent == "zero":
            z = torch.zeros_like(z)
        return self.nets["actor_vae"].decode(features, z)

    @torch.no_grad()
    def get_state_value(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """V of observations: (B, 1)."""
        return self.nets["critic"].value(self._features_of(obs_dict, goal_dict))[:, None]

    @torch.no_grad()
    def get_state_action_value(
        self, obs_dict: Obs, actions: Tensor, goal_dict: Obs | None = None
    ) -> Tensor:
        """Mixed Q of observations and actions (B, A): (B, 1)."""
        features = self._features_of(obs_dict, goal_dict)
        q = self.nets["critic"].q_values(features, actions)
        return losses.mix_min_max(q, self.algo_config.critic.doubleq_min)[:, None]

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
