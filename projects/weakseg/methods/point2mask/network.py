"""The network of Point2Mask (card 2): neck, encoder, location decoder, three mask decoders, embedding and boundary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.layers.position_encoding import encoder_reference_points, level_paddings, sine_position, valid_ratios
from weakseg.methods.point2mask.mask_decoder import NUM_MASK_LEVELS, ClassMaskDecoder, MaskDecoder
from weakseg.methods.point2mask.neck import Neck
from weakseg.methods.point2mask.transformer import DeformableEncoder, Location, LocationDecoder

NUM_LEVELS = 4
"""Levels of the neck and of deformable attention, of stride 8, 16, 32 and 64."""


@dataclass
class Encoded:
    """The encoder's view of a batch; tokens are the pixels of all levels, row by row, level after level.

    memory (B, S, D); position (B, S, D), sine position plus level embedding; padding (B, S) bool, True outside the
    image; sizes: (h, w) per level; valid_ratios (B, 4, 2) as (x, y), the unpadded part of each level.
    """

    memory: Tensor
    position: Tensor
    padding: Tensor
    sizes: list[tuple[int, int]]
    valid_ratios: Tensor

    @property
    def num_mask_tokens(self) -> int:
        """S3: the tokens that masks, embedding and boundary are read from."""
        return sum(h * w for h, w in self.sizes[:NUM_MASK_LEVELS])

    def mask_inputs(self) -> dict:
        """What the mask decoders read: memory, padding and sizes of the first three levels."""
        tokens = self.num_mask_tokens
        return {
            # In one piece: each projection would make, and keep, a copy of its own.
            "memory": self.memory[:, :tokens].contiguous(),
            "padding": self.padding[:, :tokens],
            "sizes": self.sizes[:NUM_MASK_LEVELS],
        }


class Point2MaskNetwork(nn.Module):
    """From three backbone maps to queries and masks. `T` things, `U` stuff classes, `C = T + U`, `D` hidden_dim."""

    def __init__(
        self,
        in_channels: list[int],
        *,
        num_things: int,
        num_stuff: int,
        hidden_dim: int = 256,
        ffn_dim: int = 1024,
        num_heads: int = 8,
        num_points: int = 4,
        enc_layers: int = 6,
        dec_layers: int = 6,
        num_queries: int = 300,
        dropout: float = 0.1,
        thing_layers: int = 4,
        stuff_layers: int = 6,
        semantic_layers: int = 6,
        embed_dim: int = 128,
        gradient_checkpointing: bool = False,
    ):
        """gradient_checkpointing: run the layers of encoder and decoders again in the backward pass instead of keeping
        what they computed."""
        super().__init__()
        num_classes = num_things + num_stuff
        common: dict = {
            "dim": hidden_dim,
            "ffn_dim": ffn_dim,
            "num_heads": num_heads,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.neck = Neck(in_channels, hidden_dim)
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.encoder = DeformableEncoder(num_layers=enc_layers, num_points=num_points, dropout=dropout, **common)
        self.location_decoder = LocationDecoder(
            num_things=num_things,
            num_queries=num_queries,
            num_layers=dec_layers,
            num_points=num_points,
            dropout=dropout,
            **common,
        )
        self.thing_decoder = MaskDecoder(num_layers=thing_layers, **common)
        self.stuff_decoder = ClassMaskDecoder(num_stuff, num_layers=stuff_layers, **common)
        self.stuff_decoder.start_from_prior()
        self.semantic_decoder = ClassMaskDecoder(num_classes, num_layers=semantic_layers, **common)
        self.semantic_scale = nn.Conv2d(num_classes, num_classes, 1, groups=num_classes)
        nn.init.ones_(self.semantic_scale.weight)
        nn.init.zeros_(self.semantic_scale.get_parameter("bias"))
        self.embedding_head = _pixel_head(hidden_dim, embed_dim)
        self.boundary_head = _pixel_head(hidden_dim, 1)

    def encode(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]], padded_size: tuple[int, int]
    ) -> Encoded:
        """features: (B, C_l, h_l, w_l) of stride 8, 16, 32 of images of image_sizes (h, w) in a batch of padded_size
        (H, W)."""
        levels = self.neck(features)
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        paddings = level_paddings(image_sizes, padded_size, sizes, device=levels[0].device)
        ratios = valid_ratios(paddings)
        padding = torch.cat([p.flatten(1) for p in paddings], dim=1)
        positions = [sine_position(p, levels[0].shape[1]).flatten(2).transpose(1, 2) for p in paddings]
        position = torch.cat([p + embedding for p, embedding in zip(positions, self.level_embedding)], dim=1)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        reference = encoder_reference_points(sizes, ratios)
        memory = self.encoder(tokens, position, reference=reference, padding=padding, sizes=sizes)
        return Encoded(memory=memory, position=position, padding=padding, sizes=sizes, valid_ratios=ratios)

    def locate(self, encoded: Encoded) -> Location:
        """Class and box of every thing query after every decoder layer."""
        return self.location_decoder(
            encoded.memory, valid_ratios=encoded.valid_ratios, padding=encoded.padding, sizes=encoded.sizes
        )

    def thing_masks(self, queries: Tensor, encoded: Encoded, *, last_only: bool = False) -> Tensor:
        """Masks (L, B, N, h0, w0) >= 0, decided at 0.5, of the location decoder's states `queries` (B, N, D), which do
        not see each other. With `last_only` L is 1."""
        states, masks = self.thing_decoder(queries, **encoded.mask_inputs(), last_only=last_only)
        if last_only:
            return masks
        # No loss reads the last states. This zero gives the layers behind the last mask a gradient of 0 instead of
        # none: with several processes every parameter must have one, and with weight decay it decides what is decayed.
        return masks + 0.0 * states[-1].sum()

    def stuff(self, encoded: Encoded, *, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Masks (L, B, U, h0, w0) >= 0, decided at 0.5, and existence logits (L, B, U) of the stuff classes."""
        return self.stuff_decoder(**encoded.mask_inputs(), last_only=last_only)

    def semantic(self, encoded: Encoded, *, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Semantic logits (L, B, C, h0, w0), scaled by the existence of their class, and existence logits (L, B, C)."""
        masks, existence = self.semantic_decoder(**encoded.mask_inputs(), last_only=last_only)
        logits = self.semantic_scale(masks.flatten(0, 1)).view_as(masks)
        return logits * existence.sigmoid()[..., None, None], existence

    def embed(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Embedding (B, E, h0, w0) of norm 1 over its channels, and boundary logits (B, h0, w0).

        The input, memory and position, is detached: the losses of these heads train the heads alone.
        """
        sizes, tokens = encoded.sizes[:NUM_MASK_LEVELS], encoded.num_mask_tokens
        levels = (encoded.memory + encoded.position)[:, :tokens].detach().transpose(1, 2)
        total = levels.new_zeros(())
        for (h, w), level in zip(sizes, levels.split([h * w for h, w in sizes], dim=-1)):
            level = level.reshape(*level.shape[:2], h, w)
            total = total + F.interpolate(level, size=sizes[0], mode="bilinear", align_corners=False)
        return F.normalize(self.embedding_head(total), dim=1), self.boundary_head(total)[:, 0]


def _pixel_head(dim: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, out_channels, 1))
