"""Pseudo labels from segments, of a memory or of the image itself: colours, whose votes are known."""

import pytest
import torch
from methods.spml.pseudo_label_stubs import (
    SIZE,
    close,
    colours,
    halves,
    labeller,
    random_image,
    unlabelled,
    without_crf,
)


@pytest.fixture
def seen(monkeypatch):
    return without_crf(monkeypatch)


MEMORY = (torch.eye(3)[[0, 0, 1, 1]], torch.tensor([1, 2, 2, 2]))
"""Of red prototypes one is of class 1, the other one and both green ones of class 2."""


def test_votes_by_the_peak_of_the_class(seen):
    labels = unlabelled(32, 48)
    labels[0, :2] = torch.tensor([1, 2])
    ways = labeller(neighbours=2, crf={"engine": "lattice"})
    found = ways.nearest_segments(halves(), colours, MEMORY, labels)
    scores, _, arguments = seen[0]
    close(scores[:, 0, 0], torch.tensor([0.0, 1.0, 0.5]))  # 0.5 by 0.5, 0.5 by 1
    close(scores[:, 0, -1], torch.tensor([0.0, 0.0, 1.0]))
    assert (found[:, :20] == 1).all() and (found[:, 28:] == 2).all()
    assert arguments == {"engine": "lattice"}


def test_a_small_peak_is_not_raised_to_one(seen):
    labels = unlabelled(32, 48)
    labels[0, :2] = torch.tensor([1, 2])
    labeller(neighbours=2, min_peak=0.8, crf={}).nearest_segments(halves(), colours, MEMORY, labels)
    close(seen[0][0][:, 0, 0], torch.tensor([0.0, 0.625, 0.5]))


def test_classes_that_are_not_the_images_get_no_vote(seen):
    labels = unlabelled(32, 48)
    labels[0, 0] = 1
    for official, others in ((False, 0.0), (True, 0.5)):
        labeller(neighbours=2, crf={}, official=official).nearest_segments(halves(), colours, MEMORY, labels)
        close(seen.pop()[0][:, 0, 0], torch.tensor([0.0, 1.0, others]))


@pytest.mark.parametrize("official", [False, True])
def test_without_labels_votes_stay(seen, official):
    ways = labeller(neighbours=2, crf={}, official=official)
    ways.nearest_segments(halves(), colours, MEMORY, unlabelled(32, 48))
    close(seen[0][0][:, 0, 0], torch.tensor([0.0, 0.5, 0.5]))


def test_unlabelled_prototypes_do_not_vote(seen):
    memory = MEMORY[0], torch.tensor([1, 254, 2, 2])
    for official, expected in ((False, 1.0), (True, 0.5)):
        ways = labeller(neighbours=1 + official, crf={}, official=official)
        ways.nearest_segments(halves(), colours, memory, unlabelled(32, 48))
        close(seen.pop()[0][1, 0, 0], torch.tensor(expected))


def test_votes_are_those_of_eight_views_in_tiles():
    sizes, mirrored = [], []

    def embed(images):
        sizes.append(tuple(images.shape[-2:]))
        # Green is left of red in a mirrored view.
        mirrored.append(bool(images[0, 1, 0, 0] > 0.5))
        return images

    settings = {"crop_size": 24, "divisor": 16, "neighbours": 2}
    labeller(**settings).nearest_segments(halves(16, 24, 12), embed, MEMORY, unlabelled(16, 24))
    # Views of 8 x 12, 16 x 24, 24 x 36 and 32 x 48 in tiles of 24, padded to 32.
    assert sizes == 2 * (1 + 1 + 2 + 4) * [(32, 32)]
    assert mirrored[:4] == [True, False, True, False]
    sizes.clear()
    labeller(**settings, stride=12).nearest_segments(halves(16, 24, 12), embed, MEMORY, unlabelled(16, 24))
    assert len(sizes) == 2 * (1 + 1 + 2 + 2 * 3)


def test_labels_reach_what_looks_alike(seen):
    image, labels = halves(), unlabelled(32, 48, 20)
    labels[4:8, 4:8], labels[4:8, 40:44], labels[20:, :4] = 1, 2, 255
    found = labeller(crf={}, kmeans_grid=(1, 2)).densepose_walk(image, colours, labels, torch.zeros_like(labels))
    close(seen[0][0][:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    close(seen[0][0][:, 0, -1], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(found == 255, labels == 255)
    assert (found[:20, :20] == 1).all() and (found[:, 28:] == 2).all()


def test_a_segment_shares_its_pixels_labels(seen):
    # One cluster, cut by two regions and the labels. At half size the unlabelled segment of region 0 has 11 green
    # columns and 4 red ones, that of region 1 is red.
    image, labels = halves(32, 64, 40).flip(-1), unlabelled(32, 64)
    labels[:, 60:], labels[:, :2] = 1, 2
    region = torch.zeros(32, 64, dtype=torch.uint8)
    region[:, 32:] = 1
    ways = labeller(crf={}, kmeans_grid=(1, 1), walk_steps=0)
    ways.densepose_walk(image, colours, labels, region)
    # Divided by the largest of the class on cells: 1 for class 1, in region 1, and 11 / 15 for class 2.
    close(seen[0][0][:, 20, 10], torch.tensor([0.0, 4 / 15, 1.0]))
    close(seen[0][0][:, 20, 50], torch.tensor([0.0, 1.0, 0.0]))


def test_a_class_without_a_pixel_at_half_size_has_no_score(seen):
    image, labels = halves(), unlabelled(32, 48)
    labels[4:8, 4:8], labels[9, 41] = 1, 2
    region = torch.zeros_like(labels)
    found = labeller(crf={}).densepose_walk(image, colours, labels, region)
    assert (found == 1).all()
    close(seen[0][0], torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 32, 48))
    labeller(crf={}, official=True).densepose_walk(image, colours, labels, region)
    assert seen[1][0][2].isnan().all()


@pytest.mark.parametrize("value", [3, 254, 255])
def test_without_labels_nothing_is_known(value):
    labels = unlabelled(*SIZE, value)
    found = labeller(crf={}).densepose_walk(random_image(*SIZE), colours, labels, torch.zeros_like(labels))
    assert found.dtype == torch.int64 and (found == 255).all()
