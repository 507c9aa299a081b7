"""Deformable attention against a slow loop over queries, heads, levels and points."""

import math

import numpy as np
import pytest
import torch

from weakseg.layers.deformable_attention import MultiScaleDeformableAttention, multi_scale_deformable_attention

SIZES = [(3, 4), (2, 5)]


def bilinear(grid, x, y):
    """Value at continuous (x, y) of grid (h, w, dim), pixel centres at .5, 0 outside."""
    h, w, dim = grid.shape
    total = np.zeros(dim)
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < h and 0 <= column < w:
                total += (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row)) * grid[row, column]
    return total


def slow_attention(value, sizes, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    dim = value.shape[-1]
    out = np.zeros((batch, queries, heads, dim))
    starts = np.cumsum([0] + [h * w for h, w in sizes])
    for b, q, k, l, p in np.ndindex(batch, queries, heads, levels, points):
        h, w = sizes[l]
        grid = value[b, starts[l] : starts[l + 1], k].reshape(h, w, dim)
        x, y = locations[b, q, k, l, p]
        out[b, q, k] += weights[b, q, k, l, p] * bilinear(grid, x * w, y * h)
    return out.reshape(batch, queries, heads * dim)


def random_inputs(batch=2, queries=3, heads=2, dim=3, points=2):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in SIZES), heads, dim, generator=generator)
    locations = torch.rand(batch, queries, heads, len(SIZES), points, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(SIZES), points, generator=generator)
    return value, locations, weights


def test_operator_equals_the_slow_loop():
    value, locations, weights = random_inputs()
    expected = slow_attention(value.numpy(), SIZES, locations.numpy(), weights.numpy())
    actual = multi_scale_deformable_attention(value, SIZES, locations, weights)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_module_equals_its_formula(coordinates):
    generator = torch.Generator().manual_seed(1)
    module = MultiScaleDeformableAttention(6, num_heads=2, num_levels=2, num_points=3).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    query, position = torch.randn(2, 2, 4, 6, generator=generator)
    value = torch.randn(2, 22, 6, generator=generator)
    padding = torch.rand(2, 22, generator=generator) < 0.3
    reference = torch.rand(2, 4, 2, coordinates, generator=generator)
    with torch.no_grad():
        actual = module(
            query, value, query_position=position, reference=reference, padding=padding, sizes=SIZES
        ).numpy()
        place = query + position
        offsets = module.sampling_offsets(place).numpy()
        scores = module.attention_weights(place).numpy()
        tokens = module.value_proj(value).numpy() * ~padding.numpy()[..., None]

    locations, weights = np.zeros((2, 4, 2, 2, 3, 2)), np.zeros((2, 4, 2, 2, 3))
    for b, q, k, l, p in np.ndindex(2, 4, 2, 2, 3):
        sample = (k * 2 + l) * 3 + p
        head_scores = np.exp(scores[b, q, k * 6 : k * 6 + 6])
        weights[b, q, k, l, p] = head_scores[l * 3 + p] / head_scores.sum()
        offset = offsets[b, q, 2 * sample : 2 * sample + 2]
        place = reference[b, q, l].numpy()
        step = np.array(SIZES[l])[::-1] ** -1.0 if coordinates == 2 else place[2:] / 3 * 0.5
        locations[b, q, k, l, p] = place[:2] + offset * step
    attended = slow_attention(tokens.reshape(2, 22, 2, 3), SIZES, locations, weights)
    projected = attended @ module.output_proj.weight.detach().numpy().T + module.output_proj.bias.detach().numpy()
    np.testing.assert_allclose(actual, query.numpy() + projected, atol=1e-4)


def test_it_starts_looking_around_its_reference_in_as_many_directions_as_heads():
    module = MultiScaleDeformableAttention(16, num_heads=8, num_levels=2, num_points=3)
    offsets = module.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, (x, y) in enumerate(directions):
        for level in range(2):
            for point in range(3):
                expected = torch.tensor([x, y], dtype=torch.float32) * (point + 1)
                torch.testing.assert_close(offsets[head, level, point], expected, atol=1e-5, rtol=0)
    assert not module.sampling_offsets.weight.any()
    assert not module.attention_weights.weight.any() and not module.attention_weights.bias.any()
    for projection in (module.value_proj, module.output_proj):
        bound = math.sqrt(6 / 32)
        assert 0.8 * bound < projection.weight.abs().max() <= bound and not projection.bias.any()


def test_dropout_falls_on_what_is_added_not_on_the_query():
    module = MultiScaleDeformableAttention(4, num_heads=2, num_levels=2, num_points=1, dropout=1.0).train()
    query = torch.randn(1, 3, 4)
    out = module(
        query,
        torch.randn(1, 22, 4),
        query_position=torch.zeros_like(query),
        reference=torch.full((1, 3, 2, 2), 0.5),
        padding=torch.zeros(1, 22, dtype=torch.bool),
        sizes=SIZES,
    )
    torch.testing.assert_close(out, query)


def test_a_dim_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of the 8 heads, found 10"):
        MultiScaleDeformableAttention(10)
