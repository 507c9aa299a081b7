"""Transport without the pixels' potentials gives what the literal iteration gives."""

import pytest
import torch

from weakseg.methods.point2mask.transport import sinkhorn_potentials, transport_labels


def literal(cost, supply, demand, epsilon, iterations):
    """Card 3.4 word by word, in float64: first v, then u. Returns u and the plan."""
    cost = cost.double()
    log_supply, log_demand = (supply.double() + 1e-8).log(), (demand.double() + 1e-8).log()
    u, v = torch.ones(cost.shape[0]).double(), torch.ones(cost.shape[1]).double()
    for _ in range(iterations):
        v = epsilon * (log_demand - torch.logsumexp((-cost + u[:, None] + v) / epsilon, dim=0)) + v
        u = epsilon * (log_supply - torch.logsumexp((-cost + u[:, None] + v) / epsilon, dim=1)) + u
    return u, torch.exp((-cost + u[:, None] + v) / epsilon)


def distances(instances, seed, size=(24, 32), scale=0.05):
    """Distances (n, P) to random seeds, stretched differently for each instance."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    centre = torch.rand(instances, 2, generator=generator) * torch.tensor(size)
    stretch = 0.5 + torch.rand(instances, 1, 1, generator=generator)
    return (stretch * scale * torch.hypot(y - centre[:, :1, None], x - centre[:, 1:, None])).flatten(1)


def cell_sizes(cost):
    return torch.bincount(cost.argmin(dim=0), minlength=len(cost))


def thing_pixels(cost):
    return (torch.rand(cost.shape[1], generator=torch.Generator().manual_seed(9)) < 0.7).float()


def constant_and_unsupplied():
    cost = torch.cat([distances(3, 5), torch.full((1, 768), 10.0)])
    return cost, torch.tensor([300, 200, 268, 0]), torch.ones(768)


def far_supply():
    """Supply of 1 pixel against all the others: potentials run away from each other by about 4 epsilon an iteration."""
    cost = distances(3, 6, scale=0.01)
    return cost, torch.tensor([1, 700, 67]).roll(int(cell_sizes(cost).argmax())), torch.ones(768)


CASES = {
    "two": lambda: (distances(2, 0), torch.tensor([700, 68]), torch.ones(768)),
    "cells": lambda: (distances(5, 1), cell_sizes(distances(5, 1)), torch.ones(768)),
    "some demand": lambda: (distances(6, 2), torch.tensor([10, 90, 5, 200, 100, 132]), thing_pixels(distances(6, 2))),
    "unsupplied": lambda: (distances(3, 3), torch.tensor([0, 400, 368]), torch.ones(768)),
    "constant, unsupplied": constant_and_unsupplied,
    "far supply": far_supply,
    "equal maps": lambda: (distances(2, 4)[[0, 0, 1]], torch.tensor([300, 300, 168]), torch.ones(768)),
    "no demand": lambda: (distances(3, 7), torch.tensor([0, 0, 0]), torch.zeros(768)),
    "one": lambda: (distances(1, 8), torch.tensor([500]), torch.ones(768)),
}


@pytest.mark.parametrize("epsilon, iterations", [(1e-3, 80), (1e-2, 80), (1e-3, 1), (2e-3, 45), (1e-3, 400)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_literal_iteration(case, epsilon, iterations):
    cost, supply, demand = CASES[case]()
    u, plan = literal(cost, supply, demand, epsilon, iterations)
    options = {"epsilon": epsilon, "iterations": iterations}
    # The literal form starts at u = 1, which stays a constant shift.
    torch.testing.assert_close(sinkhorn_potentials(cost, supply, demand, **options) + 1, u, rtol=0.0, atol=1e-9)
    label = transport_labels(cost, supply, demand, **options)
    value = u[:, None] - cost
    best = value.max(dim=0).values
    assert label.dtype == torch.int64
    assert float((best - value.gather(0, label[None])[0]).max()) < 1e-9
    if case != "equal maps" and iterations == 80:
        is_clear = plan.amax(dim=0) > 1e-6  # elsewhere the plan itself has nothing to tell
        assert torch.equal(label[is_clear], plan.argmax(dim=0)[is_clear])


def test_equal_instances_share_and_the_lower_index_wins():
    cost, supply, demand = CASES["equal maps"]()
    assert set(transport_labels(cost, supply, demand).tolist()) == {0, 2}


def test_supply_moves_the_border_by_what_80_iterations_allow():
    # Two instances at the ends of a line of 100 pixels, 0.01 a pixel; the left one wants 80 of them.
    left = torch.arange(100) * 0.01 + 0.005
    cost = torch.stack([left, left.flip(0)])
    supply, demand = torch.tensor([80, 20]), torch.ones(100)
    label = transport_labels(cost, supply, demand)
    # u differs by at most 80 * 1e-3 * (log 80/50 + log 50/20) = 0.11: 5 pixels, with 0.02 between two pixels.
    assert 50 < int((label == 0).sum()) <= 56
    assert int((transport_labels(cost, supply, demand, iterations=4000) == 0).sum()) == 80


def test_without_an_iteration_the_nearest_instance_wins():
    cost = distances(4, 1)
    assert torch.equal(transport_labels(cost, torch.ones(4), torch.ones(768), iterations=0), cost.argmin(dim=0))


def test_order_of_the_instances_does_not_matter():
    cost, supply, demand = CASES["some demand"]()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(
        order[transport_labels(cost[order], supply[order], demand)], transport_labels(cost, supply, demand)
    )


def test_many_pixels_are_labelled_in_order():
    cost = torch.stack([torch.linspace(0, 9, 70000), torch.linspace(9, 0, 70000)])
    label = transport_labels(cost, torch.tensor([35000, 35000]), torch.ones(70000))
    assert torch.equal(label, (torch.arange(70000) >= 35000).long())


def test_no_instance_and_one():
    assert transport_labels(torch.zeros(0, 5), torch.zeros(0), torch.ones(5)).tolist() == [-1] * 5
    assert transport_labels(torch.rand(1, 5), torch.zeros(1), torch.ones(5)).tolist() == [0] * 5


def stacked(names):
    """The problems of CASES side by side, in 6 slots and 900 pixels: cost, supply, demand, taking_part, inside. What
    fills a slot or stands outside would change everything if it counted."""
    slots, pixels = 6, 900
    cost, supply = torch.full((slots, len(names), pixels), -3.0), torch.full((slots, len(names)), 1000)
    taking_part, inside = torch.zeros(slots, len(names)).bool(), torch.zeros(len(names), pixels).bool()
    demand = torch.ones(len(names), pixels)
    for b, name in enumerate(names):
        own_cost, own_supply, own_demand = CASES[name]()
        n, p = own_cost.shape
        rows = torch.arange(n) + (slots - n) // 2
        cost[rows, b, :p], supply[rows, b], demand[b, :p] = own_cost, own_supply, own_demand
        taking_part[rows, b], inside[b, :p] = True, True
    return (cost, supply, demand), {"taking_part": taking_part, "inside": inside}


@pytest.mark.parametrize("epsilon, iterations", [(1e-3, 80), (2e-3, 45), (1e-3, 1)])
def test_images_of_a_batch_are_problems_of_their_own(epsilon, iterations):
    names = [name for name in CASES if name != "equal maps"]
    problem, masks = stacked(names)
    options = {"epsilon": epsilon, "iterations": iterations}
    potentials = sinkhorn_potentials(*problem, **masks, **options)
    labels = transport_labels(*problem, **masks, **options)
    for b, name in enumerate(names):
        is_real = masks["taking_part"][:, b]
        alone = CASES[name]()
        expected = sinkhorn_potentials(*alone, **options)
        torch.testing.assert_close(potentials[is_real, b], expected, rtol=0.0, atol=1e-11)
        assert bool((potentials[~is_real, b] == -torch.inf).all())
        rank = is_real.nonzero()[:, 0]
        assert torch.equal(labels[b, :768], rank[transport_labels(*alone, **options)]), name


def test_image_without_an_instance_leaves_the_others_alone():
    problem, masks = stacked(["cells", "two"])
    masks["taking_part"][:, 0] = False
    labels = transport_labels(*problem, **masks)
    assert torch.equal(labels[1, :768], transport_labels(*CASES["two"]()) + 2)
