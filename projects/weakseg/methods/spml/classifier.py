"""The pixel classifier that is trained beside the embedding, and once more on pseudo labels (card 2.4, 3.6, 3.13)."""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from weakseg.labels import IGNORED
from weakseg.layers.sync_batch_norm import batch_norm


class PixelClassifier(nn.Module):
    """Two convolutions on the embedding of unit length."""

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        dropout: float = 0.75,
        norm: str = "SyncBN",
        trains_embedding: bool = False,
    ):
        """dropout: 0.75 beside the embedding, 0.65 in the classifier stage; trains_embedding: its gradient reaches the
        embedding, as in a plain segmenter."""
        super().__init__()
        self.trains_embedding = trains_embedding
        hidden_dim = 2 * embedding_dim
        self.conv = nn.Conv2d(embedding_dim, hidden_dim, kernel_size=3, padding=1, bias=False)
        self.norm = batch_norm(norm)(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.predict = nn.Conv2d(hidden_dim, num_classes, kernel_size=1)

    def forward(self, embedding: Tensor) -> Tensor:
        """embedding (B, C, h, w), detached here unless it is trained; a zero vector stays zero. Returns logits
        (B, K, h, w)."""
        embedding = embedding if self.trains_embedding else embedding.detach()
        unit = F.normalize(at_least_fp32(embedding), dim=1)
        return self.predict(self.dropout(F.relu(self.norm(self.conv(unit)))))

    def reset(self) -> None:
        """Fresh weights, the same in all processes."""
        self.conv.reset_parameters()
        self.norm.reset_parameters()  # type: ignore[operator]
        self.predict.reset_parameters()
        if comm.get_world_size() > 1:
            for value in self.state_dict().values():
                torch.distributed.broadcast(value, 0)

    def full_logits(self, embedding: Tensor, size: tuple[int, int], *, at_stride_4: bool = False) -> Tensor:
        """Logits (B, K, H, W) at `size` from an embedding (B, C, h, w).

        Published models were evaluated on the resized embedding, where the 3x3 convolution sees a fourth of the width
        that it was trained with (fault l); at_stride_4 classifies first and resizes the logits.
        """
        if at_stride_4:
            return _resize(self(embedding), size)
        return self(_resize(embedding, size))


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the labelled pixels at full resolution (card 3.6).

    logits (B, K, h, w) at any stride, resized here; labels (B, H, W) integers, of which 0..K-1 count. Returns the sum
    over pixels and their number, () each; without any the sum is 0 and part of the graph (fault d).
    """
    labelled = (labels >= 0) & (labels < logits.shape[1])
    target = torch.where(labelled, labels, IGNORED).long()
    full = _resize(at_least_fp32(logits), (labels.shape[-2], labels.shape[-1]))
    return F.cross_entropy(full, target, ignore_index=IGNORED, reduction="sum"), labelled.sum()


def at_least_fp32(values: Tensor) -> Tensor:
    """Half precision becomes fp32; double stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
