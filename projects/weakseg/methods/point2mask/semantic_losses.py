"""What trains the semantic decoder from points: class existence, dilated points, similar colours near and far.

Card sections 3.1 to 3.3. The losses take the logits of all L decoder layers at once; what depends on the images or the
points alone (dilated points, colour affinity, tree) is computed once a step. `valid` (B, h, w) bool marks the pixels of
the small map that lie in the unpadded images; None is the published form, in which padding takes part (fault r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor

from weakseg.labels import NO_CLASS
from weakseg.layers.tree_filter import Tree, edge_similarity, minimum_spanning_tree, tree_filter

_TREE_SIGMA = 0.02
_DILATION = 2
_KERNEL_SHARES = {3: 0.35, 5: 0.65}
_MIN_COLOR_SIMILARITY = 0.3

# One of each two opposite offsets (dy, dx) of the 5 x 5 window; the first four are those of the 3 x 3 window.
_PAIR_OFFSETS = sorted(
    ((dy, dx) for dy in (0, 2, 4) for dx in (-4, -2, 0, 2, 4) if (dy, dx) > (0, 0)),
    key=lambda offset: max(offset[0], abs(offset[1])),
)

# A colour so far from any normalised one that a tree edge to it is the last choice and has similarity 0.
_FAR_COLOR = 1e4


@dataclass(frozen=True)
class DilatedPoints:
    """Dilated labelled pixels of the K (image, class) pairs that occur, sorted by image, then class.

    image_index (K,), class_index (K,) int64; masks (K, H, W) bool; present (B, C) bool, the classes of each image.
    """

    image_index: Tensor
    class_index: Tensor
    masks: Tensor
    present: Tensor

    def labels_at(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Targets on a smaller map: the masks' nearest pixel, source index floor(i * H / height).

        Returns the class map (B, height, width) int64, the lowest class where masks overlap (fault aj), 255 where there
        is none; and the number of classes that cover each pixel, (B, height, width) int64.
        """
        rows = torch.arange(height, device=self.masks.device) * self.masks.shape[1] // height
        columns = torch.arange(width, device=self.masks.device) * self.masks.shape[2] // width
        small = self.masks[:, rows[:, None], columns]
        shape = (len(self.present), height, width)
        covering = torch.zeros(shape, dtype=torch.int64, device=small.device).index_add_(
            0, self.image_index, small.long()
        )
        classes = torch.where(small, self.class_index[:, None, None], NO_CLASS)
        target = torch.full(shape, NO_CLASS, dtype=torch.int64, device=small.device)
        image = self.image_index[:, None, None].expand_as(classes)
        return target.scatter_reduce_(0, image, classes, "amin"), covering


def dilate_points(point_map: Tensor, num_classes: int, size: int = 17) -> DilatedPoints:
    """Grow each labelled pixel to a square of its class (card section 3.1); squares of different classes may overlap.

    point_map (B, H, W) int64, 255 for none; size: side of the square in pixels, odd.
    """
    batch = len(point_map)
    last_is_none = torch.where(point_map == NO_CLASS, num_classes, point_map).flatten(1)
    present = torch.zeros(batch, num_classes + 1, dtype=torch.bool, device=point_map.device)
    present = present.scatter_(1, last_is_none, True)[:, :num_classes]
    image_index, class_index = present.nonzero(as_tuple=True)  # the one question for a size
    masks = point_map[image_index] == class_index[:, None, None]
    return DilatedPoints(image_index, class_index, _dilate(_dilate(masks, size, dim=1), size, dim=2), present)


