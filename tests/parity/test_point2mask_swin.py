"""Swin of the release: maps and gradient of the image, and position tables of another window (card 2.1, fault w)."""

from itertools import count, product

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.reference import Reference, fill_rule, reference_files
from weakseg.backbones import SwinBackbone
from weakseg.backbones.swin import STAGES, resize_position_table

WINDOW = 7
SEEDS = (3052, *range(20000))
"""Seeds of the cotangent of the first output (that of output i is larger by i), the README's first."""


@reference_files("point2mask", "unit_swin")
def test_maps_and_gradient_of_the_image(path):
    with Reference(path) as ref:
        outputs = outputs_of(ref)
        backbone = recorded_backbone(ref, outputs)
        image, recorded = ref.tensor("image").requires_grad_(), ref.tensor("grad_image")
        maps = list(backbone(image).values())
        for name, found in zip(outputs.values(), maps, strict=True):
            ref.compare(name, found, rtol=1e-4, atol=1e-4)
        step = next(k for k in count(1) if image[:, :, ::k, ::k].shape == recorded.shape)
        seed = recorded_seed(backbone, image.detach(), recorded, step)
        sum((found * c).sum() for found, c in zip(maps, cotangents(seed, maps))).backward()
        ref.compare("grad_image", image.grad[:, :, ::step, ::step], rtol=1e-4, atol=1e-4)


@reference_files("point2mask", "unit_swin_adapt")
def test_position_tables_of_another_window(path):
    with Reference(path) as ref:
        for name in ref.cases("/resized"):
            window_size = (int(len(ref[f"{name}/resized"]) ** 0.5) + 1) // 2
            ref.compare(f"{name}/resized", resize_position_table(ref.tensor(name), window_size), atol=1e-5)


def outputs_of(ref) -> dict[str, str]:
    """Our feature names -> the arrays out0, out1, ..., told apart by their sizes."""
    height, width = ref["image"].shape[2:]
    sizes = {(-(-height // 2**k), -(-width // 2**k)): name for k, name in enumerate(STAGES, 2)}
    names = sorted((name for name in ref.keys() if name.startswith("out")), key=lambda name: int(name[3:]))
    return {sizes[ref[name].shape[2:]]: name for name in names}


def recorded_backbone(ref, outputs: dict[str, str]) -> SwinBackbone:
    """The network of the file, filled by the rule.

    The file tells channels and stages, but neither depths nor heads: the first of these networks whose outputs are the
    recorded ones. Assumed: windows of 7, at most 4 blocks a stage, as many channels a head in all stages.
    """
    stages = max(STAGES.index(feature) for feature in outputs) + 1
    feature, array = next(iter(outputs.items()))
    embed_dim = ref[array].shape[1] >> STAGES.index(feature)
    # Channels a head: that of the recorded network and of the published one are likely.
    widths = sorted((w for w in range(1, embed_dim + 1) if embed_dim % w == 0), key=lambda w: (w not in (8, 32), w))
    for depths, width in product(product((2, 1, 3, 4), repeat=stages), widths):
        heads = tuple((embed_dim << stage) // width for stage in range(stages))
        sizes = {"embed_dim": embed_dim, "depths": depths, "num_heads": heads, "window_size": WINDOW}
        backbone = SwinBackbone(**sizes, out_features=tuple(outputs)).eval()
        fill_rule().fill_state_dict(backbone.state_dict())
        with torch.no_grad():
            maps = backbone(ref.tensor("image"))
        if all(np.allclose(maps[name], ref[array], rtol=1e-4, atol=1e-4) for name, array in outputs.items()):
            return backbone
    pytest.fail(f"{ref.path.name}: none of the Swins that were tried, of {embed_dim} channels, gives its outputs")


def recorded_seed(backbone: SwinBackbone, image: Tensor, recorded: Tensor, step: int) -> int:
    """The seed of the cotangents, which the file leaves out: the one whose gradient is the recorded one along two
    directions."""
    known = []
    for number in range(2):
        direction = torch.from_numpy(np.random.default_rng(number).standard_normal(recorded.shape).astype(np.float32))
        spread = torch.zeros_like(image)
        spread[:, :, ::step, ::step] = direction
        _, changes = torch.func.jvp(lambda x: tuple(backbone(x).values()), (image,), (spread,))
        known.append((changes, (recorded * direction).sum().item()))
    for seed in SEEDS:
        fits = True
        for changes, slope in known:
            found = sum((c * change).sum().item() for c, change in zip(cotangents(seed, changes), changes))
            size = sum(change.square().sum().item() for change in changes) ** 0.5
            fits = fits and abs(found - slope) < 1e-4 * size
        if fits:
            return seed
    return SEEDS[0]


def cotangents(seed: int, maps) -> list[Tensor]:
    draws = (np.random.default_rng(seed + i).standard_normal(tuple(m.shape)) for i, m in enumerate(maps))
    return [torch.from_numpy(draw.astype(np.float32)) for draw in draws]
