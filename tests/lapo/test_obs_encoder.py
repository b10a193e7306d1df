"""Encoder parts: shapes, modes, and agreement with robomimic's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from robomimic_vae_ext.lapo import cores, heads, obs_encoder
from tests.conftest import IMAGE_SIZE


@pytest.mark.parametrize("size", [36, 40, 76, 84, 128])
def test_nature_cnn_announces_the_shape_it_returns(size: int) -> None:
    core = cores.NatureCNNCore(input_shape=[3, size, size])
    assert list(core(torch.rand(2, 3, size, size)).shape[1:]) == core.output_shape()


def test_an_orthogonal_start_keeps_the_scale_and_centring_takes_half_away() -> None:
    torch.manual_seed(0)
    core = cores.NatureCNNCore([3, 76, 76], orthogonal=True, centred=True)
    for layer in core.nets:
        if isinstance(layer, nn.Conv2d):
            rows = layer.weight.flatten(1)
            torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-5, rtol=0)
            assert not layer.bias.any()
    assert not core(torch.full((1, 3, 76, 76), 0.5)).any()  # grey is 0 on its way
    pictures = torch.rand(16, 3, 76, 76)
    same = cores.NatureCNNCore([3, 76, 76])
    same.load_state_dict(core.state_dict())
    torch.testing.assert_close(core(pictures), same(pictures - 0.5))
    # torch's own start lets most of the scale go.
    assert core(pictures).std() > 3 * cores.NatureCNNCore([3, 76, 76])(pictures).std()


def test_dead_share_counts_what_never_changes() -> None:
    features = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 1.0, 3.0]])
    assert obs_encoder.dead_share(features) == 0.5
    assert obs_encoder.dead_share(features[:1]) == 1.0


def test_sliced_crops_are_windows_of_the_image_and_cover_all_offsets() -> None:
    randomizer = cores.SlicedCropRandomizer([1, 5, 6], 3, 3, 1, False).train()
    image = torch.arange(30.0).view(1, 1, 5, 6).expand(400, 1, 5, 6)
    crops = randomizer.forward_in(image)
    corners = {int(crop[0, 0, 0]) for crop in crops}
    assert corners == {6 * top + left for top in range(3) for left in range(4)}
    for crop in crops[:20]:
        top, left = divmod(int(crop[0, 0, 0]), 6)
        assert torch.equal(crop, image[0, :, top : top + 3, left : left + 3])


def test_sliced_crop_takes_robomimics_centre_in_eval_mode() -> None:
    from robomimic.models.obs_core import CropRandomizer

    arguments = ([3, 20, 21], 15, 16, 1, False)
    ours, stock = cores.SlicedCropRandomizer(*arguments), CropRandomizer(*arguments)
    image = torch.rand(4, 3, 20, 21)
    assert torch.equal(ours.eval().forward_in(image), stock.eval().forward_in(image))


def test_batch_norm_is_replaced_everywhere_and_keeps_its_affine_start() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Sequential(nn.BatchNorm2d(32), nn.ReLU()))
    nn.init.uniform_(net[1][0].weight)
    weight = net[1][0].weight.clone()
    obs_encoder.replace_batch_norm(net)
    assert isinstance(net[1][0], nn.GroupNorm)
    assert torch.equal(net[1][0].weight, weight)


def test_the_mlp_core_gives_vectors_an_encoder_with_weights(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    low_dim = {
        "modalities": {"obs": {"rgb": []}},
        "encoder": {"low_dim": {"core_class": "MLPCore"}},
    }
    model = make_model({"observation": low_dim})
    assert model.obs_encoder.output_dim == 2 * 64
    info = model.log_info(model.train_on_batch(make_batch(model), epoch=1))
    assert info["grad_norm/obs_encoder"] > 0


RESNET = {
    "core_class": "VisualCore",
    "core_kwargs": {
        "backbone_class": "ResNet18Conv",
        "backbone_kwargs": {"pretrained": False},
        "pool_class": None,
        "feature_dimension": None,
    },
}


def resnet(norm: str) -> dict[str, Any]:
    return {
        "algo": {"encoder": {"norm": norm}},
        "observation": {"encoder": {"rgb": RESNET}},
    }


def batch_norms(model: Any) -> list[nn.BatchNorm2d]:
    return [m for m in model.obs_encoder.modules() if isinstance(m, nn.BatchNorm2d)]


def features_in_both_modes(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in train and eval mode, both with the centre crop."""
    for group in model.obs_encoder.nets.nets.values():
        for module in group.obs_randomizers.modules():
            module.forward_in = lambda x: x[..., 2:42, 2:42]
    with torch.no_grad():
        model.obs_encoder.train()
        train = model.encode(batch["obs"])
        model.obs_encoder.eval()
        return train, model.encode(batch["obs"])


