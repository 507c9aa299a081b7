"""Entropic optimal transport of pixels to instances (Sinkhorn, card 3.4), in a form without the pixels' potentials.

Published: potentials u of the instances and v of the pixels take turns for a fixed number of iterations. In exact
arithmetic v cancels in its own update, so one iteration is (card 8.1)

    mass_k = sum_x (demand_x + 1e-8) softmax_k((u - cost_x) / eps)
    u_k <- u_k + eps (log(supply_k + 1e-8) - log mass_k)

and the plan's largest entry of a pixel is argmax_k (u_k - cost_k). The iterations stay far from convergence (fault ao),
so their number is part of the method.

The images of a batch are problems of their own that run side by side: slot n of image b is one of its instances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLOOR = 1e-8  # added to supply and demand before the logarithm (card 3.4)
_MARGIN = 200.0  # in units of epsilon: lead of a pixel's best instance from which the pixel counts as wholly its own
_BLOCK = 40  # iterations between two looks at what the margin left out
_CHUNK = 4096  # border pixels of one image in a matrix of the iterations
_ROUNDING = 2.0**30  # fractions of epsilon to which the result is rounded
_LOG_ACCURACY = math.log(1e-12)  # largest share of an instance's mass that may be left out


@torch.no_grad()
def transport_labels(
    cost: Tensor,
    supply: Tensor,
    demand: Tensor,
    *,
    taking_part: Tensor | None = None,
    inside: Tensor | None = None,
    epsilon: float = 1e-3,
    iterations: int = 80,
) -> Tensor:
    """The instance to which the plan gives most of each pixel; equal shares go to the lowest instance.

    cost (n, B, P) finite; supply (n, B) pixels that an instance should get; demand (B, P), 1 or 0: what a pixel asks
    for; taking_part (n, B) bool, the slots that hold an instance, and inside (B, P) bool, the pixels that exist: all of
    them if None. Without the batch's dimension everywhere it is one problem.
    Returns (B, P) or (P,) int64 in 0..n-1; -1 everywhere when n = 0.
    """
    instances = len(cost)
    if instances < 2:
        return torch.full(demand.shape, instances - 1, dtype=torch.int64, device=cost.device)
    options: dict = {"epsilon": epsilon, "iterations": iterations}
    potentials = sinkhorn_potentials(cost, supply, demand, taking_part=taking_part, inside=inside, **options)
    # In parts: float64 values of all pixels at once are slower to allocate than to compute.
    return torch.cat(
        [(potentials[..., None] - cost[..., part]).max(dim=0).indices for part in pixel_parts(cost)], dim=-1
    )


def pixel_parts(maps: Tensor) -> list[slice]:
    """Parts of the pixels of maps (..., P): on a CPU so small that what is computed from one stays in the cache,
    elsewhere so large that their number hardly matters."""
    pixels = maps.shape[-1]
    step = values_at_once(maps.device) // max(maps.numel() // max(pixels, 1), 1) + 1
    return [slice(start, start + step) for start in range(0, pixels, step)]


def values_at_once(device: torch.device) -> int:
    """How many values a temporary tensor should hold."""
    return 2**18 if device.type == "cpu" else 2**26


@torch.no_grad()
def sinkhorn_potentials(
    cost: Tensor,
    supply: Tensor,
    demand: Tensor,
    *,
    taking_part: Tensor | None = None,
    inside: Tensor | None = None,
    epsilon: float = 1e-3,
    iterations: int = 80,
) -> Tensor:
    """The instances' potentials u (n, B) or (n,) float64, in units of the cost, after `iterations` from 0; -inf in a
    slot without an instance; arguments as in `transport_labels`.

    Only pixels near the border of two cells change hands, and for those an iteration is two products with a fixed
    matrix. The others are counted once for a block of iterations; an image keeps of a block what comes before the first
    iteration in which they could have changed the mass of an instance by more than 1e-12 of it.
    """
    if cost.dim() == 2:
        problem = cost[:, None], supply[:, None], demand[None]
        return sinkhorn_potentials(*problem, epsilon=epsilon, iterations=iterations)[:, 0]
    log_supply, weight = (supply.double() + _FLOOR).log(), demand.double() + _FLOOR
    if inside is not None:
        weight *= inside
    potentials = torch.zeros_like(log_supply)  # in units of epsilon
    if taking_part is not None:
        log_supply = log_supply.masked_fill(~taking_part, -torch.inf)
        potentials = potentials.masked_fill(~taking_part, -torch.inf)
    left = torch.where(log_supply.isfinite().any(dim=0), iterations, 0)
    most_left, image = iterations, torch.arange(cost.shape[1], device=cost.device)
    while most_left > 0:
        moves, is_exact = _block(cost, log_supply, weight, potentials, epsilon, min(_BLOCK, most_left))
        kept = torch.minimum(is_exact.long().cumprod(dim=0).sum(dim=0), left)
        potentials = potentials + moves[kept, :, image].T
        left = left - kept
        # The one question about progress: images that are stuck go one iteration on with all their pixels.
        lefts, kepts = torch.stack([left, kept]).tolist()
        stuck = [b for b, (remaining, done) in enumerate(zip(lefts, kepts)) if remaining and not done]
        for b in stuck:
            log_mass = _log_mass(cost[:, b], potentials[:, b], weight[b], epsilon)
            potentials[:, b] += log_supply[:, b] - log_mass.nan_to_num(neginf=0.0)
            left[b] -= 1
        most_left = max(remaining - (b in stuck) for b, remaining in enumerate(lefts))
    # Sums are added up in another order for each slot: rounding keeps instances with equal distances equal.
    return (potentials * _ROUNDING).round() / _ROUNDING * epsilon


def _block(
    cost: Tensor, log_supply: Tensor, weight: Tensor, start: Tensor, epsilon: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Moves of the potentials away from `start` (n, B) before the first and after each iteration, (1 + iterations, n,
    B), and whether an iteration left out little enough, (iterations, B) bool."""
    taking_part = log_supply > -torch.inf
    settled_mass, kernel, kernel_weight, image = _split(cost, start, weight, epsilon)
    settled_mass = torch.where(taking_part, settled_mass, 1.0)
    is_of_image = (image[:, None] == torch.arange(cost.shape[1], device=cost.device)).double()
    moves, log_masses = [torch.where(taking_part, 0.0, -torch.inf).double()], []
    for _ in range(iterations):
        factor = moves[-1].softmax(dim=0)  # a factor of an image cancels
        total = factor.T[image].unsqueeze(1) @ kernel
        share = kernel @ (kernel_weight / total).mT
        log_masses.append((settled_mass + factor * (share[..., 0].T @ is_of_image)).log())
        moves.append(moves[-1] + log_supply - log_masses[-1])
    result = torch.stack(moves)
    start_moves = result[:-1]
    spread = start_moves.amax(dim=1) - start_moves.masked_fill(~taking_part, torch.inf).amin(dim=1)
    left_out = weight.sum(dim=1).log() - (_MARGIN - spread)
    least_mass = torch.stack(log_masses).masked_fill(~taking_part, torch.inf).amin(dim=1)
    return result, left_out - least_mass < _LOG_ACCURACY


