"""Deformable attention against a slow loop over queries, heads, levels and points."""

import math

import numpy as np
import pytest
import torch

from weakseg.layers.deformable_attention import (
    MultiScaleDeformableAttention,
    attention_by_grid_sample,
    multi_scale_deformable_attention,
)

SIZES = [(3, 4), (2, 5)]


def bilinear(grid, x, y):
    """Value at continuous (x, y) of grid (h, w, dim), pixel centres at .5, 0 outside."""
    h, w, dim = grid.shape
    total = grid.new_zeros(dim)
    left, top = math.floor(float(x.detach()) - 0.5), math.floor(float(y.detach()) - 0.5)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < h and 0 <= column < w:
                total = total + (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row)) * grid[row, column]
    return total


def slow_attention(value, sizes, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    maps = [tokens.unflatten(1, size) for size, tokens in zip(sizes, value.split([h * w for h, w in sizes], dim=1))]
    out = []
    for b, q, k in np.ndindex(batch, queries, heads):
        total = value.new_zeros(value.shape[-1])
        for l, p in np.ndindex(levels, points):
            (h, w), (x, y) = sizes[l], locations[b, q, k, l, p]
            total = total + weights[b, q, k, l, p] * bilinear(maps[l][b, :, :, k], x * w, y * h)
        out.append(total)
    return torch.stack(out).view(batch, queries, -1)


def random_inputs(batch=2, queries=3, heads=2, dim=3, points=2):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in SIZES), heads, dim, generator=generator)
    locations = torch.rand(batch, queries, heads, len(SIZES), points, 2, generator=generator) * 1.8 - 0.4
    weights = torch.rand(batch, queries, heads, len(SIZES), points, generator=generator)
    return value, locations, weights


@pytest.mark.parametrize("operator", [multi_scale_deformable_attention, attention_by_grid_sample])
def test_operator_and_its_gradients_equal_the_slow_loop(operator):
    value, locations, weights = (x.requires_grad_() for x in random_inputs(queries=12))
    assert ((locations < -0.3) | (locations > 1.3)).any()  # beyond the pixels around a level
    found, expected = (f(value, SIZES, locations, weights) for f in (operator, slow_attention))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found, expected = (torch.autograd.grad(x, (value, locations, weights), cotangent) for x in (found, expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_samples_are_not_kept_for_the_backward_pass():
    value, locations, weights = (x.requires_grad_() for x in random_inputs(queries=12))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        multi_scale_deformable_attention(value, SIZES, locations, weights)
    assert set(kept) == {value.data_ptr(), locations.data_ptr(), weights.data_ptr()}


def test_a_value_in_half_precision_is_summed_in_full():
    value, locations, weights = random_inputs()
    half = value.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = multi_scale_deformable_attention(half, SIZES, locations, weights)
        (gradient,) = torch.autograd.grad(found.sum(), half)
    value = half.detach().float().requires_grad_()
    expected = multi_scale_deformable_attention(value, SIZES, locations, weights)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), value)
    assert torch.equal(found, expected.bfloat16()) and torch.equal(gradient, expected_gradient.bfloat16())


def test_nothing_is_sampled_at_a_location_that_is_no_number():
    value, locations, weights = random_inputs()
    broken = locations.clone()
    broken[0, 0, 0, 0, 0, 0], broken[0, 0, 0, 1, 1, 1] = math.nan, math.inf
    broken.requires_grad_()
    found = multi_scale_deformable_attention(value, SIZES, broken, weights)
    without = weights.clone()
    without[0, 0, 0, 0, 0] = without[0, 0, 0, 1, 1] = 0
    torch.testing.assert_close(found, multi_scale_deformable_attention(value, SIZES, locations, without))
    found.sum().backward()
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("batch, queries", [(2, 0), (0, 3)])
def test_no_query_and_no_image(batch, queries):
    value, locations, weights = (x.requires_grad_() for x in random_inputs(batch=batch, queries=queries))
    found = multi_scale_deformable_attention(value, SIZES, locations, weights)
    assert found.shape == (batch, queries, 6)
    found.sum().backward()
    assert value.grad.shape == value.shape and not value.grad.any()


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

    locations, weights = torch.zeros(2, 4, 2, 2, 3, 2), torch.zeros(2, 4, 2, 2, 3)
    for b, q, k, l, p in np.ndindex(2, 4, 2, 2, 3):
        sample = (k * 2 + l) * 3 + p
        head_scores = np.exp(scores[b, q, k * 6 : k * 6 + 6])
        weights[b, q, k, l, p] = float(head_scores[l * 3 + p] / head_scores.sum())
        offset = offsets[b, q, 2 * sample : 2 * sample + 2]
        place = reference[b, q, l].numpy()
        step = np.array(SIZES[l])[::-1] ** -1.0 if coordinates == 2 else place[2:] / 3 * 0.5
        locations[b, q, k, l, p] = torch.from_numpy(place[:2] + offset * step)
    attended = slow_attention(torch.from_numpy(tokens).view(2, 22, 2, 3), SIZES, locations, weights).numpy()
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


def test_gradients_are_those_of_the_operator_in_double_precision():
    generator = torch.Generator().manual_seed(4)
    value = torch.randn(1, 14, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(1, 3, 2, 2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 3, 2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def operator(*tensors):
        return multi_scale_deformable_attention(tensors[0], [(3, 4), (1, 2)], *tensors[1:])

    assert torch.autograd.gradcheck(operator, (value, locations, weights))
