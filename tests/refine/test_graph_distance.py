"""Distances on the pixel grid equal Dijkstra's, bit for bit."""

import heapq

import numpy as np
import pytest
import torch

from weakseg.refine.graph_distance import NEIGHBOURS, graph_distance


def dijkstra(cost, sources):
    """One map (h, w) with a heap; sums in the type of `cost` (h, w, 8), a numpy array."""
    height, width, _ = cost.shape
    distance = np.full((height, width), np.inf, dtype=cost.dtype)
    heap = []
    for y, x in sources:
        distance[y, x] = 0
        heapq.heappush(heap, (cost.dtype.type(0), y, x))
    while heap:
        reached, y, x = heapq.heappop(heap)
        if reached > distance[y, x]:
            continue
        for k, (dy, dx) in enumerate(NEIGHBOURS):
            v, u = y + dy, x + dx
            if 0 <= v < height and 0 <= u < width and reached + cost[y, x, k] < distance[v, u]:
                distance[v, u] = reached + cost[y, x, k]
                heapq.heappush(heap, (distance[v, u], v, u))
    return torch.from_numpy(distance)


def expected(cost, sources, source_map):
    rows = [[tuple(s) for s, m in zip(sources.tolist(), source_map.tolist()) if m == n] for n in range(len(cost))]
    return torch.stack([dijkstra(one.numpy(), row) for one, row in zip(cost, rows)])


def test_order_of_the_steps():
    assert NEIGHBOURS == ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@pytest.mark.parametrize("size", [(9, 13), (2, 2), (1, 7), (6, 1), (1, 1)])
def test_equals_dijkstra_for_several_maps_with_several_sources(size):
    generator = torch.Generator().manual_seed(3)
    cost = torch.rand(3, *size, 8, generator=generator)
    flat = torch.tensor([0, size[0] * size[1] - 1, size[0] * size[1] // 2, 0, 0])
    sources = torch.stack([flat // size[1], flat % size[1]], dim=1)
    source_map = torch.tensor([0, 0, 1, 2, 2])
    assert torch.equal(graph_distance(cost, sources, source_map), expected(cost, sources, source_map))


def test_maps_share_a_cost():
    cost = torch.rand(2, 6, 7, 8, generator=torch.Generator().manual_seed(5))
    sources = torch.tensor([[0, 0], [5, 6], [2, 3], [4, 1], [3, 5]])
    source_map = torch.tensor([0, 0, 1, 5, 3])  # maps 2 and 4 have none
    distance = graph_distance(cost, sources, source_map, maps_per_cost=3)
    assert torch.equal(distance, expected(cost.repeat_interleave(3, dim=0), sources, source_map))


def test_zero_costs_and_ties():
    generator = torch.Generator().manual_seed(4)
    cost = torch.randint(0, 3, (2, 11, 8, 8), generator=generator).float() * 0.1
    sources, source_map = torch.tensor([[10, 0], [5, 7]]), torch.tensor([0, 1])
    assert torch.equal(graph_distance(cost, sources, source_map), expected(cost, sources, source_map))


def test_winding_path_longer_than_any_straight_one():
    cost = torch.full((1, 15, 15, 8), 50.0)
    for row in range(0, 15, 2):  # cheap corridors along the even rows, joined at alternating ends
        cost[0, row, :, 3:5] = 0.1
        cost[0, row : row + 2, 14 if row % 4 == 0 else 0, 6] = 0.1
    sources, source_map = torch.tensor([[0, 0]]), torch.tensor([0])
    distance = graph_distance(cost, sources, source_map)
    assert torch.equal(distance, expected(cost, sources, source_map))
    assert abs(float(distance[0, 14, 0]) - (8 * 14 + 7 * 2) * 0.1) < 1e-3


def test_steps_are_directed():
    cost = torch.full((1, 1, 3, 8), 9.0)
    cost[..., 4] = torch.tensor([1.0, 2.0, 4.0])  # to the right
    cost[..., 3] = torch.tensor([8.0, 16.0, 32.0])  # to the left
    distance = graph_distance(cost.expand(2, -1, -1, -1), torch.tensor([[0, 0], [0, 2]]), torch.tensor([0, 1]))
    assert distance[:, 0].tolist() == [[0.0, 1.0, 3.0], [48.0, 32.0, 0.0]]


def test_free_steps_out_of_the_grid_lead_nowhere():
    cost = torch.zeros(1, 4, 5, 8)
    for k, (dy, dx) in enumerate(NEIGHBOURS):
        rows = slice(max(0, -dy), 4 - max(0, dy))
        columns = slice(max(0, -dx), 5 - max(0, dx))
        cost[0, rows, columns, k] = 1.0
    distance = graph_distance(cost, torch.tensor([[0, 0]]), torch.tensor([0]))
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    assert torch.equal(distance[0], torch.maximum(rows, columns).float())


def test_map_without_a_source_is_infinite_and_leaves_the_others_alone():
    cost = torch.ones(3, 2, 3, 8)
    distance = graph_distance(cost, torch.tensor([[0, 0], [1, 2]]), torch.tensor([0, 2]))
    assert distance[1].isinf().all()
    assert distance[0].tolist() == [[0, 1, 2], [1, 1, 2]] and distance[2].tolist() == [[2, 1, 1], [2, 1, 0]]


def test_no_map():
    none = torch.zeros(0, dtype=torch.int64)
    assert graph_distance(torch.ones(0, 3, 4, 8), none.view(0, 2), none).shape == (0, 3, 4)


def test_not_a_number_does_not_run_for_ever():
    cost = torch.ones(1, 5, 5, 8)
    cost[0, 2, 2] = torch.nan
    assert graph_distance(cost, torch.tensor([[0, 0]]), torch.tensor([0])).shape == (1, 5, 5)
