import pytest
import torch

from weakseg.layers.tree_filter import edge_similarity, minimum_spanning_tree, tree_filter


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _edges(parent: list[int]) -> set[tuple[int, int]]:
    return {(min(v, p), max(v, p)) for v, p in enumerate(parent) if v != p}


def _kruskal(image: torch.Tensor) -> set[tuple[int, int]]:
    """Minimum spanning tree of (C, H, W): all edges by (float32 weight, index), an edge joins two components."""
    _, height, width = image.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    pairs = [((y, x), (y + 1, x)) for y, x in pixels if y + 1 < height]
    pairs += [((y, x), (y, x + 1)) for y, x in pixels if x + 1 < width]
    weights = [float((image[:, a[0], a[1]] - image[:, b[0], b[1]]).float().square().sum() + 1) for a, b in pairs]
    component = {pixel: pixel for pixel in pixels}
    tree = set()
    for index in sorted(range(len(pairs)), key=lambda i: (weights[i], i)):
        a, b = pairs[index]
        if component[a] != component[b]:
            old, new = component[b], component[a]
            component = {pixel: new if root == old else root for pixel, root in component.items()}
            tree.add((a[0] * width + a[1], b[0] * width + b[1]))
    return tree


def _path_products(parent: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """S (N, N) by walking from each vertex to each other one, for one image: parent (N,), similarity (N,)."""
    neighbours: dict[int, list[tuple[int, torch.Tensor]]] = {v: [] for v in range(len(parent))}
    for v, p in enumerate(parent.tolist()):
        if v != p:
            neighbours[v].append((p, similarity[v]))
            neighbours[p].append((v, similarity[v]))
    rows = []
    for start in range(len(parent)):
        product = {start: similarity.new_ones(())}
        frontier = [start]
        while frontier:
            v = frontier.pop()
            for u, a in neighbours[v]:
                if u not in product:
                    product[u] = product[v] * a
                    frontier.append(u)
        rows.append(torch.stack([product[v] for v in range(len(parent))]))
    return torch.stack(rows)


def _filter_all_pairs(values, tree, similarity):
    filtered = []
    for image, parent, a in zip(values, tree.parent, similarity):
        paths = _path_products(parent, a)
        filtered.append((image.flatten(1) @ paths / paths.sum(0)).view_as(image))
    return torch.stack(filtered)


@pytest.mark.parametrize("size", [(5, 7), (8, 3), (1, 6), (6, 1)])
def test_the_tree_is_that_of_kruskal_with_ties_by_edge_index(size):
    guide = (_random(3, 2, *size) * 3).round() / 3
    tree = minimum_spanning_tree(guide)
    for image, parent in zip(guide, tree.parent.tolist()):
        assert _edges(parent) == _kruskal(image)


def test_weights_are_compared_as_float32_with_one_added():
    # 1 + 1e-8 is 1 in float32: both paths around the square tie, and the last edge (2, 3) is the one that goes.
    guide = torch.tensor([[[[0.0, 1e-4], [0.0, 0.0]]]])
    assert _edges(minimum_spanning_tree(guide).parent[0].tolist()) == {(0, 2), (1, 3), (0, 1)}


def test_every_walk_to_the_parents_ends_at_the_root():
    tree = minimum_spanning_tree(_random(2, 1, 6, 5))
    vertex = torch.arange(30).expand(2, 30)
    for _ in range(30):
        vertex = tree.parent.gather(1, vertex)
    assert not vertex.any()


def test_similarity_to_the_parent_in_both_modes():
    guide = _random(1, 3, 4, 5).requires_grad_()
    tree = minimum_spanning_tree(guide)
    color = edge_similarity(guide, tree)
    narrow, feature = edge_similarity(guide, tree, 0.5), edge_similarity(guide, tree, None)
    pixels = guide[0].flatten(1).detach()
    for v, p in enumerate(tree.parent[0].tolist()):
        squared = (pixels[:, v] - pixels[:, p]).square().sum()
        torch.testing.assert_close(color[0, v], torch.exp(-squared / 0.02))
        torch.testing.assert_close(narrow[0, v], torch.exp(-squared / 0.5))
        torch.testing.assert_close(feature[0, v], torch.exp(-squared))
    assert not color.requires_grad and feature.requires_grad


@pytest.mark.parametrize("size", [(5, 6), (7, 4), (1, 37), (33, 1), (2, 1), (1, 1)])
def test_filter_and_gradients_are_those_of_all_pairs(size):
    tree = minimum_spanning_tree(_random(2, 2, *size))
    values = _random(2, 3, *size, seed=1).requires_grad_()
    similarity = (0.3 + 0.7 * _random(2, size[0] * size[1], seed=2)).requires_grad_()
    cotangent = _random(2, 3, *size, seed=3) - 0.5
    results = []
    for apply in (tree_filter, _filter_all_pairs):
        filtered = apply(values, tree, similarity)
        gradients = torch.autograd.grad((filtered * cotangent).sum(), (values, similarity), materialize_grads=True)
        results.append((filtered, *gradients))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


def test_gradient_of_the_guide_is_that_of_finite_differences():
    guide, values = _random(1, 2, 4, 4).requires_grad_(), _random(1, 2, 4, 4, seed=1).requires_grad_()
    tree = minimum_spanning_tree(guide)
    assert torch.autograd.gradcheck(lambda g, v: tree_filter(v, tree, edge_similarity(g, tree, None)), (guide, values))


def test_a_flat_image_gives_the_mean():
    values = _random(2, 3, 9, 8)
    flat = torch.zeros(2, 3, 9, 8)
    tree = minimum_spanning_tree(flat)
    filtered = tree_filter(values, tree, edge_similarity(flat, tree).double())
    torch.testing.assert_close(filtered, values.mean((2, 3), keepdim=True).expand_as(values))


def test_nothing_passes_an_edge_of_similarity_zero():
    guide = torch.zeros(1, 1, 4, 6)
    guide[..., 3:] = 100
    tree = minimum_spanning_tree(guide)
    values = _random(1, 1, 4, 6)
    filtered = tree_filter(values, tree, edge_similarity(guide, tree).double())
    for half in (slice(0, 3), slice(3, 6)):
        expected = values[..., half].mean().expand(1, 1, 4, 3)
        torch.testing.assert_close(filtered[..., half], expected)


def test_an_image_is_filtered_alike_alone_and_in_a_batch():
    guide, values = _random(3, 2, 6, 7), _random(3, 2, 6, 7, seed=1)
    tree = minimum_spanning_tree(guide)
    batched = tree_filter(values, tree, edge_similarity(guide, tree))
    for i in range(3):
        single = minimum_spanning_tree(guide[i : i + 1])
        alone = tree_filter(values[i : i + 1], single, edge_similarity(guide[i : i + 1], single))
        torch.testing.assert_close(batched[i : i + 1], alone)


def test_no_image():
    guide = torch.zeros(0, 3, 4, 5)
    tree = minimum_spanning_tree(guide)
    assert tree_filter(torch.zeros(0, 2, 4, 5), tree, edge_similarity(guide, tree)).shape == (0, 2, 4, 5)
