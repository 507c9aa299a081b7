"""The lattice equals a loop over points with a dictionary of corners, and comes close to the Gaussian."""

import math

import numpy as np
import pytest
import torch

from weakseg.refine.permutohedral import PermutohedralLattice


def simplex_of(feature):
    """{corner: barycentric weight} of one point, steps 1 to 6 of the card in float64."""
    d = len(feature)
    z, accumulated = [0.0] * (d + 1), 0.0
    for m in range(d, 0, -1):
        c = feature[m - 1] * math.sqrt(2 / 3) * (d + 1) / math.sqrt(m * (m + 1))
        z[m] = accumulated - m * c
        accumulated += c
    z[0] = accumulated
    r = [(d + 1) * round(value / (d + 1)) for value in z]
    q = sum(r) // (d + 1)
    rank = [0] * (d + 1)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            rank[i if z[i] - r[i] < z[j] - r[j] else j] += 1
    for i in range(d + 1):
        rank[i] += q
        turn = (rank[i] < 0) - (rank[i] > d)
        rank[i] += turn * (d + 1)
        r[i] += turn * (d + 1)
    b = [0.0] * (d + 2)
    for i in range(d + 1):
        b[d - rank[i]] += (z[i] - r[i]) / (d + 1)
        b[d - rank[i] + 1] -= (z[i] - r[i]) / (d + 1)
    b[0] += 1 + b[d + 1]
    corners = [tuple(r[i] + (k if rank[i] <= d - k else k - d - 1) for i in range(d + 1)) for k in range(d + 1)]
    return dict(zip(corners, b[: d + 1]))


def filter_by_loops(features, values):
    """Step 7 of the card: splat, blur along the axes 0..d in turn, slice."""
    d = features.shape[1]
    simplices = [simplex_of(feature) for feature in features.tolist()]
    lattice = {}
    for simplex, value in zip(simplices, values.double().numpy()):
        for corner, weight in simplex.items():
            lattice[corner] = lattice.get(corner, 0.0) + weight * value
    nothing = np.zeros(values.shape[1])
    for j in range(d + 1):
        step = np.array([1 - (d + 1) * (i == j) for i in range(d + 1)])
        lattice = {
            corner: value
            + 0.5 * lattice.get(tuple((corner + step).tolist()), nothing)
            + 0.5 * lattice.get(tuple((corner - step).tolist()), nothing)
            for corner, value in lattice.items()
        }
    rows = [sum(weight * lattice[corner] for corner, weight in simplex.items()) for simplex in simplices]
    return torch.from_numpy(np.array(rows)).float() / (1 + 2.0**-d)


def random_points(number, dimensions, spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, dimensions, generator=generator) * spread


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
def test_equals_the_loops(dimensions, spread):
    features = random_points(60, dimensions, spread, seed=dimensions)
    values = random_points(60, 3, 1.0, seed=9)
    filtered = PermutohedralLattice(features).filter(values)
    torch.testing.assert_close(filtered, filter_by_loops(features, values), rtol=1e-4, atol=1e-5)


def test_equals_the_loops_on_a_grid_with_gaps():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    features = torch.stack([x + 7 * (x > 4), y * 1.7], dim=-1).view(-1, 2)
    values = random_points(54, 2, 1.0)
    filtered = PermutohedralLattice(features).filter(values)
    torch.testing.assert_close(filtered, filter_by_loops(features, values), rtol=1e-4, atol=1e-5)


def test_comes_close_to_the_gaussian():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    features = torch.stack([x, y], dim=-1).view(-1, 2) / 4
    values = torch.rand(400, 1, generator=torch.Generator().manual_seed(2))
    exact = torch.exp(-torch.cdist(features, features).square() / 2)
    n = exact.sum(1).rsqrt()
    expected = n[:, None] * exact * n @ values
    error = (PermutohedralLattice(features).normalized().filter(values) - expected).abs() / expected
    assert error.mean() < 0.03  # "2 to 3 per cent on average" (card 5.5)


def test_normalised_kernel_is_the_kernel_between_two_diagonals():
    lattice = PermutohedralLattice(random_points(40, 5, 0.8))
    kernel = lattice.filter(torch.eye(40))
    n = kernel.sum(1).rsqrt()
    torch.testing.assert_close(lattice.normalized().filter(torch.eye(40)), n[:, None] * kernel * n)
    torch.testing.assert_close(lattice.filter(torch.eye(40)), kernel, rtol=0, atol=0)  # the first one is as it was


def test_order_of_the_points_does_not_matter():
    features, values = random_points(50, 5, 1.0), random_points(50, 2, 1.0, seed=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    shuffled = PermutohedralLattice(features[order]).filter(values[order])
    torch.testing.assert_close(shuffled, PermutohedralLattice(features).filter(values)[order])


def test_equal_points_share_their_sum():
    filtered = PermutohedralLattice(torch.full((7, 5), 3.3)).filter(torch.arange(7.0).view(7, 1))
    alone = PermutohedralLattice(torch.full((1, 5), 3.3)).filter(torch.ones(1, 1))
    torch.testing.assert_close(filtered, (21 * alone).expand(7, 1))


def test_one_point_normalised_is_the_identity():
    values = torch.tensor([[2.0, -3.0]])
    torch.testing.assert_close(PermutohedralLattice(torch.tensor([[4.0, 1.0]])).normalized().filter(values), values)


def test_far_points_do_not_meet():
    features = torch.tensor([[0.0, 0.0], [1e4, -1e4]])
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(PermutohedralLattice(features).normalized().filter(values), values)


def test_a_lattice_too_large_to_number_is_refused():
    with pytest.raises(ValueError, match=r"2\^62 cells.*larger standard deviations"):
        PermutohedralLattice(torch.tensor([[0.0] * 5, [1e5] * 5]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu():
    features, values = random_points(500, 5, 1.0), random_points(500, 4, 1.0, seed=1)
    on_gpu = PermutohedralLattice(features.cuda()).normalized().filter(values.cuda())
    torch.testing.assert_close(on_gpu.cpu(), PermutohedralLattice(features).normalized().filter(values))
