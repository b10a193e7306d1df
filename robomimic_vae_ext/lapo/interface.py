"""What robomimic asks of an algorithm besides training: batches, actions, values, checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import robomimic.algo.algo as algo
import robomimic.utils.tensor_utils as tensor_utils
import torch
from torch import Tensor, nn

from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.lapo import batches, losses, speed

Obs = dict[str, Tensor]

#: Slow copies and what they copy. The encoder has none: V, and so its features, are online.
TARGETS = {"critic_target": "critic", "actor_vae_target": "actor_vae", "actor_target": "actor"}


class Interface(algo.PolicyAlgo, algo.ValueAlgo):
    """All of LAPO but its construction and its training step, which stand in algo.py."""

    nets: Any  # a ModuleDict, made by robomimic's base class; its entries have own methods
    frame_stack: int
    optimizers: dict[str, torch.optim.Optimizer]
    lr_schedulers: dict[str, Any]
    _gradient_steps: int

    # ---- the names of the card ----

    @property
    def owner(self) -> str:
        """Who trains the encoder: critic, vae, joint or frozen."""
        return str(self.algo_config.encoder.owner)

    @property
    def obs_encoder(self) -> nn.Module:
        """The shared encoder; with `algo.encoder.policy_branch`, the critic's own."""
        return self.nets["obs_encoder"]

    @property
    def policy_encoder(self) -> nn.Module:
        """The encoder of CVAE and actor: the shared one, or with a policy branch their own."""
        branch = self.algo_config.encoder.policy_branch
        return self.nets["policy_encoder" if branch else "obs_encoder"]

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

        def move(x: Tensor) -> Tensor:
            # uint8 images stay as they are: robomimic's postprocessing scales them to [0, 1].
            dtype = x.dtype if x.dtype == torch.uint8 else torch.float32
            # Only page-locked memory can be copied while the CPU goes on.
            return x.to(self.device, dtype, non_blocking=x.is_pinned())

        return tensor_utils.recursive_dict_list_tuple_apply(
            {key: batch.get(key) for key in wanted},
            {torch.Tensor: move, type(None): lambda x: x},
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
        for name in TARGETS:
            self.nets[name].eval()

    # ---- rollouts ----

    def encode(self, obs: Obs, goal: Obs | None = None) -> Tensor:
        """The critic's features of observations (B, F, ...): (B, D). Gradient: reaches the encoder.

        Without a policy branch they are everybody's.
        """
        return self.obs_encoder(obs, goal)

    def _features_of(self, obs_dict: Obs, goal_dict: Obs | None, encoder: nn.Module) -> Tensor:
        """Features of what rollouts see, by one of the encoders: (B, D)."""
        obs = {key: obs_dict[key] for key in self.obs_shapes}
        if self.frame_stack == 1:
            # Rollouts have no frame axis then; batches always have one.
            obs = {
                key: value if value.ndim == len(self.obs_shapes[key]) + 2 else value.unsqueeze(1)
                for key, value in obs.items()
            }
        return encoder(obs, goal_dict)

    def policy_features(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """What actor and decoder see of the observations of `get_action`: (B, D)."""
        return self._features_of(obs_dict, goal_dict, self.policy_encoder)

    def value_features(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """What Q and V see of the observations of `get_action`: (B, D)."""
        return self._features_of(obs_dict, goal_dict, self.obs_encoder)

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
        features = self.policy_features(obs_dict, goal_dict)
        z = self.nets["actor"](features)
        if self.algo_config.actor.rollout_latent == "zero":
            z = torch.zeros_like(z)
        return self.nets["actor_vae"].decode(features, z)

    @torch.no_grad()
    def get_state_value(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """V of observations: (B, 1)."""
        return self.nets["critic"].value(self.value_features(obs_dict, goal_dict))[:, None]

    @torch.no_grad()
    def get_state_action_value(
        self, obs_dict: Obs, actions: Tensor, goal_dict: Obs | None = None
    ) -> Tensor:
        """Mixed Q of observations and actions (B, A): (B, 1)."""
        return self.mixed_q(obs_dict, actions, goal_dict)[:, None]

    def mixed_q(self, obs_dict: Obs, actions: Tensor, goal_dict: Obs | None = None) -> Tensor:
        """As `get_state_action_value`, with its graph: (B,)."""
        return self.mixed_q_of_features(self.value_features(obs_dict, goal_dict), actions)

    def mixed_q_of_features(self, features: Tensor, actions: Tensor) -> Tensor:
        """Mixed Q of `value_features` (B, D) and actions (B, A): (B,)."""
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
