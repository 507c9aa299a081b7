"""Spherical k-means and segments against a literal reading, and the laws that they obey."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.segments import (
    Prototypes,
    find_segments,
    initial_clusters,
    join_prototypes,
    local_prototypes,
    segment_prototypes,
    spherical_kmeans,
)

GRID, ITERATIONS = (3, 4), 5


def scene(n=2, channels=6, height=9, width=12, seed=0):
    """Embedding and label maps in blocks, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(n, channels, height, width, generator=generator)
    semantic = torch.randint(0, 4, (n, height, width), generator=generator)
    semantic[torch.rand(n, height, width, generator=generator) < 0.2] = 255
    region = torch.randint(0, 3, (n, height, width), generator=generator)
    return embedding, {"semantic": semantic, "region": region}


def find(embedding, labels, grid=GRID, iterations=ITERATIONS, **options):
    local = position_features(*embedding.shape[2:])
    return find_segments(embedding, local=local, grid=grid, iterations=iterations, **labels, **options)


def literal_segments(embedding, semantic, region):
    """Card section 3.3 pixel by pixel: (image, cluster, y, r) of each pixel that takes part, in order."""
    keys = []
    for b, (features, classes, regions) in enumerate(zip(embedding, semantic, region)):
        _, height, width = features.shape
        position = position_features(height, width)
        places = [(i, j) for i in range(height) for j in range(width) if classes[i, j] != 255]
        vectors = [
            F.normalize(torch.cat([F.normalize(features[:, i, j], dim=0), position[i, j]]), dim=0) for i, j in places
        ]
        cells = {
            (i, j): (round(i * (GRID[0] - 1) / (height - 1)), round(j * (GRID[1] - 1) / (width - 1)))
            for i in range(height)
            for j in range(width)
        }
        order = sorted(set(cells.values()), key=lambda cell: (cell[1], cell[0]))
        cluster = [order.index(cells[place]) for place in places]
        for _ in range(ITERATIONS):
            sums = [
                sum((v for v, c in zip(vectors, cluster) if c == k), torch.zeros(len(vectors[0])))
                for k in range(len(order))
            ]
            means = [total / total.norm().clamp(min=1e-12) for total in sums]
            cluster = [max(range(len(order)), key=lambda k: (float(v @ means[k]), -k)) for v in vectors]
        keys += [(b, k, int(classes[place]), int(regions[place])) for k, place in zip(cluster, places)]
    return keys


def test_segments_are_those_of_the_card():
    embedding, labels = scene()
    segments = find(embedding, labels)
    keys = literal_segments(embedding, **labels)
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    assert segments.segment.tolist() == [ranks[key] for key in keys]
    assert list(zip(segments.image.tolist(), segments.semantic.tolist(), segments.region.tolist())) == [
        (b, y, r) for b, _, y, r in keys
    ]
    of_segments = zip(
        segments.segment_image.tolist(), segments.segment_semantic.tolist(), segments.segment_region.tolist()
    )
    assert list(of_segments) == [(b, y, r) for b, _, y, r in sorted(ranks)]
    assert segments.pixels_per_image == tuple(sum(key[0] == b for key in keys) for b in range(2))
    assert segments.segments_per_image == tuple(sum(key[0] == b for key in ranks) for b in range(2))


def test_vectors_are_unit_embeddings_with_and_without_local_features():
    embedding, labels = scene()
    segments = find(embedding, labels)
    kept = labels["semantic"].flatten() != 255
    expected = F.normalize(embedding.permute(0, 2, 3, 1), dim=-1)
    torch.testing.assert_close(segments.embedding, expected.reshape(-1, 6)[kept])
    position = position_features(9, 12).expand(2, -1, -1, -1)
    located = F.normalize(torch.cat([expected, position], -1), dim=-1).reshape(-1, 8)[kept]
    torch.testing.assert_close(segments.located, located)
    squeezed = find(embedding, labels, squeeze=0.1)
    located = F.normalize(torch.cat([0.1 * expected, position], -1), dim=-1).reshape(-1, 8)[kept]
    torch.testing.assert_close(squeezed.located, located)
    assert (squeezed.segment == segments.segment).all()


def test_images_in_another_order_have_the_same_segments():
    embedding, labels = scene(n=3)
    order = torch.tensor([2, 0, 1])
    moved = find(embedding[order], {name: maps[order] for name, maps in labels.items()})
    for place, b in enumerate(order.tolist()):
        alone = find(embedding[b : b + 1], {name: maps[b : b + 1] for name, maps in labels.items()})
        first = sum(moved.segments_per_image[:place])
        assert (moved.segment[moved.image == place] - first).equal(alone.segment)
        torch.testing.assert_close(moved.located[moved.image == place], alone.located)


