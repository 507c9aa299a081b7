"""Activation maps over several views, and the label maps that tags and boxes make of them."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from methods.spml.cam_stubs import head_of, labels_of, samples
from torch import nn


class Ramp(nn.Module):
    """A backbone of stride 1: the image, brighter to the right and the bottom."""

    size_divisibility = 4

    def forward(self, images):
        assert not any(side % 4 for side in images.shape[-2:])
        rows, columns = (torch.arange(side, dtype=images.dtype) for side in images.shape[-2:])
        return {"map": images * (1 + columns) * (2 + rows[:, None])}


def cams_by_loop(weight, image, scales):
    """All maps (K', H, W) of an image (3, H, W) by OpenCV's resizing, view by view, before the division."""
    height, width = image.shape[1:]
    total = np.zeros((len(weight), height, width))
    for scale in scales:
        size = int(scale * width), int(scale * height)
        view = cv2.resize(image.transpose(1, 2, 0), size, interpolation=cv2.INTER_LINEAR)
        ramp = (1 + np.arange(size[0]))[None, :, None] * (2 + np.arange(size[1]))[:, None, None]
        plain, mirrored = (np.maximum(seen * ramp @ weight.T, 0) for seen in (view, view[:, ::-1]))
        for maps in (plain, mirrored[:, ::-1]):
            resized = cv2.resize(maps, (width, height), interpolation=cv2.INTER_LINEAR)
            total += resized.reshape(height, width, -1).transpose(2, 0, 1)
    return total


def pseudo(head, image, weak, backbone=None, **size):
    model = SimpleNamespace(backbone=backbone or Ramp(), head=head)
    images = ImageList.from_tensors([torch.zeros(3, 16, 4), image], 4)
    batch = samples(labels_of((16, 4)), weak)
    batch[1] |= size
    nothing, result = head.pseudo_labels(model, images, batch)
    assert nothing["cams"] == {} and nothing["sem_seg"].shape == (16, 4) and (nothing["sem_seg"] == 255).all()
    return result


def random_image(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *size))).float()


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.6)])
def test_activation_maps_are_the_sum_over_views(scales):
    weight = np.array([[1.0, -2, 0.5], [0.3, 0.1, 1], [-1, 1, 1]])
    head, image = head_of(weight=weight, scales=scales), random_image((9, 13))
    result = pseudo(head, image, labels_of((9, 13), tags=[3, 2, 0]))
    total = cams_by_loop(weight, image.numpy(), scales)
    # Numbers of cat and owl; the dog and the background have no map.
    assert list(result["cams"]) == ["0", "2"]
    for number in (0, 2):
        cam = result["cams"][str(number)]
        assert cam.dtype == torch.float32 and cam.max() == 1
        np.testing.assert_allclose(cam, total[number] / total[number].max(), atol=1e-5)


def test_pseudo_labels_of_a_mirrored_image_are_mirrored():
    head = head_of(weight=np.array([[1.0, -2, 0.5], [0.3, 0.1, 1], [-1, 1, 1]]))
    image, weak = random_image((9, 14), 2), labels_of((9, 14), tags=[0, 1])
    plain, mirrored = pseudo(head, image, weak), pseudo(head, image.flip(-1), weak)
    for number in plain["cams"]:
        torch.testing.assert_close(mirrored["cams"][number], plain["cams"][number].flip(-1))
    assert torch.equal(mirrored["sem_seg"], plain["sem_seg"].flip(-1))


class Plain(nn.Module):
    """A backbone that hands out the image, without a demand on its size."""

    size_divisibility = 0

    def forward(self, images):
        return {"map": images}


def three_maps():
    """Mirrored like itself, so that at scale 1 an activation map is the channel over its maximum."""
    image = torch.zeros(3, 2, 4)
    image[0] = torch.tensor([[2.0, 1, 1, 2], [0.2, 0.3, 0.3, 0.2]])
    image[1] = torch.tensor([[0.0, 3, 3, 0], [0.6, 0, 0, 0.6]])
    image[2] = torch.tensor([[9.0, 9, 9, 9], [9, -9, -9, 9]])
    return image


def test_tags_by_hand():
    head = head_of(scales=(1.0,), alpha=2.0, tag_threshold=0.8)
    result = pseudo(head, three_maps(), labels_of((2, 4), tags=[0, 1, 2]), Plain())
    # Scores of cat 1 .5 / .1 .15, dog 0 1 / .2 0, background 0 0 / .64 .72.
    assert result["sem_seg"].tolist() == [[0, 1, 1, 0], [255, 255, 255, 255]]
    head.tag_threshold = 0.7
    result = pseudo(head, three_maps(), labels_of((2, 4), tags=[1, 0]), Plain())
    assert result["sem_seg"].tolist() == [[0, 1, 1, 0], [255, 2, 2, 255]]
    # One map alone, and none: what is not among the tags does not show.
    assert list(pseudo(head, three_maps(), labels_of((2, 4), tags=[1]), Plain())["cams"]) == ["1"]
    for tags in ([], [2]):
        result = pseudo(head, three_maps(), labels_of((2, 4), tags=tags), Plain())
        assert result["cams"] == {} and (result["sem_seg"] == 2).all()


def test_a_tag_without_activation_has_a_map_of_zeros():
    result = pseudo(head_of(scales=(1.0,)), -torch.ones(3, 2, 4), labels_of((2, 4), tags=[1]), Plain())
    assert torch.equal(result["cams"]["1"], torch.zeros(2, 4)) and (result["sem_seg"] == 2).all()


def test_boxes_by_hand():
    head = head_of(scales=(1.0,), box_threshold=0.5)
    boxes = [(0, 0, 2, 2, 0), (1, 0, 3, 1, 1), (0, 0, 4, 2, 2)]
    result = pseudo(head, three_maps(), labels_of((2, 4), boxes=boxes), Plain())
    # The box of the background says nothing. Share of the cat 1 .5 / .1 .15; of the dog 1 1.
    assert result["sem_seg"].tolist() == [[0, 1, 1, 2], [255, 255, 2, 2]]
    assert list(result["cams"]) == ["0", "1"]
    torch.testing.assert_close(result["cams"]["0"], three_maps()[0] / 2)
    # Tags beside the boxes give maps, but no labels outside them.
    both = labels_of((2, 4), boxes=boxes[:1], tags=[3])
    result = pseudo(head, three_maps(), both, Plain())
    assert list(result["cams"]) == ["0", "2"] and result["sem_seg"].tolist() == [[0, 0, 2, 2], [255, 255, 2, 2]]


def test_without_a_background_a_pixel_may_have_no_class():
    head = head_of(("cat", "dog", "owl"), scales=(1.0,), tag_threshold=0.25)
    result = pseudo(head, three_maps(), labels_of((2, 4), tags=[0, 1]), Plain())
    # Scores of cat 1 .5 / .1 .15, dog 0 1 / .2 0.
    assert result["sem_seg"].tolist() == [[0, 1, 1, 0], [255, 255, 255, 255]]
    result = pseudo(head, three_maps(), labels_of((2, 4), boxes=[(0, 0, 1, 2, 2)]), Plain())
    assert result["sem_seg"].tolist() == [[2, 255, 255, 255], [2, 255, 255, 255]]


def test_pseudo_labels_are_at_the_size_of_the_sample():
    """An image that the network saw at half size; its box moves with it."""
    head = head_of(scales=(1.0,))
    image, weak = torch.ones(3, 2, 4), labels_of((2, 4), boxes=[(1, 0, 3, 1, 1)])
    result = pseudo(head, image, weak, Plain(), height=4, width=8)
    expected = torch.full((4, 8), 2)
    expected[:2, 2:6] = 1
    assert torch.equal(result["sem_seg"], expected) and result["cams"]["1"].shape == (4, 8)
