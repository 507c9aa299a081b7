"""The plain view says the sizes of the images and of the batch in which they lie."""

import dataclasses

import pytest
import torch
from detectron2.structures import ImageList

from weakseg.inference import View, plain_view


def test_sizes_of_a_padded_batch():
    images = ImageList.from_tensors([torch.zeros(3, 20, 31), torch.zeros(3, 17, 40)], size_divisibility=16)
    view = plain_view(images)
    assert view == View(image_sizes=((20, 31), (17, 40)), padded_size=(32, 48))


def test_sizes_that_are_tensors_become_numbers():
    images = ImageList(torch.zeros(1, 3, 8, 9), [torch.tensor([5, 6])])
    view = plain_view(images)
    assert view == View(((5, 6),), (8, 9))
    assert all(type(side) is int for size in (*view.image_sizes, view.padded_size) for side in size)


def test_a_view_is_a_value():
    view = View(((5, 6),), (8, 9))
    assert len({view, View(((5, 6),), (8, 9)), View(((5, 6),), (9, 8))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.padded_size = (1, 1)