def test_an_image_of_ignored_pixels_beside_a_normal_one():
    embedding, labels = scene()
    labels["semantic"][0] = 255
    segments = find(embedding.requires_grad_(), labels)
    assert segments.pixels_per_image[0] == segments.segments_per_image[0] == 0
    assert (segments.image == 1).all() and segments.segment_image.unique().tolist() == [1]
    segments.located.sum().backward()
    assert (embedding.grad[0] == 0).all() and embedding.grad[1].abs().sum() > 0


@pytest.mark.parametrize("n", [0, 2])
def test_nothing_takes_part(n):
    embedding, labels = scene(n=n)
    labels["semantic"][:] = 255
    segments = find(embedding.requires_grad_(), labels)
    assert len(segments.segment) == len(segments.segment_image) == 0
    assert segments.pixels_per_image == (0,) * n
    prototypes = local_prototypes(segments, torch.zeros(n, 4, dtype=torch.bool))
    assert prototypes.vector.shape == (0, 6)
    prototypes.vector.sum().backward()
    assert (embedding.grad == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (9, 12)])
def test_small_maps_and_maps_without_labels(size):
    embedding = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(1))
    segments = find(embedding, {}, grid=(6, 6))
    assert len(segments.segment) == size[0] * size[1]
    assert segments.segment.unique().tolist() == list(range(len(segments.segment_image)))
    assert len(segments.segment_image) <= 36
    assert (segments.segment_semantic == 0).all() and (segments.segment_region == 0).all()


def test_initial_clusters_follow_the_grid():
    assert initial_clusters(3, 2, (6, 6)).tolist() == [[0, 30], [2, 32], [5, 35]]
    assert initial_clusters(1, 4, (2, 2)).tolist() == [[0, 0, 1, 1]]
    assert initial_clusters(4, 1, (2, 3))[:, 0].tolist() == [0, 0, 1, 1]
    # Halves go to the even one: 0.5 to 0, 1.5 to 2.
    assert initial_clusters(5, 5, (3, 1))[:, 0].tolist() == [0, 0, 1, 2, 2]


def test_a_dead_cluster_wins_back_pixels_that_resemble_no_other():
    def one_step(points, cluster):
        vectors = F.normalize(torch.tensor([points]), dim=2)
        options = {"ignored": torch.zeros(1, 4, dtype=torch.bool), "num_clusters": 3, "iterations": 1}
        return spherical_kmeans(vectors, torch.tensor([cluster]), **options)[0].tolist()

    # A similarity of 0 is more than a negative one; the first of two dead clusters gets the pixel.
    assert one_step([[1.0, 0.0], [1.0, 0.1], [1.0, -0.2], [-1.0, 0.0]], [0, 0, 0, 0]) == [0, 0, 0, 1]
    assert one_step([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]], [2, 2, 0, 0]) == [2, 2, 0, 0]


def test_half_precision_is_left_before_anything_is_summed():
    embedding, labels = scene()
    embedding = embedding.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        segments = find(embedding, labels)
        prototypes = local_prototypes(segments, torch.zeros(2, 4, dtype=torch.bool))
    expected = find(embedding.float(), labels)
    assert segments.located.dtype == torch.float32
    assert segments.segment.equal(expected.segment) and segments.located.equal(expected.located)
    torch.testing.assert_close(prototypes.vector.norm(dim=1), torch.ones(len(prototypes.vector)))


def test_prototypes_are_unit_sums_and_empty_segments_are_zero():
    vectors = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 2.0]])
    prototypes = segment_prototypes(vectors, torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(prototypes, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]))


def test_joined_devices_number_their_images_on():
    def device(images, fill):
        count = len(images)
        labels = torch.full((count,), fill)
        tags = torch.zeros(count, 2, dtype=torch.bool)
        return Prototypes(torch.full((count, 1), float(fill)), labels, labels, torch.tensor(images), tags, labels)

    # The first device has three images, the last of which has no segment.
    joined = join_prototypes([device([0, 0, 1], 7), device([], 8), device([0, 1], 9)], [3, 1, 2])
    assert joined.image.tolist() == [0, 0, 1, 4, 5]
    assert joined.semantic.tolist() == [7, 7, 7, 9, 9] and joined.vector[:, 0].tolist() == [7, 7, 7, 9, 9]


def test_prototypes_carry_the_tags_of_their_image():
    embedding, labels = scene()
    segments = find(embedding, labels)
    tags = torch.tensor([[True, False], [False, True]])
    prototypes = local_prototypes(segments, tags)
    assert prototypes.tags.equal(tags[segments.segment_image])
    assert (prototypes.propagated == -1).all()
    assert prototypes.semantic.equal(segments.segment_semantic) and prototypes.region.equal(segments.segment_region)
