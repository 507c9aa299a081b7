"""Step costs of the pixel graph against a loop over cells."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.point2mask.graph import edge_costs, pixel_graph
from weakseg.refine.graph_distance import NEIGHBOURS


def slow(probabilities, boundary, embedding, edges, lambdas, official):
    batch, channels, height, width = probabilities.shape
    result = torch.zeros(batch, height, width, 8)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for k, (dy, dx) in enumerate(NEIGHBOURS):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    own = [m[b, ..., y, x] for m in (probabilities, boundary, embedding, edges)]
                    other = [torch.zeros_like(v) for v in own]
                    if inside:
                        other = [m[b, ..., y + dy, x + dx] for m in (probabilities, boundary, embedding, edges)]
                    terms = (
                        (own[0] - other[0]).abs().sum(),
                        max(own[1], other[1]) + (other[3] if official else max(own[3], other[3])),
                        max(0.0, 1 - float(own[2] @ other[2])),
                    )
                    result[b, y, x, k] = sum(w * t for w, t in zip(lambdas, terms))
    return result


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (3, 1)])
@pytest.mark.parametrize("lambdas", [(1.0, 0.1, 0.1), (0.3, 2.0, 0.7)])
@pytest.mark.parametrize("official", [False, True])
def test_equals_a_loop_over_cells(size, lambdas, official):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(2, 3, *size, generator=generator)
    boundary = torch.rand(2, *size, generator=generator)
    embedding = torch.randn(2, 6, *size, generator=generator) * 0.6
    options = dict(zip(("lambda_probability", "lambda_boundary", "lambda_feature"), lambdas))
    edges = torch.rand(2, *size, generator=generator)
    inputs = (probabilities, boundary, embedding)
    cost = edge_costs(*inputs, edges=edges, official=official, **options)
    expected = slow(*inputs, edges, lambdas, official)
    torch.testing.assert_close(cost, expected, rtol=1e-5, atol=1e-5)
    assert bool((cost >= 0).all())
    without = edge_costs(*inputs, official=official, **options)
    torch.testing.assert_close(without, slow(*inputs, edges * 0, lambdas, official), rtol=1e-5, atol=1e-5)
    if lambdas == (1.0, 0.1, 0.1):
        assert torch.equal(without, edge_costs(*inputs))


def test_two_cells_by_hand():
    probabilities = torch.tensor([[[[1.0, 0.25]], [[0.0, 0.5]]]])  # (1, 2, 1, 2)
    boundary = torch.tensor([[[0.2, 0.6]]])
    embedding = torch.tensor([[[[1.0, 0.6]], [[0.0, 0.8]]]])
    right, left = 4, 3
    cost = edge_costs(probabilities, boundary, embedding)[0, 0]
    # 0.75 + 0.5 for the classes, 0.1 * 0.6 for the boundary, 0.1 * (1 - 0.6) for the embedding; the same both ways.
    assert float(cost[0, right]) == pytest.approx(1.25 + 0.06 + 0.04)
    assert float(cost[1, left]) == pytest.approx(1.35)
    assert float(cost[0, left]) == pytest.approx(1.0 + 0.02 + 0.1)


def test_low_level_edge_costs_both_ways_published_only_to_enter():
    nothing, edges = torch.zeros(1, 1, 1, 2), torch.tensor([[[0.0, 0.7]]])
    right, left = 4, 3
    for official, out in ((False, 0.07), (True, 0.0)):
        cost = edge_costs(nothing, nothing[0], nothing, edges=edges, lambda_feature=0.0, official=official)[0, 0]
        assert float(cost[0, right]) == pytest.approx(0.07) and float(cost[1, left]) == pytest.approx(out)


def test_no_class_leaves_the_other_terms():
    boundary, embedding = torch.full((1, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    cost = edge_costs(torch.zeros(1, 0, 2, 2), boundary, embedding)
    torch.testing.assert_close(cost, torch.full((1, 2, 2, 8), 0.15))


@pytest.mark.parametrize("official", [False, True])
def test_maps_are_sampled_bilinearly_at_the_cells(official):
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand(3, 2, 42, 64, generator=generator)  # (k, B, H, W)
    boundary, edges = (torch.randn(2, *size, generator=generator) for size in ((5, 8), (42, 64)))
    embedding = torch.randn(2, 6, 5, 8, generator=generator) * 0.6
    lambdas = {"lambda_probability": 1.5, "lambda_boundary": 0.5, "lambda_feature": 0.25}
    graph = pixel_graph(probabilities, boundary, embedding, stride=16, edges=edges, official=official, **lambdas)
    maps = (probabilities.transpose(0, 1), boundary[:, None], embedding, edges[:, None])
    q, s, m, e = (F.interpolate(v, size=(2, 4), mode="bilinear", align_corners=False) for v in maps)
    expected = edge_costs(q, s[:, 0].sigmoid(), m, edges=e[:, 0], official=official, **lambdas)
    torch.testing.assert_close(graph, expected, rtol=1e-5, atol=1e-5)
    without = pixel_graph(probabilities, boundary, embedding, stride=16, **lambdas)
    torch.testing.assert_close(without, edge_costs(q, s[:, 0].sigmoid(), m, **lambdas), rtol=1e-5, atol=1e-5)
