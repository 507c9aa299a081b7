"""Entropic optimal transport of pixels to instances (Sinkhorn, card 3.4), in a form without the pixels' potentials.

Published: potentials u of the instances and v of the pixels take turns for a fixed number of iterations. In exact
arithmetic v cancels in its own update, so one iteration is (card 8.1)

    mass_k = sum_x (demand_x + 1e-8) softmax_k((u - cost_x) / eps)
    u_k <- u_k + eps (log(supply_k + 1e-8) - log mass_k)

and the plan's largest entry of a pixel is argmax_k (u_k - cost_k). The iterations stay far from convergence (fault ao),
so their number is part of the method.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLOOR = 1e-8  # added to supply and demand before the logarithm (card 3.4)
_MARGIN = 200.0  # in units of epsilon: lead of a pixel's best instance from which the pixel counts as wholly its own
_BLOCK = 40  # iterations between two looks at what the margin left out
_PART = 65536  # pixels
_LOG_ACCURACY = math.log(1e-12)  # largest share of an instance's mass that may be left out


@torch.no_grad()
def transport_labels(
    cost: Tensor, supply: Tensor, demand: Tensor, *, epsilon: float = 1e-3, iterations: int = 80
) -> Tensor:
    """The instance to which the plan gives most of each pixel; equal shares go to the lowest instance.

    cost (n, P) finite; supply (n,) pixels that an instance should get; demand (P,), 1 or 0: what a pixel asks for.
    Returns (P,) int64 in 0..n-1; -1 everywhere when n = 0.
    """
    instances, pixels = cost.shape
    if instances < 2:
        return torch.full((pixels,), instances - 1, dtype=torch.int64, device=cost.device)
    potentials = sinkhorn_potentials(cost, supply, demand, epsilon=epsilon, iterations=iterations)
    # In parts: float64 values of all pixels at once are slower to allocate than to compute.
    parts = [(potentials[:, None] - part).max(dim=0).indices for part in cost.split(_PART, dim=1)]
    return torch.cat(parts)


@torch.no_grad()
def sinkhorn_potentials(
    cost: Tensor, supply: Tensor, demand: Tensor, *, epsilon: float = 1e-3, iterations: int = 80
) -> Tensor:
    """The instances' potentials u (n,) float64, in units of the cost, after `iterations` from 0; arguments as in
    `transport_labels`.

    Only pixels near the border of two cells change hands, and for those an iteration is two products with a fixed
    matrix. The others are counted once for a block of iterations; a block is kept up to the first iteration in which
    they could have changed the mass of an instance by more than 1e-12 of it.
    """
    log_supply = (supply.double() + _FLOOR).log()
    weight = demand.double() + _FLOOR
    potentials = torch.zeros_like(log_supply)  # in units of epsilon
    done = 0
    while done < iterations:
        moves, is_exact = _block(cost, log_supply, weight, potentials, epsilon, min(_BLOCK, iterations - done))
        kept = int(is_exact.long().cumprod(dim=0).sum())
        if kept == 0:
            potentials = potentials + log_supply - _log_mass(cost, potentials, weight, epsilon)
        else:
            potentials = potentials + moves[kept - 1]
        done += max(kept, 1)
    return potentials * epsilon


def _block(
    cost: Tensor, log_supply: Tensor, weight: Tensor, start: Tensor, epsilon: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Moves of the potentials away from `start` (n,) after each iteration, (iterations, n), and whether that iteration
    left out little enough, (iterations,) bool."""
    settled_mass, border = _split(cost, start * epsilon, weight, _MARGIN * epsilon)
    value = start[:, None] - cost[:, border].double() / epsilon
    kernel = (value - value.amax(dim=0)).exp()
    border_weight, log_total = weight[border], weight.sum().log()
    moves, is_exact = [torch.zeros_like(start)], []
    for _ in range(iterations):
        move = moves[-1]
        factor = (move - move.max()).exp()
        log_mass = (settled_mass + factor * (kernel @ (border_weight / (factor @ kernel)))).log()
        left_out = log_total - (_MARGIN - (move.max() - move.min()))
        is_exact.append(left_out - log_mass.min() < _LOG_ACCURACY)
        moves.append(move + log_supply - log_mass)
    return torch.stack(moves[1:]), torch.stack(is_exact)


def _split(cost: Tensor, potentials: Tensor, weight: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Mass (n,) of the pixels that are an instance's own by at least `margin`, and the indices of all other pixels."""
    value = potentials.to(cost.dtype)[:, None] - cost
    best, owner = value.max(dim=0)
    second = value.scatter_(0, owner[None], -torch.inf).amax(dim=0)
    contested = best - second < margin
    mass = torch.zeros_like(potentials).scatter_add_(0, owner, weight.masked_fill(contested, 0.0))
    return mass, contested.nonzero().squeeze(1)


def _log_mass(cost: Tensor, potentials: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """log mass_k (n,) over all pixels, in the log domain: right for a mass of exp(-10000) too."""
    log_share = torch.log_softmax(potentials[:, None] - cost.double() / epsilon, dim=0)
    return torch.logsumexp(log_share + weight.log(), dim=1)
