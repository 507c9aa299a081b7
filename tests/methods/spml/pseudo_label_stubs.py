"""Small images whose embedding and class scores are their colours, and slow parts of what labels are grown with."""

import numpy as np
import torch

from weakseg.methods.spml import prediction
from weakseg.methods.spml.pseudo_labels import PseudoLabeller
from weakseg.methods.spml.views import resize_linear

SIZE = (33, 47)
WALKING = {"walk_steps": 3, "power": 2}
"""A walk whose parts float64 can follow."""


def random_image(height, width, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def halves(height=32, width=48, split=24):
    """Red left of `split`, green right of it: embeddings at a right angle, which a walk does not cross."""
    image = torch.zeros(3, height, width)
    image[0, :, :split] = 1
    image[1, :, split:] = 1
    return image


def colours(images):
    """An embedding of stride 1: the colours."""
    return images


def slanted(images):
    """An embedding that a mirrored image changes, and that knows the width that the network sees."""
    return images + torch.linspace(0, 2, images.shape[-1]) * torch.tensor([1.0, -1.0, 0.5])[:, None, None]


class ColourClassifier:
    """Logits that are the embedding's channels, times 2 at stride 4."""

    def full_logits(self, embedding, size, *, at_stride_4=False):
        return resize_linear(embedding, size) * (1 + at_stride_4)


def labeller(**settings):
    settings = {"num_classes": 3, "crop_size": 50, "kmeans_grid": (3, 3), "kmeans_iterations": 4, **settings}
    return PseudoLabeller(**{"stride": settings["crop_size"], **settings})


def unlabelled(height, width, value=254):
    return torch.full((height, width), value)


def without_crf(monkeypatch):
    """Scores, image and arguments of each call of a CRF, which from now on changes nothing."""
    calls = []

    def no_crf(scores, image, **arguments):
        calls.append((scores, image, arguments))
        return scores

    monkeypatch.setattr(prediction, "dense_crf", no_crf)
    return calls


def slow_resize(maps, size):
    """maps (C, H, W) float64: linear, half-pixel centres."""
    for axis, new in zip((1, 2), size):
        old = maps.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        before = np.floor(place).astype(int)
        share = (place - before).reshape([-1 if other == axis else 1 for other in range(3)])
        after = np.minimum(before + 1, old - 1)
        maps = np.take(maps, before, axis) * (1 - share) + np.take(maps, after, axis) * share
    return maps


def slow_views(image, scales, crop_size):
    """The embedding `slanted` of each view on cells, float64."""
    height, width = image.shape[1:]
    found = []
    for scale in scales:
        for step in (-1, 1):
            view = slow_resize(image.double().numpy(), (int(scale * height), int(scale * width)))[..., ::step]
            rows, columns = view.shape[1:]
            padded = np.zeros((3, max(rows, crop_size), max(columns, crop_size)))
            padded[:, :rows, :columns] = view
            embedding = slanted(torch.from_numpy(padded)).numpy()[:, :rows, :columns][..., ::step]
            found.append(slow_resize(embedding, (height // 8, width // 8)))
    return found


def slow_walk(scores, views, power, steps):
    affinities = []
    for view in views:
        unit = (view / np.linalg.norm(view, axis=0)).reshape(3, -1)
        affinities.append(np.exp(5 * unit.T @ unit - 5))
    weights = np.mean(affinities, 0) ** power
    transition = np.linalg.matrix_power(weights / weights.sum(0), steps)
    return (scores.reshape(len(scores), -1) @ transition).reshape(scores.shape)


def slow_softmax(logits, axis):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis, keepdims=True)


def by_peak(scores, present):
    """Scores of the present classes by the largest, 0 for the others."""
    return np.stack([part / part.max() if c in present else 0 * part for c, part in enumerate(scores)])


def close(actual, expected):
    torch.testing.assert_close(actual.double(), torch.as_tensor(expected).double(), rtol=1e-4, atol=1e-5)
