"""Edge detectors that are networks, built as their file of weights says: HED and PiDiNet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.safe_io import read_weights
from weakseg.zoo.published import hint

_MIN_SIDE = 16
"""Pixels that the deepest stage, behind four halvings, needs."""


def read_edge_network(path: str | Path) -> nn.Module:
    """The network whose weights are in the file, told by their names: `HED` or `PiDiNet`; ready to run, on the CPU.

    Raises FileNotFoundError, or ValueError for another file, with a sentence that says what to do.
    """
    path = Path(path)
    if not path.is_file():
        sentence = f"{path}: expected the weights of an edge network (HED or PiDiNet); found no file."
        raise FileNotFoundError(f"{sentence} {hint(path.with_suffix('.pth')) or hint(path) or 'Check the path.'}")
    if path.suffix == ".pytorch":
        raise ValueError(
            f"{path}: expected a name that ends in .pth or .safetensors; found .pytorch. Rename the file to "
            f"{path.with_suffix('.pth').name}: it stays the same."
        )
    state = _state(read_weights(path))
    with torch.device("meta"):
        network = _network_of(state, path)
    expected = network.state_dict()
    wrong = sorted(name for name in expected.keys() | state.keys() if _shape(expected, name) != _shape(state, name))
    if wrong:
        raise ValueError(
            f"{path}: expected the {len(expected)} tensors of {type(network).__name__} with plain convolutions; found "
            f"{len(wrong)} that differ ({wrong[0]}: {_shape(state, wrong[0])} instead of {_shape(expected, wrong[0])})."
            " Give the file of such a network; PiDiNet's pixel differences must be converted to plain ones first."
        )
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def network_edges(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """Edges (H, W) float32 in [0, 1] of an image (H, W, 3) uint8 RGB, on the network's device."""
    height, width = image.shape[:2]
    device = next(network.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float()
    images = F.pad(images, (0, max(_MIN_SIDE - width, 0), 0, max(_MIN_SIDE - height, 0)), mode="replicate")
    return network(images)[0, :height, :width].cpu().numpy()


class HED(nn.Module):
    """Holistically-nested edges (arXiv 1504.06375): a score on each stage of VGG-16, and their weighted sum. Named, and
    padded by 1, like the port github.com/sniklaus/pytorch-hed."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for name, width, depth in zip(self._stages, (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)):
            layers: list[nn.Module] = [] if channels == 3 else [nn.MaxPool2d(2)]
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.add_module(f"netVgg{name}", nn.Sequential(*layers))
            self.add_module(f"netScore{name}", nn.Conv2d(width, 1, 1))
        self.netCombine = nn.Sequential(nn.Conv2d(5, 1, 1), nn.Sigmoid())

    _stages = ("One", "Two", "Thr", "Fou", "Fiv")

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) RGB, 0 to 255, sides of at least 16 pixels. Returns (B, H, W) edges in [0, 1]."""
        mean = images.new_tensor([104.00698793, 116.66876762, 122.67891434])
        x = images.flip(1) - mean[:, None, None]  # blue, green, red
        scores = []
        for name in self._stages:
            x = self.get_submodule(f"netVgg{name}")(x)
            scores.append(self.get_submodule(f"netScore{name}")(x))
        return self.netCombine(_stacked(scores, images))[:, 0]


class PiDiNet(nn.Module):
    """PiDiNet (arXiv 2108.07009) with its pixel-difference convolutions rewritten as plain ones: those of the radial
    kind have 5 x 5 pixels. `width` is 60, or 30 and 20 in the smaller ones."""

    _kernels = ((3, 5, 3), (3, 3, 5, 3), (3, 3, 5, 3), (3, 3, 5, 3))

    def __init__(self, width: int) -> None:
        super().__init__()
        dilated = 2 * width // 5
        self.init_block = nn.Conv2d(3, width, 3, padding=1, bias=False)
        stage_widths, channels = (width, 2 * width, 4 * width, 4 * width), width
        for stage, (kernels, stage_width) in enumerate(zip(self._kernels, stage_widths), start=1):
            for number, kernel in enumerate(kernels, start=1):
                block = _Block(channels, stage_width, kernel, is_first=stage > 1 and number == 1)
                self.add_module(f"block{stage}_{number}", block)
                channels = stage_width
        self.dilations = nn.ModuleList(_Dilations(stage_width, dilated) for stage_width in stage_widths)
        self.attentions = nn.ModuleList(_Attention(dilated) for _ in stage_widths)
        self.conv_reduces = nn.ModuleList(nn.ModuleDict({"conv": nn.Conv2d(dilated, 1, 1)}) for _ in stage_widths)
        self.classifier = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) RGB, 0 to 255, sides of at least 8 pixels. Returns (B, H, W) edges in [0, 1]."""
        mean, std = images.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        x = self.init_block((images / 255 - mean) / std)
        scores = []
        for stage, kernels in enumerate(self._kernels):
            for number in range(len(kernels)):
                x = self.get_submodule(f"block{stage + 1}_{number + 1}")(x)
            attended = self.attentions[stage](self.dilations[stage](x))
            scores.append(self.get_submodule(f"conv_reduces.{stage}.conv")(attended))
        return self.classifier(_stacked(scores, images)).sigmoid()[:, 0]


class _Block(nn.Module):
    """Depthwise convolution, ReLU, 1 x 1; added to the input, which the first block of a stage halves and widens."""

    def __init__(self, channels: int, width: int, kernel: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.conv2 = nn.Conv2d(channels, width, 1, bias=False)
        if is_first:
            self.shortcut = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_first:
            x = F.max_pool2d(x, 2)
        change = self.conv2(self.conv1(x).relu())
        return change + (self.shortcut(x) if self.is_first else x)


class _Dilations(nn.Module):
    """Few channels, then the sum of four dilated 3 x 3 convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        for number, dilation in enumerate((5, 7, 9, 11), start=1):
            dilated = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
            self.add_module(f"conv2_{number}", dilated)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x.relu())
        return torch.stack([self.get_submodule(f"conv2_{number}")(x) for number in range(1, 5)]).sum(0)


class _Attention(nn.Module):
    """Each pixel times a factor in (0, 1) of its surroundings."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 1)
        self.conv2 = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(x.relu())).sigmoid()


def _state(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file by the names of the networks here."""
    content = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
    named = {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    # The file of HED's port has older names (moduleVggOne) than its code.
    return {name.replace("module", "net", 1): value for name, value in named.items()}


def _network_of(state: dict[str, Tensor], path: Path) -> nn.Module:
    if "netCombine.0.weight" in state:
        return HED()
    first = state.get("init_block.weight")
    if first is not None and first.shape[:1] in ((20,), (30,), (60,)):
        return PiDiNet(len(first))
    raise ValueError(
        f"{path}: expected the weights of HED (names as netCombine.0.weight) or PiDiNet (init_block.weight with 20, 30 "
        f"or 60 channels); found {_some(state) or 'no tensor'}. Give the file of one of them."
    )


def _stacked(scores: Iterable[Tensor], images: Tensor) -> Tensor:
    """Maps (B, 1, h, w) of several sizes as (B, N, H, W), of the size of the images."""
    size = images.shape[-2:]
    return torch.cat([F.interpolate(score, size, mode="bilinear", align_corners=False) for score in scores], dim=1)


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "none"


def _some(state: dict[str, Tensor]) -> str:
    return ", ".join(sorted(state)[:3])
