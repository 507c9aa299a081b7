"""Step costs of the pixel graph against a loop over cells."""

import pytest
import torch

from weakseg.methods.point2mask.graph import edge_costs
from weakseg.refine.graph_distance import NEIGHBOURS


def slow(probabilities, boundary, embedding, lambdas):
    batch, channels, height, width = probabilities.shape
    result = torch.zeros(batch, height, width, 8)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for k, (dy, dx) in enumerate(NEIGHBOURS):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    own = probabilities[b, :, y, x], boundary[b, y, x], embedding[b, :, y, x]
                    other = [torch.zeros_like(v) for v in own]
                    if inside:
                        other = [m[b, ..., y + dy, x + dx] for m in (probabilities, boundary, embedding)]
                    terms = (
                        (own[0] - other[0]).abs().sum(),
                        max(own[1], other[1]),
                        max(0.0, 1 - float(own[2] @ other[2])),
                    )
                    result[b, y, x, k] = sum(w * t for w, t in zip(lambdas, terms))
    return result


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (3, 1)])
@pytest.mark.parametrize("lambdas", [(1.0, 0.1, 0.1), (0.3, 2.0, 0.7)])
def test_equals_a_loop_over_cells(size, lambdas):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(2, 3, *size, generator=generator)
    boundary = torch.rand(2, *size, generator=generator)
    embedding = torch.randn(2, 6, *size, generator=generator) * 0.6
    options = dict(zip(("lambda_probability", "lambda_boundary", "lambda_feature"), lambdas))
    cost = edge_costs(probabilities, boundary, embedding, **options)
    torch.testing.assert_close(cost, slow(probabilities, boundary, embedding, lambdas), rtol=1e-5, atol=1e-5)
    assert bool((cost >= 0).all())
    if lambdas == (1.0, 0.1, 0.1):
        assert torch.equal(cost, edge_costs(probabilities, boundary, embedding))


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


def test_no_class_leaves_the_other_terms():
    boundary, embedding = torch.full((1, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    cost = edge_costs(torch.zeros(1, 0, 2, 2), boundary, embedding)
    torch.testing.assert_close(cost, torch.full((1, 2, 2, 8), 0.15))
