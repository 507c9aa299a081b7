"""Labels from activation maps: hand examples, slow loops over pixels, and what holds for mirrored maps."""

import numpy as np
import pytest
import torch

from weakseg.methods.spml.cam_labels import cam_scores, labels_from_boxes, labels_from_tags


def random_maps(classes, size, seed):
    """Maps in 0..1 whose largest value is 1, some pixels all 0."""
    generator = np.random.default_rng(seed)
    maps = generator.random((classes, *size)) * (generator.random(size) > 0.3)
    return torch.from_numpy(maps / maps.max((1, 2), keepdims=True)).float()


def test_the_background_scores_where_no_class_is_active():
    cams = torch.tensor([[[1.0, 0.5, 0.0]], [[0.25, 0.5, 0.0]]])
    expected = [[[0.0, 0.125, 1.0]], [[1.0, 0.5, 0.0]], [[0.25, 0.5, 0.0]]]
    torch.testing.assert_close(cam_scores(cams, 3.0), torch.tensor(expected))


def test_tags_by_hand():
    cams = torch.tensor([[[0.9, 0.3, 0.1, 0.5]], [[0.2, 0.4, 0.1, 0.5]]])
    # (1 - 0.4)^2 = 0.36, (1 - 0.1)^2 = 0.81; of equal scores the first class wins.
    assert labels_from_tags(cams, alpha=2, threshold=0.2).tolist() == [[1, 2, 0, 1]]
    # The first three scores that win are 0.9, 0.4 and 0.81.
    assert labels_from_tags(cams, alpha=2, threshold=0.6).tolist() == [[1, 254, 0, 254]]
    assert labels_from_tags(cams, alpha=2, threshold=0.2, has_background=False).tolist() == [[0, 1, 254, 0]]


def test_a_score_at_the_threshold_is_enough():
    cams = torch.tensor([[[0.5, 0.4375]]])
    assert labels_from_tags(cams, alpha=6, threshold=0.5).tolist() == [[1, 254]]
    assert labels_from_boxes(
        torch.tensor([[[1.0, 0.5, 0.4375]]]), torch.tensor([[0.0, 0, 3, 1]]), torch.tensor([0]), threshold=0.5
    ).tolist() == [[1, 1, 254]]


@pytest.mark.parametrize("has_background", [True, False])
@pytest.mark.parametrize("classes", [1, 4])
def test_tags_equal_a_loop(classes, has_background):
    cams = random_maps(classes, (9, 11), classes)
    labels = labels_from_tags(cams, alpha=9.0, threshold=0.4, has_background=has_background)
    seen = set()
    for row in range(9):
        for column in range(11):
            values = cams[:, row, column].tolist()
            scores = [(1 - max(values)) ** 9] * has_background + values
            expected = scores.index(max(scores)) if max(scores) >= 0.4 else 254
            assert labels[row, column] == expected
            seen.add(expected)
    assert 254 in seen and len(seen) > 1


def test_the_published_threshold_leaves_nothing_unlabelled():
    cams = torch.linspace(0, 1, 1001).view(1, 1, -1)
    assert (labels_from_tags(cams, alpha=6, threshold=0.2) != 254).all()
    assert (labels_from_tags(cams, alpha=9, threshold=0.2) == 254).any()


def test_no_active_class_is_background_or_unlabelled():
    cams = torch.zeros(3, 4, 5)
    assert (labels_from_tags(cams, alpha=6, threshold=0.2) == 0).all()
    assert (labels_from_tags(cams, alpha=6, threshold=0.2, has_background=False) == 254).all()