def _dilate(masks: Tensor, size: int, dim: int) -> Tensor:
    """Running maximum of `size` neighbours along a dimension of masks (K, H, W) bool, by windows of 1, 2, 4, ...."""
    margin = [0, 0] * (2 - dim) + [size // 2, size // 2]
    masks, window = F.pad(masks, margin), 1
    while window < size:
        step = min(window, size - window)
        length = masks.shape[dim] - step
        masks = masks.narrow(dim, 0, length) | masks.narrow(dim, step, length)
        window += step
    return masks


def pixels_inside(
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    size: tuple[int, int],
    *,
    device: torch.device | None = None,
) -> Tensor:
    """(B, h, w) bool: which pixels of a map of `size` (h, w) over a batch of padded_size (H, W) are in the unpadded
    images of image_sizes. The nearest pixel of the batch decides, as in `DilatedPoints.labels_at`."""
    # Comparing with plain numbers, nothing is copied to the device.
    rows, columns = (torch.arange(n, device=device) * full // n for n, full in zip(size, padded_size))
    return torch.stack([(rows < height)[:, None] & (columns < width) for height, width in image_sizes])


def unlabelled_count(covering: Tensor, valid: Tensor | None = None, *, official: bool = False) -> Tensor:
    """Number of pixels without a target, what the tree loss is divided by (a scalar; it can be 0).

    covering (B, h, w) as `DilatedPoints.labels_at` counts. The published form (`official`) counts a pixel under k
    squares as 1 - k, so that its sum can fall to 0 and below (fault o).
    """
    unlabelled = 1 - (covering if official else covering.clamp(max=1))
    return unlabelled.sum() if valid is None else (unlabelled * valid).sum()


def existence_loss_sum(logits: Tensor, present: Tensor) -> Tensor:
    """Focal loss of class existence (card `loss_sem_cls`): logits (L, B, C), present (B, C) bool. Returns sums (L,)."""
    targets = present.to(logits.dtype).expand_as(logits)
    return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="none").sum((1, 2))


def partial_cross_entropy_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy on the labelled pixels (card `loss_sem_mask`): logits (L, B, C, h, w), target (B, h, w) int64 with
    255 for none. Returns sums (L,)."""
    targets = target.expand(len(logits), *target.shape).flatten(0, 1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=NO_CLASS, reduction="none")
    return losses.unflatten(0, logits.shape[:2]).sum((1, 2, 3))


def color_affinity(lab: Tensor, valid: Tensor | None = None, *, official: bool = False) -> Tensor:
    """Weight of each pair of neighbouring pixels in the colour prior.

    lab (B, 3, h, w). Two pixels of a window count when exp(-0.5 |Lab_i - Lab_j|) >= 0.3; a window's share is divided by
    the number of its pairs in the image, each pair in both directions. Returns (12, B, h, w): entry [o, b, y, x] weighs
    (y, x) with its neighbour at `_PAIR_OFFSETS[o]`, both directions together; 0 where that lies outside. The published
    form (`official`) also counts neighbours outside the map, which are black there (fault n).
    """
    batch, _, height, width = lab.shape
    pairs = lab.new_zeros(len(_PAIR_OFFSETS), batch, height, width)
    for pair, offset in zip(pairs, _PAIR_OFFSETS):
        here, there = _pair_slices(lab.shape, offset)
        close = _is_close(lab[here] - lab[there])
        pair[here] = close if valid is None else close & valid[here] & valid[there]
    affinity = torch.zeros_like(pairs)
    for kernel, share in _KERNEL_SHARES.items():
        window = slice((kernel * kernel - 1) // 2)
        count = 2 * pairs[window].sum((0, 2, 3))
        if official:
            rows, columns = (_neighbours_inside(size, kernel, lab.device) for size in (height, width))
            outside = kernel * kernel - rows[:, None] * columns
            count += (_is_close(lab) * outside).sum((1, 2))
        affinity[window] += pairs[window] * (2 * share / count.clamp(min=1))[:, None, None]
    return affinity


def color_prior_loss(logits: Tensor, affinity: Tensor) -> Tensor:
    """Neighbours of one colour are of one class (card `loss_sem_color`): - log sum_c p_c(i) p_c(j), averaged over the
    pairs of each image, then over images. logits (L, B, C, h, w); affinity of `color_affinity`. Returns (L,)."""
    return _ColorPrior.apply(_full_precision(logits).log_softmax(2), affinity) / max(logits.shape[1], 1)


def color_tree(images: Tensor, valid: Tensor | None = None) -> tuple[Tree, Tensor]:
    """Spanning tree of normalised images (B, 3, h, w) and its edge similarities (B, h * w), without gradient.

    With `valid`, no path leaves the valid pixels (of each image a rectangle): what lies outside hangs on one edge of
    similarity 0.
    """
    guide = images if valid is None else images.masked_fill(~valid[:, None], _FAR_COLOR)
    tree = minimum_spanning_tree(guide)
    return tree, edge_similarity(guide, tree, _TREE_SIGMA)


def tree_loss_sum(
    logits: Tensor,
    tree: Tree,
    similarity: Tensor,
    valid: Tensor | None = None,
    *,
    present: Tensor | None = None,
) -> Tensor:
    """Distance |P - F| of the class probabilities from themselves filtered along the tree (card `loss_tree_color`).

    logits (L, B, C, h, w); tree and similarity of `color_tree`. Returns sums over images, classes and pixels (L,).

    With `present` (B, C) bool, the classes that an image's points name, these are filtered and, as one more channel,
    the sum of all others; absent classes get their gradient through that sum. Without it (published) all C are
    filtered. As |sum| <= sum of || and the filter is linear, the loss is at most the published one and lacks at most
    the absent classes' own distances; where no more than one class is absent it is the same. It does not see how absent
    classes share their sum.
    """
    logits = _full_precision(logits)
    probability = logits.softmax(2) if present is None else _present_and_rest(logits, present)
    by_image = probability.transpose(0, 1)
    filtered = tree_filter(by_image.flatten(1, 2), tree, similarity).view(by_image.shape)
    distance = (by_image - filtered).abs().sum(2)
    return (distance if valid is None else distance * valid[:, None]).sum((0, 2, 3))


def _present_and_rest(logits: Tensor, present: Tensor) -> Tensor:
    """Probabilities (L, B, K + 1, h, w): of the classes present in an image, zeros up to the K of the image that has
    most, and of all others together."""
    most = int(present.sum(1).amax()) if len(present) else 0  # waits for the device, as building the tree does
    index = present.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    chosen = logits.gather(2, index[..., None, None].expand(len(logits), -1, -1, *logits.shape[-2:]))
    probability = (chosen - logits.logsumexp(2, keepdim=True)).exp()
    probability = probability * present.gather(1, index)[..., None, None]
    return torch.cat([probability, 1 - probability.sum(2, keepdim=True)], dim=2)


class _ColorPrior(torch.autograd.Function):
    """Sum over pairs of - affinity * log sum_c p_c(i) p_c(j). The gradient is made beside the value, pair by pair: one
    tensor of the logits' size is kept, not one a neighbour."""

    @staticmethod
    def forward(ctx, log_probability: Tensor, affinity: Tensor) -> Tensor:
        """log_probability (L, B, C, h, w), affinity (12, B, h, w). Returns (L,)."""
        losses = log_probability.new_zeros(len(log_probability))
        gradient = torch.zeros_like(log_probability) if ctx.needs_input_grad[0] else None
        for weight, offset in zip(affinity, _PAIR_OFFSETS):
            here, there = _pair_slices(log_probability.shape, offset)
            joint = log_probability[here] + log_probability[there]
            largest = joint.amax(2, keepdim=True)
            joint = joint.sub_(largest).exp_()
            total = joint.sum(2, keepdim=True)
            pair_weight = weight[here][:, None]
            losses -= ((largest + total.log()) * pair_weight).sum((1, 2, 3, 4))
            if gradient is not None:
                joint *= pair_weight / total
                gradient[here] -= joint
                gradient[there] -= joint
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, loss_gradient: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * loss_gradient[:, None, None, None, None], None


def _full_precision(logits: Tensor) -> Tensor:
    """Autocast hands over half precision, in which the smallest probabilities of many classes vanish."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pair_slices(shape: torch.Size, offset: tuple[int, int]) -> tuple[tuple, tuple]:
    """Indices of a map (..., h, w): all pixels whose neighbour at `offset` is inside, and these neighbours."""
    (height, width), (dy, dx) = shape[-2:], offset
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    here = (..., slice(rows), slice(left, left + columns))
    there = (..., slice(dy, dy + rows), slice(right, right + columns))
    return here, there


def _is_close(difference: Tensor) -> Tensor:
    """difference (B, 3, h, w) of Lab colours. Returns (B, h, w) bool."""
    # Tensor.norm over this dimension takes a hundred times as long on a CPU.
    return torch.exp(-0.5 * difference.square().sum(1).sqrt()) >= _MIN_COLOR_SIMILARITY


def _neighbours_inside(length: int, kernel: int, device: torch.device) -> Tensor:
    """For each position of a line, how many of the `kernel` positions of its dilated window lie on the line."""
    steps = _DILATION * (torch.arange(kernel, device=device) - kernel // 2)
    positions = torch.arange(length, device=device)[:, None] + steps
    return ((positions >= 0) & (positions < length)).sum(1)
