"""The random walk equals the literal form, with little work and one matrix in memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from weakseg.refine.random_walk import affinity, random_walk, transition_matrix

TOLERANCE = 1e-5


def views_of(*sizes, channels=6, mean=0.0):
    """A map a size; with a mean its cells look alike, so that a walk goes somewhere."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(channels, *size, generator=generator) + mean for size in sizes]


def affinity_by_loops(views, size):
    """Mean over the views of exp(5 cos - 5), pair by pair, in float64."""
    n = size[0] * size[1]
    result = torch.zeros(n, n, dtype=torch.float64)
    for view in views:
        resized = F.interpolate(view[None].double(), size=size, mode="bilinear", align_corners=False)[0]
        cells = [resized[:, y, x] for y in range(size[0]) for x in range(size[1])]
        for i, a in enumerate(cells):
            for j, b in enumerate(cells):
                result[i, j] += math.exp(5 * float(a @ b / (a.norm() * b.norm())) - 5) / len(views)
    return result


def literal_walk(scores, views, size, steps):
    weights = affinity_by_loops(views, size) ** 20
    transition = torch.linalg.matrix_power(weights / weights.sum(0), steps)
    return torch.einsum("chw,hwj->cj", scores.double(), transition.view(*size, -1)).view_as(scores).float()


