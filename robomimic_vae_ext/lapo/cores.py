"""Encoder parts that robomimic lacks.

`NatureCNNCore`, `MLPCore` and `SlicedCropRandomizer` are registered with robomimic by subclassing
and can be named in any robomimic config.
"""

from __future__ import annotations

from collections.abc import Sequence

import robomimic.models.base_nets as base_nets
import robomimic.models.obs_core as obs_core
import torch
from torch import Tensor, nn


def mlp(input_dim: int, layer_dims: Sequence[int], output_dim: int) -> nn.Module:
    """robomimic's MLP with LayerNorm: (B, input_dim) to (B, output_dim)."""
    return base_nets.MLP(input_dim, output_dim, layer_dims=tuple(layer_dims), normalization=True)


class NatureCNNCore(obs_core.EncoderCore):
    """Three strided convolutions (8/4, 4/2, 3/1), flattened without a bottleneck.

    Eight times fewer operations than robomimic's ShallowConv at 76x76, and all spatial features
    stay: what value and action need differs, so no head's gradient decides what is thrown away.

    Args:
        input_shape: (C, H, W), H and W at least 36.
        channels: output channels of the three convolutions.
        orthogonal: start with orthogonal weights that keep the scale of what comes in, and zero
            biases. torch's own start makes features of 0.03, which Adam's first steps (0.0003 a
            weight, whatever the gradient) push below zero: a quarter of them dies within 10 steps.
        centred: take 0.5 from the pictures, which come in [0, 1].

    Source: architecture of DQN (Mnih et al. 2015), without its final linear layer; start and
    centring as in DrQ-v2 (arXiv 2107.09645).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 64),
        orthogonal: bool = False,
        centred: bool = False,
    ) -> None:
        super().__init__(input_shape=input_shape)
        self.centred = centred
        first, second, third = channels
        self.out_channels = third
        self.nets = nn.Sequential(
            nn.Conv2d(input_shape[0], first, kernel_size=8, stride=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, kernel_size=4, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, kernel_size=3, stride=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        if orthogonal:
            for layer in self.nets:
                if isinstance(layer, nn.Conv2d):
                    nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def output_shape(self, input_shape: Sequence[int] | None = None) -> list[int]:
        """Shape of one flattened feature vector, `[D]`."""
        height, width = (self._after_convs(size) for size in self.input_shape[1:])
        return [self.out_channels * height * width]

    @staticmethod
    def _after_convs(size: int) -> int:
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            size = (size - kernel) // stride + 1
        return size

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode images (B, C, H, W), in [0, 1], to (B, D)."""
        return self.nets(inputs - 0.5 if self.centred else inputs)


class MLPCore(obs_core.EncoderCore):
    """An MLP on one low-dimensional observation; robomimic passes such vectors on as they are.

    With it an encoder of vectors alone has weights, so that who owns it matters, as for images.

    Args:
        input_shape: (N,).
        layer_dims: hidden sizes.
        feature_dimension: size of the output.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layer_dims: Sequence[int] = (256,),
        feature_dimension: int = 64,
    ) -> None:
        super().__init__(input_shape=input_shape)
        self.feature_dimension = feature_dimension
        self.nets = mlp(input_shape[0], layer_dims, feature_dimension)

    def output_shape(self, input_shape: Sequence[int] | None = None) -> list[int]:
        """Shape of one feature vector, `[feature_dimension]`."""
        return [self.feature_dimension]

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode vectors (B, N) to (B, feature_dimension), in float32 whatever pictures are in."""
        with torch.autocast(inputs.device.type, enabled=False):
            return self.nets(inputs)


class SlicedCropRandomizer(obs_core.CropRandomizer):
    """robomimic's CropRandomizer with one crop per image, by slicing instead of gathering.

    The same centre crop in rollouts, and random crops while training at about an eighth of the
    time on a CPU (robomimic builds an index tensor as large as the crops). Here every offset is as
    likely as any other; robomimic's, which a GPU takes, never draws the last one of each side.
    """

    def _forward_in(self, inputs: Tensor) -> Tensor:
        if self.num_crops != 1 or self.pos_enc or inputs.ndim != 4 or inputs.is_cuda:
            return super()._forward_in(inputs)
        batch, channels, height, width = inputs.shape
        # Crops keep the memory layout of the pictures, so that a row is copied in one piece.
        channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        tops = torch.randint(0, height - self.crop_height + 1, (batch,)).tolist()
        lefts = torch.randint(0, width - self.crop_width + 1, (batch,)).tolist()
        # What the core would do first: the copy converts on its way.
        half = torch.is_autocast_enabled(inputs.device.type)
        crops = torch.empty(
            (batch, channels, self.crop_height, self.crop_width),
            dtype=torch.get_autocast_dtype(inputs.device.type) if half else inputs.dtype,
            device=inputs.device,
            memory_format=layout,
        )
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            crops[i] = inputs[i, :, top : top + self.crop_height, left : left + self.crop_width]
        return crops

    def _forward_out(self, inputs: Tensor) -> Tensor:
        # robomimic averages over the crops of an image; of one crop that is a copy.
        return inputs if self.num_crops == 1 else super()._forward_out(inputs)