@pytest.mark.parametrize("owner", ["critic", "vae", "joint", "frozen"])
@pytest.mark.parametrize("norm", ["group_norm", "frozen_batch_norm"])
def test_train_and_eval_mode_agree(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], norm: str, owner: str
) -> None:
    changes = resnet(norm)
    changes["algo"]["speed"] = {"bf16_encoder": "off"}  # which rounds in train mode only
    model = make_model(changes, owner=owner)
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    assert (len(batch_norms(model)) == 0) == (norm == "group_norm")
    train, evaluation = features_in_both_modes(model, batch)
    torch.testing.assert_close(train, evaluation)


def test_plain_batch_norm_disagrees_which_is_why_it_is_not_the_default(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_model(resnet("batch_norm"))
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    train, evaluation = features_in_both_modes(model, batch)
    assert (train - evaluation).abs().max() > 0.1


@pytest.mark.parametrize(
    ("norm", "owner", "moves"),
    [
        ("batch_norm", "critic", True),
        ("batch_norm", "vae", True),
        ("batch_norm", "joint", True),
        ("batch_norm", "frozen", False),
        ("frozen_batch_norm", "critic", False),
        ("frozen_batch_norm", "joint", False),
    ],
)
def test_batch_norm_buffers_move_only_where_they_should(
    make_model: Callable[..., Any],
    make_batch: Callable[..., Any],
    norm: str,
    owner: str,
    moves: bool,
) -> None:
    model = make_model(resnet(norm), owner=owner)
    before = [m.running_mean.clone() for m in batch_norms(model)]
    assert before
    model.train_on_batch(make_batch(model), epoch=1)
    after = [m.running_mean for m in batch_norms(model)]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(changed) if moves else not any(changed)


def test_next_observations_leave_batch_norm_buffers_alone(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_model(resnet("batch_norm"))
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    counts = {int(m.num_batches_tracked) for m in batch_norms(model)}
    assert counts == {1}


@pytest.mark.parametrize(
    "core",
    [
        {"core_class": "VisualCore", "core_kwargs": {"backbone_class": "ShallowConv",
         "pool_class": "SpatialSoftmax", "pool_kwargs": {"num_kp": 8}, "feature_dimension": 16}},
        {"obs_randomizer_class": "CropRandomizer"},
        {"obs_randomizer_class": "ColorRandomizer", "obs_randomizer_kwargs": {}},
        {"obs_randomizer_class": None, "obs_randomizer_kwargs": {}},
    ],
    ids=["shallow_softmax", "crop", "color", "none"],
)  # fmt: skip
def test_robomimics_cores_and_randomizers_work(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], core: dict[str, Any]
) -> None:
    model = make_model({"observation": {"encoder": {"rgb": core}}})
    info = model.log_info(model.train_on_batch(make_batch(model), epoch=1))
    assert info["grad_norm/obs_encoder"] > 0


def test_features_are_wide_and_every_head_has_its_own_trunk(
    make_model: Callable[..., Any],
) -> None:
    model = make_model()
    encoder = model.obs_encoder
    per_camera = cores.NatureCNNCore([3, 40, 40], [4, 4, 4]).output_shape()[0]
    assert encoder.output_dim == 2 * per_camera + 3 + 2
    trunks = [m for m in model.nets.modules() if isinstance(m, heads.Trunk)]
    assert len(trunks) == 2 * 4  # q, v, CVAE, actor; and their slow copies
    assert IMAGE_SIZE > 40
