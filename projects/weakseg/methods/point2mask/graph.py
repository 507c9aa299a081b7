"""The pixel graph: a step between neighbours is dear where class, boundary or embedding change (card 3.4, step 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.refine.graph_distance import NEIGHBOURS


def edge_costs(
    probabilities: Tensor,
    boundary: Tensor,
    embedding: Tensor,
    *,
    lambda_probability: float = 1.0,
    lambda_boundary: float = 0.1,
    lambda_feature: float = 0.1,
) -> Tensor:
    """Costs of the 8 steps from every cell, in the order of `NEIGHBOURS`; diagonal steps have no surcharge.

    probabilities (B, C, h, w) class probabilities (channels of zeros may be left out); boundary (B, h, w) in [0, 1];
    embedding (B, E, h, w), of length about 1. Returns (B, h, w, 8), >= 0:

        lambda_probability * sum_c |q_i - q_j|  +  lambda_boundary * max(s_i, s_j)
            +  lambda_feature * max(0, 1 - <m_i, m_j>)

    A step that leaves the grid has the cost of a neighbour of zeros.
    """
    height, width = boundary.shape[-2:]
    around = [F.pad(values, (1, 1, 1, 1)) for values in (probabilities, boundary, embedding)]
    costs = []
    for dy, dx in NEIGHBOURS:
        rows, columns = slice(1 + dy, 1 + dy + height), slice(1 + dx, 1 + dx + width)
        neighbour_probabilities, neighbour_boundary, neighbour_embedding = (v[..., rows, columns] for v in around)
        class_change = (probabilities - neighbour_probabilities).abs().sum(dim=1)
        crossing = torch.maximum(boundary, neighbour_boundary)
        feature_change = (1.0 - (embedding * neighbour_embedding).sum(dim=1)).clamp(min=0.0)
        costs.append(lambda_probability * class_change + lambda_boundary * crossing + lambda_feature * feature_change)
    return torch.stack(costs, dim=-1)
