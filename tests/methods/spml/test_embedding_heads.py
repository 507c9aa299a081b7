"""Both embedding heads against their formulas; batches and sizes of one."""

import torch
import torch.nn.functional as F

from weakseg.methods.spml.embedding_heads import DeepLabHead, PSPHead, PyramidPooling


def feature(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_deeplab_sums_four_dilations():
    head = DeepLabHead(3, 5)
    x = feature(2, 3, 30, 7)
    expected = sum(
        F.conv2d(F.pad(x, (d,) * 4), conv.weight, conv.bias, dilation=d)
        for d, conv in zip((6, 12, 18, 24), head.branches, strict=True)
    )
    torch.testing.assert_close(head(x), expected)
    # Where only the centre of each kernel meets the map, the head is a 1x1 convolution.
    weight = sum(conv.weight[:, :, 1, 1] for conv in head.branches)
    bias = sum(conv.bias for conv in head.branches)
    small = x[:, :, :6, :6]
    torch.testing.assert_close(
        head(small), torch.einsum("oc,bchw->bohw", weight, small) + bias[:, None, None], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_pyramid_of_a_map():
    pooling = PyramidPooling(3, 4, norm="BN").eval()
    for i, level in enumerate(pooling.levels):
        level[1].bias.fill_(0.1 * i - 0.1)
    x = feature(2, 3, 12, 6)
    maps = [x]
    for (conv, norm), rows, columns in zip(pooling.levels, (12, 6, 4, 2), (6, 3, 2, 1), strict=True):
        # 12 x 6 is a multiple of all sizes: plain averages.
        pooled = x.unfold(2, rows, rows).unfold(3, columns, columns).mean((-1, -2))
        level = (torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], pooled) / (1 + 1e-5) ** 0.5).add(
            norm.bias[:, None, None]
        )
        maps.append(F.interpolate(level.clamp(min=0), (12, 6), mode="bilinear", align_corners=False))
    mixed = F.conv2d(torch.cat(maps, 1), pooling.mix[0].weight, padding=1) / (1 + 1e-5) ** 0.5
    found = pooling(x)
    torch.testing.assert_close(found, mixed.clamp(min=0), rtol=1e-4, atol=1e-5)
    assert found.min() == 0


@torch.no_grad()
def test_psp_projects_the_pyramid():
    head = PSPHead(3, 2, hidden_dim=4).eval()
    x = feature(1, 3, 5, 8)
    pooled = head.pooling(x)
    expected = torch.einsum("oc,bchw->bohw", head.project.weight[:, :, 0, 0], pooled) + head.project.bias[:, None, None]
    torch.testing.assert_close(head(x), expected)
    assert {norm.momentum for norm in head.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {0.1}


def test_one_image_of_one_pixel_trains():
    for head in (DeepLabHead(3, 2), PSPHead(3, 2, hidden_dim=4)):
        x = feature(1, 3, 1, 1).requires_grad_()
        output = head.train()(x)
        output.sum().backward()
        assert output.shape == (1, 2, 1, 1)
        assert torch.isfinite(output).all() and torch.isfinite(x.grad).all()


def test_psp_keeps_the_frameworks_initialisation():
    torch.manual_seed(0)
    head = PSPHead(64, 32, hidden_dim=64)
    for conv in (head.pooling.mix[0], head.project, DeepLabHead(16, 64).branches[2]):
        # Uniform within 1 / sqrt(fan in): Kaiming with a = sqrt(5).
        bound = conv.weight[0].numel() ** -0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