def test_boxes_by_hand():
    """Two boxes that share the two middle columns; a row above and a column at the right outside both."""
    cams = torch.zeros(2, 2, 7)
    cams[0, 1] = torch.tensor([0.2, 0.1, 0.05, 0.16, 1.0, 1.0, 1.0])
    cams[1, 1] = torch.tensor([1.0, 1.0, 0.7, 0.7, 0.2, 1.0, 1.0])
    boxes, classes = torch.tensor([[0.0, 1, 4, 2], [2.0, 1, 6, 2]]), torch.tensor([0, 1])
    # Shares: first box 1, 0.5, 0.25, 0.8; second box, from column 2: 0.7, 0.7, 0.2, 1.
    labels = labels_from_boxes(cams, boxes, classes, threshold=0.5)
    assert labels.tolist() == [[0] * 7, [1, 1, 2, 1, 254, 2, 0]]
    assert torch.equal(labels_from_boxes(cams, boxes.flip(0), classes.flip(0), threshold=0.5), labels)
    without = labels_from_boxes(cams, boxes, classes, threshold=0.5, has_background=False)
    assert without.tolist() == [[254] * 7, [0, 0, 1, 0, 254, 1, 254]]


def test_of_equal_shares_the_first_box_wins():
    cams = torch.ones(2, 1, 2)
    boxes = torch.tensor([[0.0, 0, 2, 1], [0.0, 0, 1, 1]])
    assert labels_from_boxes(cams, boxes, torch.tensor([1, 0]), threshold=0.5).tolist() == [[2, 2]]


def boxes_by_loop(cams, boxes, classes, threshold, has_background):
    height, width = cams.shape[1:]
    outside = 0 if has_background else 254
    labels = torch.full((height, width), outside)
    for row in range(height):
        for column in range(width):
            shares = []
            for (x0, y0, x1, y1), number in zip(boxes.tolist(), classes.tolist()):
                touched = [
                    (r, c)
                    for r in range(height)
                    for c in range(width)
                    if r + 1 > y0 and r < y1 and c + 1 > x0 and c < x1
                ]
                if (row, column) in touched:
                    peak = max(cams[number, r, c].item() for r, c in touched)
                    shares.append((cams[number, row, column].item() / max(peak, 1e-5), number))
            if shares:
                share, number = max(shares, key=lambda pair: pair[0])
                labels[row, column] = number + has_background if share >= threshold else 254
    return labels


@pytest.mark.parametrize("has_background", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_equal_a_loop(seed, has_background):
    cams = random_maps(3, (7, 8), seed)
    generator = np.random.default_rng(seed)
    # Fractional corners, also beyond the image.
    corners = generator.uniform(-2, 6, (4, 2))
    boxes = torch.from_numpy(np.hstack([corners, corners + generator.uniform(0.3, 5, (4, 2))])).float()
    classes = torch.from_numpy(generator.integers(0, 3, 4))
    labels = labels_from_boxes(cams, boxes, classes, threshold=0.6, has_background=has_background)
    assert torch.equal(labels, boxes_by_loop(cams, boxes, classes, 0.6, has_background))
    # Mirrored maps and boxes give mirrored labels.
    mirrored = boxes[:, [2, 1, 0, 3]]
    mirrored[:, [0, 2]] = 8 - mirrored[:, [0, 2]]
    again = labels_from_boxes(cams.flip(-1), mirrored, classes, threshold=0.6, has_background=has_background)
    assert torch.equal(again, labels.flip(-1))


def test_boxes_without_activation_are_unlabelled_and_boxes_outside_the_image_are_nothing():
    cams = torch.zeros(1, 3, 4)
    cams[0, 0, 3] = 1
    boxes = torch.tensor([[0.0, 1, 2, 3], [9.0, 0, 12, 3], [-5.0, -5, 0, -1], [1.0, 0, 1, 3]])
    labels = labels_from_boxes(cams, boxes, torch.zeros(4, dtype=torch.int64), threshold=0.5)
    assert labels.tolist() == [[0, 0, 0, 0], [254, 254, 0, 0], [254, 254, 0, 0]]
    nothing = labels_from_boxes(cams, boxes[:0], torch.zeros(0, dtype=torch.int64), threshold=0.5)
    assert nothing.shape == (3, 4) and (nothing == 0).all() and nothing.dtype == torch.int64