class Watch(TorchDispatchMode):
    """Notes the memory blocks of at least `numel` numbers and the matrix products."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.blocks, self.products = numel, [], []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() >= 4 * self.numel:
            if all(result.untyped_storage()._cdata != block.untyped_storage()._cdata for block in self.blocks):
                self.blocks.append(result)
        if function is torch.ops.aten.mm.default:
            self.products.append(tuple(argument.shape[0] for argument in arguments))
        return result


@pytest.mark.parametrize("sizes", [[(3, 4)], [(9, 11), (9, 11)], [(5, 6), (10, 12), (3, 4), (20, 24)]])
def test_affinity_is_the_mean_over_views(sizes):
    views = views_of(*sizes)
    torch.testing.assert_close(
        affinity(views, (3, 4)), affinity_by_loops(views, (3, 4)).float(), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
@pytest.mark.parametrize("classes", [2, 30])
def test_walk_equals_the_literal_form(steps, classes):
    views, size = views_of((9, 11), (5, 6), mean=5.0), (4, 5)
    scores = torch.rand(classes, *size, generator=torch.Generator().manual_seed(1))
    scores[1] = 0
    found = random_walk(scores, transition_matrix(views, size), steps=steps)
    torch.testing.assert_close(found, literal_walk(scores, views, size, steps), rtol=0, atol=TOLERANCE)
    assert (found[0] - scores[0]).abs().max() > 0.05


def test_columns_sum_to_one_so_that_a_constant_stays():
    transition = transition_matrix(views_of((6, 7), mean=5.0), (6, 7))
    torch.testing.assert_close(transition.sum(0), torch.ones(42))
    assert not torch.allclose(transition.sum(1), torch.ones(42), atol=0.1)
    torch.testing.assert_close(random_walk(torch.full((1, 6, 7), 0.3), transition), torch.full((1, 6, 7), 0.3))


def test_power_sharpens():
    views = views_of((3, 4))
    weights = affinity_by_loops(views, (3, 4)) ** 3
    expected = (weights / weights.sum(0)).float()
    torch.testing.assert_close(transition_matrix(views, (3, 4), power=3), expected, rtol=0, atol=TOLERANCE)


def test_equal_cells_share_their_scores_and_opposite_ones_do_not_meet():
    embedding = torch.tensor([[[1.0, 2.0, -1.0, -3.0]]])
    transition = transition_matrix([embedding], (1, 4))
    block = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(transition, torch.block_diag(block, block))
    found = random_walk(torch.tensor([[[1.0, 0.0, 0.0, 4.0]]]), transition)
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.5, 2.0, 2.0]]]))


def test_tiles_do_not_show():
    """More cells than a tile: the affinity of any pair is that of the pair alone."""
    view = views_of((17, 19), channels=3)[0]
    cells = F.normalize(view.flatten(1), dim=0)
    expected = (5 * cells.t() @ cells - 5).exp()
    torch.testing.assert_close(affinity([view], (17, 19)), expected, rtol=0, atol=TOLERANCE)


def test_no_weight_is_so_small_that_products_become_slow():
    generator = torch.Generator().manual_seed(4)
    angles = torch.rand(1, 20, 20, generator=generator) * 2 * math.pi
    transition = transition_matrix([torch.cat([angles.cos(), angles.sin()])], (20, 20))
    positive = transition[transition > 0]
    assert len(positive) < transition.numel() and positive.min() > 1e-36


def test_few_rows_need_no_product_of_two_matrices():
    size = (16, 20)
    transition = transition_matrix(views_of(size), size)
    scores = torch.zeros(21, *size)
    scores[[0, 7, 20]] = torch.rand(3, *size, generator=torch.Generator().manual_seed(2))
    with Watch(numel=320 * 320) as watch:
        random_walk(scores, transition)
    assert watch.products == [(3, 320)] * 64 and not watch.blocks


def test_many_rows_square_the_matrix_where_that_saves_work():
    transition = transition_matrix(views_of((2, 5)), (2, 5))
    with Watch(numel=10**9) as watch:
        random_walk(torch.ones(3, 2, 5), transition)
    # 3 rows, 10 cells: squaring costs 10 rows and saves half of 192, 96, 48 and 24, but not of 12
    assert watch.products == [(10, 10)] * 4 + [(3, 10)] * 4


def test_the_matrix_is_in_memory_once():
    size = (25, 40)
    views = views_of(size, size, channels=3)
    with Watch(numel=1000 * 1000) as watch:
        transition = transition_matrix(views, size)
    assert len(watch.blocks) == 1 and transition.shape == (1000, 1000)


def test_cell_without_an_embedding_keeps_its_score():
    view = views_of((2, 3))[0]
    view[:, 1, 2] = 0
    assert affinity([view], (2, 3))[5].tolist() == pytest.approx([math.exp(-5)] * 5 + [1.0])
    scores = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(5))
    found = random_walk(scores, transition_matrix([view], (2, 3)))
    torch.testing.assert_close(found[0, 1, 2], scores[0, 1, 2])
    assert found.isfinite().all()


def test_one_cell():
    transition = transition_matrix(views_of((5, 7)), (1, 1))
    assert transition.tolist() == [[1.0]]
    assert random_walk(torch.tensor([[[0.4]], [[0.0]]]), transition).flatten().tolist() == [pytest.approx(0.4), 0.0]


def test_no_score_and_no_step():
    transition = transition_matrix(views_of((2, 3)), (2, 3))
    assert random_walk(torch.zeros(4, 2, 3), transition).eq(0).all()
    assert random_walk(torch.zeros(0, 2, 3), transition).shape == (0, 2, 3)
    scores = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(6))
    assert torch.equal(random_walk(scores, transition, steps=0), scores)


def test_scores_and_transition_are_left_alone():
    transition = transition_matrix(views_of((2, 3)), (2, 3))
    scores = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(8))
    before = scores.clone(), transition.clone()
    random_walk(scores, transition)
    assert torch.equal(scores, before[0]) and torch.equal(transition, before[1])


def test_half_precision_around_it_changes_nothing():
    view = views_of((8, 9), mean=5.0)[0].bfloat16().float()
    scores = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(7))
    expected = random_walk(scores, transition_matrix([view], (8, 9)))
    with torch.autocast("cpu", torch.bfloat16):
        found = random_walk(scores, transition_matrix([view.bfloat16()], (8, 9)))
    assert torch.equal(found, expected)
