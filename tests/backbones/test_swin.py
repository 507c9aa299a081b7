"""The Swin backbone: equal to timm's where both are the same, maps of odd sizes, stochastic depth, recomputation."""

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from weakseg.backbones import SwinBackbone, build_swin_backbone
from weakseg.backbones.swin import resize_position_table
from weakseg.config import add_weakseg_config

TINY = {"embed_dim": 16, "depths": (2, 2, 3, 1), "num_heads": (2, 4, 4, 8)}
ALL = ("res2", "res3", "res4", "res5")


def random_(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def image(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def in_published_names(state):
    """timm counts a merging to the stage behind it, the published files to the stage before it."""
    return {
        name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample"): value
        for name, value in state.items()
        for stage in [int(name.split(".")[1]) if name.startswith("layers.") else 0]
    }


def test_maps_equal_those_of_timm():
    # Maps of 28 and 14 tokens, multiples of the window: where they are none, timm fills windows in another way.
    sizes = {"embed_dim": 24, "depths": (3, 2), "num_heads": (3, 2), "window_size": 7}
    theirs = random_(timm.models.SwinTransformer(img_size=112, **sizes))
    ours = SwinBackbone(**sizes, out_features=("res2", "res3")).eval()
    missing, _ = ours.load_state_dict(in_published_names(theirs.state_dict()), strict=False)
    own = {name for name in missing if not name.endswith("relative_position_index")}
    assert own == {"norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"}
    x = image(112, 112, batch=2)
    tokens = theirs.forward_intermediates(x, intermediates_only=True)
    for (name, found), expected in zip(ours(x).items(), tokens, strict=True):
        normed = getattr(ours, {"res2": "norm0", "res3": "norm1"}[name])(expected.permute(0, 2, 3, 1))
        torch.testing.assert_close(found, normed.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (58, 83), (1, 1), (33, 7)])
def test_every_halving_rounds_up(size):
    backbone = SwinBackbone(**TINY, out_features=ALL).eval()
    shapes, maps = backbone.output_shape(), backbone(image(*size, batch=2))
    assert list(maps) == list(shapes) == list(ALL)
    for stage, name in enumerate(ALL):
        stride = 4 * 2**stage
        assert shapes[name] == ShapeSpec(channels=16 * 2**stage, stride=stride)
        assert maps[name].shape == (2, 16 * 2**stage, -(-size[0] // stride), -(-size[1] // stride))
        assert maps[name].is_contiguous() and maps[name].isfinite().all()
    assert backbone.size_divisibility == 0


def test_zeros_fill_the_last_patch_at_the_right_and_the_bottom():
    backbone = random_(SwinBackbone(**TINY, out_features=ALL))
    small = image(58, 83)
    filled = torch.zeros(1, 3, 60, 84)
    filled[:, :, :58, :83] = small
    for found, expected in zip(backbone(small).values(), backbone(filled).values()):
        torch.testing.assert_close(found, expected)


def test_images_of_a_batch_do_not_see_each_other():
    backbone = random_(SwinBackbone(**TINY, out_features=ALL))
    pair = image(40, 60, batch=2)
    for found, first, second in zip(*(backbone(x).values() for x in (pair, pair[:1], pair[1:]))):
        torch.testing.assert_close(found, torch.cat([first, second]), rtol=1e-4, atol=1e-4)


def test_each_map_has_its_own_norm():
    backbone = random_(SwinBackbone(**TINY, out_features=("res2", "res4")))
    before = backbone(image(64, 64))
    with torch.no_grad():
        backbone.norm2.bias += 1
    after = backbone(image(64, 64))
    torch.testing.assert_close(after["res4"], before["res4"] + 1)
    torch.testing.assert_close(after["res2"], before["res2"])


def test_what_lies_behind_the_last_map_is_not_built():
    backbone = SwinBackbone(**TINY, out_features=("res4", "res3"))
    assert list(backbone(image(32, 32))) == list(backbone.output_shape()) == ["res3", "res4"]
    assert len(backbone.layers) == 3 and backbone.layers[2].downsample is None
    sum(feature.sum() for feature in backbone(image(32, 32)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_stochastic_depth_rises_linearly_over_all_blocks():
    backbone = SwinBackbone(**TINY, drop_path_rate=0.35, out_features=ALL)
    rates = [block.drop_path.drop_prob for layer in backbone.layers for block in layer.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
    x = image(32, 32)
    assert not torch.equal(backbone.train()(x)["res5"], backbone(x)["res5"])
    backbone.eval()
    assert torch.equal(backbone(x)["res5"], backbone(x)["res5"])


def test_only_odd_blocks_shift_their_windows():
    backbone = SwinBackbone(**TINY, window_size=5, out_features=ALL)
    assert [[block.shift_size for block in layer.blocks] for layer in backbone.layers] == [
        [0, 2],
        [0, 2],
        [0, 2, 0],
        [0],
    ]


def test_recomputed_blocks_give_the_same_gradient_whatever_passes_between():
    plain = random_(SwinBackbone(**TINY, drop_path_rate=0.2))
    recomputing = SwinBackbone(**TINY, drop_path_rate=0.2, gradient_checkpointing=True)
    recomputing.load_state_dict(plain.state_dict())
    calls = []
    recomputing.layers[1].blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    gradients = []
    for backbone in (plain.train(), recomputing.train()):
        torch.manual_seed(3)
        losses = [sum(f.square().mean() for f in backbone(image(*size)).values()) for size in ((40, 60), (64, 32))]
        sum(losses).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
    assert len(calls) == 4
    with torch.no_grad():
        recomputing(image(32, 32))
    assert len(calls) == 5


def test_linear_layers_start_small_and_tables_too():
    backbone = SwinBackbone(embed_dim=64, depths=(1,), num_heads=(8,), out_features=("res2",))
    block = backbone.layers[0].blocks[0]
    for parameter in (block.mlp.fc1.weight, block.attn.qkv.weight, block.attn.relative_position_bias_table):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.mlp.fc1.bias.any() and not block.attn.proj.bias.any()


def test_the_default_config_is_swin_l():
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert {name: shape.channels for name, shape in backbone.output_shape().items()} == {
        "res3": 384,
        "res4": 768,
        "res5": 1536,
    }
    # 24 blocks of 13 parameters, the embedding 4, three mergings of 3, three norms of 2; nothing is frozen.
    assert len(list(backbone.parameters())) == 24 * 13 + 4 + 9 + 6
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert [layer.blocks[0].attn.num_heads for layer in backbone.layers] == [6, 12, 24, 48]
    assert backbone.layers[3].blocks[1].drop_path.drop_prob == pytest.approx(0.3)
    assert backbone.layers[0].blocks[0].window_size == 7
    assert not backbone.layers[0].blocks[0].is_recomputed


def test_every_key_of_the_config_has_its_effect():
    cfg = get_cfg()
    add_weakseg_config(cfg)
    node = cfg.MODEL.SWIN
    node.EMBED_DIM, node.DEPTHS, node.NUM_HEADS, node.WINDOW_SIZE = 8, (1, 2), (2, 4), 3
    node.DROP_PATH_RATE, node.OUT_FEATURES, node.GRADIENT_CHECKPOINTING = 0.2, ("res2", "res3"), True
    backbone = build_swin_backbone(cfg, ShapeSpec(channels=5))
    assert backbone.patch_embed.proj.weight.shape == (8, 5, 4, 4)
    assert [len(layer.blocks) for layer in backbone.layers] == [1, 2]
    last = backbone.layers[1].blocks[1]
    assert (last.attn.num_heads, last.window_size, last.drop_path.drop_prob, last.is_recomputed) == (4, 3, 0.2, True)
    assert list(backbone.output_shape()) == ["res2", "res3"]


def test_a_position_table_is_resized_over_its_offsets():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(25, 2, generator=generator)
    torch.testing.assert_close(resize_position_table(table, 3), table)
    torch.testing.assert_close(resize_position_table(torch.full((25, 2), 0.7), 7), torch.full((169, 2), 0.7))
    # Turned by 180 degrees before or after is the same; heads are apart.
    torch.testing.assert_close(resize_position_table(table.flip(0), 4), resize_position_table(table, 4).flip(0))
    torch.testing.assert_close(resize_position_table(table.flip(1), 4), resize_position_table(table, 4).flip(1))
    # What depends on the vertical offset alone, the slow one, still does.
    rows = torch.arange(5.0).repeat_interleave(5)[:, None]
    grid = resize_position_table(rows, 4).view(7, 7)
    assert torch.allclose(grid, grid[:, :1]) and (grid[1:, 0] > grid[:-1, 0]).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_heads": (2, 4)}, r"DEPTHS and NUM_HEADS: .* found \(2, 2, 3, 1\) and \(2, 4\)"),
        ({"depths": (), "num_heads": ()}, r"DEPTHS and NUM_HEADS: .* 1 to 4 stages; found \(\)"),
        ({"depths": (1,) * 5, "num_heads": (1,) * 5}, "1 to 4 stages"),
        ({"num_heads": (2, 4, 5, 8)}, r"divide the channels 16, 32, .* found \(2, 4, 5, 8\). Correct 5"),
        ({"out_features": ("res3", "res6")}, r"OUT_FEATURES: expected names among res2, res3, res4, res5; found"),
        ({"out_features": ()}, "OUT_FEATURES: expected"),
        ({"depths": (1, 1), "num_heads": (2, 2)}, r"among res2, res3; found \('res3', 'res4', 'res5'\)"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=f"MODEL.SWIN.*{sentence}"):
        SwinBackbone(**{**TINY, **changes})
