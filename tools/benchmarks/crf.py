"""Dense CRF on our lattice against the compiled library pydensecrf2 (SPML card 5.5, 8)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from weakseg.refine.crf import dense_crf

HELP = "dense CRF: the library pydensecrf2 (literal) against our lattice"
CLASSES = {"21 classes, 4 present": (21, 4), "21 classes, all present": (21, 21)}
REQUIRED_RATIO = {"cpu": 0.2, "cuda": 1.0}
"""At most 5 times slower than the library on one core; not slower than it on a GPU."""

_ERROR = 2e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument("--heights", type=int, nargs="+", default=[188, 375], help="image heights; width is 4/3 of it")
    parser.add_argument("--iterations", type=int, default=10, help="mean field steps")


def run(args: argparse.Namespace) -> list[dict]:
    """One row a number of classes and size; the last of each adds by which power of the pixels either form grows."""
    rows = []
    for name, (classes, present) in CLASSES.items():
        table = []
        for height in args.heights:
            width = height * 4 // 3
            forms = Forms(*make_scene(height, width, classes, present), args.iterations, args.device)
            timing = {"pairs": args.pairs, "device": args.device}
            table.append(compare(f"{name}, {width}x{height}", forms.literal, forms.ours, check_marginals, **timing))
        rows += add_growth(table, [height**2 for height in args.heights])
        rows[-1]["required_ratio"] = REQUIRED_RATIO["cpu" if on_cpu(args.device) else "cuda"]
    return rows


class Forms:
    """Both forms on one image. Each returns the marginals (K, H, W); the library works on the CPU wherever they are."""

    def __init__(self, scores: Tensor, image: Tensor, iterations: int, device: str):
        self.scores, self.image, self.iterations = scores.to(device), image.to(device), iterations

    def literal(self) -> Tensor:
        return dense_crf(self.scores, self.image, iterations=self.iterations, engine="pydensecrf")

    def ours(self) -> Tensor:
        return dense_crf(self.scores, self.image, iterations=self.iterations, engine="lattice")


def make_scene(height: int, width: int, classes: int, present: int) -> tuple[Tensor, Tensor]:
    """Smooth scores (classes, H, W), 0 but for `present` classes, and a uint8 image (H, W, 3) with edges and noise.

    Half of the colours is smooth, half flat in patches; a noise of 3 grey levels, as of a photograph, decides how many
    pixels share a vertex of the lattice.
    """
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, cell: int) -> Tensor:
        coarse = torch.randn(1, channels, height // cell + 2, width // cell + 2, generator=generator)
        return F.interpolate(coarse, size=(height, width), mode="bicubic")[0]

    scores = torch.zeros(classes, height, width)
    scores[:present] = (3 * smooth(present, 50)).softmax(0)
    patches = torch.randn(8, 3, generator=generator)[smooth(8, 40).argmax(0)].permute(2, 0, 1)
    noise = torch.randn(3, height, width, generator=generator)
    image = 120 + 40 * smooth(3, 60) + 40 * patches + 3 * noise
    return scores, image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def check_marginals(expected: Tensor, found: Tensor) -> None:
    error = float((expected - found).abs().max())
    if not error <= _ERROR:
        raise ValueError(f"expected marginals equal to {_ERROR}; found a difference of {error:.1e}.")