def _split(cost: Tensor, start: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mass (n, B) of the pixels that are an instance's own by the margin; and all other pixels in chunks of one image:
    kernel (G, n, L), weight (G, 1, L), 0 where a chunk is filled up, and image (G,)."""
    mass = torch.zeros_like(start).T.contiguous()
    contested, potentials = [], (start * epsilon).to(cost.dtype)[..., None]
    for part in pixel_parts(cost):
        value = potentials - cost[..., part]
        best, owner = value.max(dim=0)
        second = value.scatter_(0, owner[None], -torch.inf).amax(dim=0)
        contested.append(best - second < _MARGIN * epsilon)
        mass.scatter_add_(1, owner, weight[:, part].masked_fill(contested[-1], 0.0))
    index, image, is_filling = _chunks(torch.cat(contested, dim=1))
    kernel = cost.flatten(1)[:, index].transpose(0, 1).double().div_(-epsilon).add_(start.T[image].unsqueeze(2))
    kernel = kernel.sub_(kernel.amax(dim=1, keepdim=True)).exp_()
    return mass.T, kernel, weight.flatten()[index].masked_fill(is_filling, 0.0).unsqueeze(1), image


def _chunks(contested: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels where contested (B, P) bool holds, in chunks of one image: index (G, L) into the B * P pixels, image
    (G,), and whether an index is there to fill the image's last chunk, (G, L)."""
    counts = contested.sum(dim=1).tolist()
    pixel = contested.flatten().nonzero()[:, 0]
    length = min(_CHUNK, max(counts))
    chunks, end = [], 0
    for image, count in enumerate(counts):
        begin, end = end, end + count
        chunks += [(image, start, end) for start in range(begin, end, _CHUNK)]
    chunk = torch.tensor(chunks, dtype=torch.int64).view(-1, 3).to(contested.device, non_blocking=True)
    position = chunk[:, 1:2] + torch.arange(length, device=contested.device)
    last = chunk[:, 2:] - 1
    return pixel[torch.minimum(position, last)], chunk[:, 0], position > last


def _log_mass(cost: Tensor, potentials: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """log mass_k (n,) of one image over all pixels, in the log domain: right for a mass of exp(-10000) too."""
    log_share = torch.log_softmax(potentials[:, None] - cost.double() / epsilon, dim=0)
    return torch.logsumexp(log_share + weight.log(), dim=1)
