"""Labelled pixels of a batch, and truth in the place of pseudo labels."""

import torch

from tiny import point_labels
from weakseg.labels import WeakLabels
from weakseg.methods.point2mask.targets import point_targets, true_labels


def test_things_are_instances_and_all_points_are_in_the_map():
    # Two things (classes 1, 0), stuff of class 3 between them.
    first = point_labels((4, 6), [(5.5, 2.0, 1), (0.0, 3.9, 3), (1.2, 0.7, 0)])
    second = point_labels((3, 3), [])
    targets = point_targets([first, second], (4, 8), num_things=2)
    assert [c.tolist() for c in targets.classes] == [[1, 0], []]
    assert targets.points[0].tolist() == [[0, 2, 5], [1, 0, 1]]
    assert targets.points[1].shape == (0, 3)
    expected = torch.full((2, 4, 8), 255)
    expected[0, 2, 5], expected[0, 3, 0], expected[0, 0, 1] = 1, 3, 0
    assert torch.equal(targets.point_map, expected)


def test_points_off_the_object_and_crowds_teach_nothing():
    weak = point_labels((4, 4), [(0.5, 0.5, 0), (2.5, 2.5, 1)])
    weak = weak.replace(
        points=torch.cat([weak.points, torch.tensor([[3.5, 3.5]])]),
        point_target=torch.tensor([0, 1, 0]),
        point_positive=torch.tensor([True, True, False]),
        is_crowd=torch.tensor([False, True]),
    )
    targets = point_targets([weak], (4, 4), num_things=2)
    assert targets.classes[0].tolist() == [0]
    assert targets.points[0].tolist() == [[0, 0, 0]]
    assert (targets.point_map != 255).nonzero().tolist() == [[0, 0, 0]]
    # The release marks the class of a crowd (fault ac), but makes no instance of it either.
    official = point_targets([weak], (4, 4), num_things=2, official=True)
    assert official.point_map[0, 2, 2] == 1 and official.points[0].tolist() == [[0, 0, 0]]


def test_several_points_of_one_target_keep_its_instance():
    weak = point_labels((4, 4), [(0.5, 0.5, 0), (2.5, 2.5, 0)])
    weak = weak.replace(
        points=torch.tensor([[0.5, 0.5], [2.5, 2.5], [3.5, 1.5]]),
        point_target=torch.tensor([0, 1, 1]),
        point_positive=torch.ones(3, dtype=torch.bool),
    )
    assert point_targets([weak], (4, 4), num_things=1).points[0].tolist() == [[0, 0, 0], [1, 2, 2], [1, 1, 3]]


def test_where_targets_share_a_pixel_the_later_one_is_kept():
    """In whatever order the points come; both instances keep their point."""
    rows = [(1.5, 2.5, 3), (1.2, 2.1, 0), (1.9, 2.9, 1), (0.5, 0.5, 0), (0.5, 0.5, 2)]
    first = point_labels((4, 4), rows)
    order = torch.tensor([2, 4, 0, 3, 1])
    shuffled = first.replace(points=first.points[order], point_target=first.point_target[order])
    targets = point_targets([first, shuffled], (4, 5), num_things=2)
    expected = torch.full((4, 5), 255)
    expected[2, 1], expected[0, 0] = 1, 2
    assert torch.equal(targets.point_map, expected.expand(2, 4, 5))
    assert targets.points[0].tolist() == [[0, 2, 1], [1, 2, 1], [2, 0, 0]]
    # A crowd on top hides nothing; in the release it does.
    crowd = first.replace(is_crowd=torch.tensor([False, False, True, False, False]))
    assert point_targets([crowd], (4, 5), num_things=2).point_map[0, 2, 1] == 0
    assert point_targets([crowd], (4, 5), num_things=2, official=True).point_map[0, 2, 1] == 1


def truth(size, masks, classes, crowd=None):
    return WeakLabels(
        image_size=size,
        classes=torch.tensor(classes),
        is_crowd=torch.tensor(crowd or [False] * len(classes)),
        masks=torch.stack(masks),
        mask_target=torch.arange(len(masks)),
    )


def test_true_masks_stand_where_pseudo_labels_stood():
    thing, stuff, crowd, second = (torch.zeros(3, 4, dtype=torch.bool) for _ in range(4))
    thing[0, 1:3], stuff[2], crowd[1, 0], second[1, 3] = True, True, True, True
    weak = truth((3, 4), [thing, stuff, crowd, second], [1, 2, 0, 0], [False, False, True, False])
    (classes,), labels = true_labels([weak], (4, 5), num_things=2)
    assert classes.tolist() == [1, 0]
    expected = torch.full((4, 5), 255)
    expected[0, 1:3], expected[2, :4], expected[1, 3] = 1, 2, 0
    assert torch.equal(labels.semantic[0], expected)
    owner = torch.full((4, 5), -1)
    owner[0, 1:3], owner[1, 3] = 0, 1
    assert torch.equal(labels.instance_map[0], owner)
    assert labels.boxes[0].tolist() == [[1, 0, 3, 1], [3, 1, 4, 2]]


def test_of_overlapping_masks_the_later_one_is_kept():
    first, second = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    first[0], second[:, 1] = True, True
    _, labels = true_labels([truth((2, 3), [first, second], [0, 2])], (2, 3), num_things=2)
    assert labels.semantic[0].tolist() == [[0, 2, 0], [255, 2, 255]]
    assert labels.instance_map[0].tolist() == [[0, -1, 0], [-1, -1, -1]]
    _, labels = true_labels([truth((2, 3), [second, first], [0, 2])], (2, 3), num_things=2)
    assert labels.semantic[0].tolist() == [[2, 2, 2], [255, 0, 255]]


def test_an_image_without_masks_has_no_truth():
    (classes,), labels = true_labels([point_labels((3, 3), [])], (3, 3), num_things=2)
    assert len(classes) == 0 and (labels.semantic == 255).all() and labels.boxes[0].shape == (0, 4)
