"""The shared encoder of LAPO.

It is robomimic's ObservationGroupEncoder, so every modality, core and randomizer that robomimic
knows works in it, and those of cores.py. What reads its features is in heads.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import robomimic.models.obs_nets as obs_nets
import robomimic.utils.obs_utils as obs_utils
import torch
from torch import Tensor, nn


class ObsEncoder(nn.Module):
    """The one shared encoder: observation groups to wide features.

    Args:
        group_shapes: group name ("obs", "goal") to key to shape of one frame.
        encoder_config: `config.observation.encoder`.
        norm: what becomes of BatchNorm layers, see config.py.
        frame_stack: frames per observation; each is encoded alone (and cropped at an offset of its
            own while training), features are concatenated.
        frozen: nothing in it is ever trained. Random crops go on, as for every other owner.
        channels_last: memory layout of pictures on their way through the cores.
        bf16: cores compute in bfloat16 while training; weights, features and vectors stay float32.
            In eval mode all is float32, so that a policy acts alike on every CPU. (On a GPU torch
            computes float32 convolutions in TF32, by its own default.)
    """

    def __init__(
        self,
        group_shapes: OrderedDict[str, OrderedDict[str, Sequence[int]]],
        encoder_config: Any,
        norm: str,
        frame_stack: int = 1,
        frozen: bool = False,
        channels_last: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.bf16 = bf16
        self.groups = tuple(group_shapes)
        self.frame_stack = frame_stack
        self.nets = obs_nets.ObservationGroupEncoder(
            observation_group_shapes=group_shapes,
            encoder_kwargs=obs_utils.obs_encoder_kwargs_from_config(encoder_config),
        )
        self._freeze_statistics = frozen or norm == "frozen_batch_norm"
        self.requires_grad_(not frozen)
        if norm == "group_norm":
            replace_batch_norm(self)
        for group in self.groups:
            for core in self.nets.nets[group].obs_nets.values():
                if core is not None:
                    core.register_forward_pre_hook(_layout_hook(channels_last))
        frames = {"obs": frame_stack}
        self.output_dim = sum(
            frames.get(group, 1) * self.nets.nets[group].output_shape()[0] for group in self.groups
        )

    def train(self, mode: bool = True) -> ObsEncoder:
        """Set train or eval mode; `frozen_batch_norm` layers stay in eval mode."""
        super().train(mode)
        if self._freeze_statistics:
            for layer in batch_norms(self):
                layer.eval()
        return self

    def forward(self, obs: dict[str, Tensor], goal: dict[str, Tensor] | None = None) -> Tensor:
        """Encode observations, and goals where the config names goal keys.

        Args:
            obs: key to (B, F, ...), F = frame_stack, as `LAPO.process_batch_for_training` makes it.
            goal: key to (B, ...).

        Returns:
            Features (B, D).
        """
        batch = next(iter(obs.values())).shape[0]
        flat = {key: value.flatten(0, 1) for key, value in obs.items()}  # (B * F, ...)
        device_type = next(iter(flat.values())).device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.bf16 and self.training):
            features = [self.nets.nets["obs"](flat).float().view(batch, -1)]
            if "goal" in self.groups:
                features.append(self.nets.nets["goal"](goal).float())
        return torch.cat(features, dim=-1) if len(features) > 1 else features[0]


def _layout_hook(channels_last: bool) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """Hook that gives a core its pictures in one memory layout.

    Only the pictures: weights keep theirs, so that optimizer states and checkpoints do too.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def to_layout(core: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (x.contiguous(memory_format=layout) if x.ndim == 4 else x,)

    return to_layout


def dead_share(features: Tensor) -> Tensor:
    """Share of features (B, D) that are the same for the whole batch, such as those of dead ReLUs.

    Returns:
        Scalar in [0, 1]; 1 for a batch of one.
    """
    return (features == features[0]).all(dim=0).float().mean()


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer below `module`."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def batch_norm_in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Encode without moving BatchNorm's statistics: next observations must not count twice."""
    layers = [layer for layer in batch_norms(module) if layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def replace_batch_norm(module: nn.Module, channels_per_group: int = 16) -> None:
    """Replace every BatchNorm2d below `module` by GroupNorm, in place.

    GroupNorm has no statistics, so train and eval mode agree. The learned scale and shift start
    where BatchNorm's stood.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            groups = max(1, channels // channels_per_group)
            norm = nn.GroupNorm(groups, channels, eps=child.eps)
            with torch.no_grad():
                norm.weight.copy_(child.weight)
                norm.bias.copy_(child.bias)
            norm.requires_grad_(child.weight.requires_grad)
            setattr(module, name, norm)
        else:
            replace_batch_norm(child, channels_per_group)
