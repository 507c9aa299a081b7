"""Pseudo labels of small images whose embedding and class scores are their colours, against slow and known ones."""

import numpy as np
import pytest
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
    return PseudoLabeller(
        **{"num_classes": 3, "crop_size": 50, "kmeans_grid": (3, 3), "kmeans_iterations": 4, **settings}
    )


def unlabelled(height, width, value=254):
    return torch.full((height, width), value)


@pytest.fixture
def seen(monkeypatch):
    """Scores, image and arguments of each call of a CRF that changes nothing."""
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


# --- CAM walk


def test_cams_are_walked_with_the_background(seen):
    image, cams = random_image(*SIZE), torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(1))
    result = labeller(alpha=2.5, crf={"iterations": 7}, **WALKING).cam_walk(image, slanted, cams)
    maps = cams.double().numpy()
    maps = np.concatenate([(1 - maps.max(0, keepdims=True)) ** 2.5, maps])
    # Every 8 pixels, between the fourth and the fifth; 33 and 47 leave some over.
    cells = np.array(
        [[m[8 * i + 3 : 8 * i + 5, 8 * j + 3 : 8 * j + 5].mean() for i in range(4) for j in range(5)] for m in maps]
    )
    walked = slow_walk(cells.reshape(3, 4, 5), slow_views(image, [1.0], 50), power=2, steps=3)
    expected = slow_resize(walked, SIZE)
    [(scores, _, arguments)] = seen
    close(scores, expected)
    assert arguments == {"iterations": 7}
    assert result.dtype == torch.int64 and torch.equal(result, torch.from_numpy(expected.argmax(0)))


def test_a_cam_fills_what_looks_alike():
    # On 4 of the 12 red cells the class has 1/3 everywhere, the background 2/3; on 8 of 12 it is the reverse.
    image = halves()
    cams = torch.zeros(2, 32, 48)
    cams[1, :, :8] = 1
    assert (labeller().cam_walk(image, colours, cams) == 0).all()
    cams[1, :, :16] = 1
    found = labeller().cam_walk(image, colours, cams)
    # From 2/3 to 0 between the middles of cells at 19.5 and 27.5: less than 1/2 from 21.5 on.
    assert (found[:, :22] == 2).all() and (found[:, 22:] == 0).all()


def test_the_power_of_the_background_decides():
    cams = torch.full((2, 16, 24), 0.3)
    cams[0] = 0.2
    assert (labeller(alpha=3.0).cam_walk(halves(16, 24), colours, cams) == 0).all()  # 0.343 against 0.3
    assert (labeller(alpha=4.0).cam_walk(halves(16, 24), colours, cams) == 2).all()  # 0.240 against 0.3


def test_no_cam_is_background_everywhere():
    assert (labeller(crf={}).cam_walk(random_image(*SIZE), colours, torch.zeros(2, *SIZE)) == 0).all()


def test_cams_of_all_classes_have_no_background():
    cams = torch.zeros(3, 16, 24)
    cams[1] = 0.01
    assert (labeller().cam_walk(halves(16, 24), colours, cams) == 1).all()


def test_cams_in_half_precision():
    cams = torch.full((2, 16, 24), 0.9, dtype=torch.float16)
    assert (labeller().cam_walk(halves(16, 24), lambda images: images.half(), cams) == 1).all()


# --- classifier walk and classifier only


def test_classifier_is_walked(seen):
    image, labels = random_image(*SIZE), unlabelled(*SIZE)
    labels[0, 0], labels[-1, -1] = 0, 2
    labeller(crf={}, **WALKING).classifier_walk(image, slanted, ColourClassifier(), labels)
    views = slow_views(image, [1.0], 50)
    cells = by_peak(np.mean([slow_softmax(view, 0) for view in views], 0), {0, 2})
    close(seen[0][0], slow_resize(slow_walk(cells, views, power=2, steps=3), SIZE))


def test_classifier_only_has_one_step_and_no_crf(seen):
    image, labels = random_image(*SIZE), unlabelled(*SIZE)
    labels[5, 7], labels[8, 2] = 0, 1
    ways = labeller(crf={}, **WALKING)
    result = ways.classifier_only(image, slanted, ColourClassifier(), labels)
    views = slow_views(image, [0.75, 1.0], 50)
    walked = slow_walk(by_peak(slow_softmax(np.mean(views, 0), 0), {0, 1}), views, power=2, steps=1)
    expected = slow_resize(walked, SIZE).argmax(0)
    assert not seen and 0 < expected.sum() < expected.size
    assert torch.equal(result, torch.from_numpy(expected))


@pytest.mark.parametrize("way", ["classifier_walk", "classifier_only"])
def test_labels_without_a_class_rule_out_none(way):
    # The red half is of class 0, the green one of class 1; class 2 has the same small probability everywhere.
    image, classifier = 4 * halves(), ColourClassifier()
    for value in (3, 254, 255):
        found = getattr(labeller(), way)(image, colours, classifier, unlabelled(32, 48, value))
        assert (found[:, :20] == 0).all() and (found[:, 28:] == 1).all()
        published = getattr(labeller(official=True), way)(image, colours, classifier, unlabelled(32, 48, value))
        assert (published == 0).all()


def test_labels_without_a_class_leave_probabilities(seen):
    labeller(crf={}).classifier_walk(random_image(*SIZE), colours, ColourClassifier(), unlabelled(*SIZE))
    labeller(crf={}, walk_steps=0).classifier_walk(random_image(*SIZE), colours, ColourClassifier(), unlabelled(*SIZE))
    close(seen[1][0].sum(0), torch.ones(SIZE))


@pytest.mark.parametrize("way", ["classifier_walk", "classifier_only"])
def test_a_single_class_is_everywhere(way):
    labels = unlabelled(*SIZE, 255)
    labels[3, 3] = 1
    assert (getattr(labeller(), way)(random_image(*SIZE), colours, ColourClassifier(), labels.byte()) == 1).all()


def test_classifier_may_work_at_its_stride(seen):
    for at_stride_4 in (False, True):
        ways = labeller(crf={}, walk_steps=0, at_stride_4=at_stride_4)
        ways.classifier_walk(halves(), colours, ColourClassifier(), unlabelled(32, 48))
    # The first cell is red: logits (1, 0, 0), doubled at the stride.
    close(seen[0][0][:, 0, 0], slow_softmax(np.array([1.0, 0, 0]), 0))
    close(seen[1][0][:, 0, 0], slow_softmax(np.array([2.0, 0, 0]), 0))


# --- nearest segments

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
    sizes.clear()
    labeller(crop_size=0, neighbours=2).nearest_segments(halves(16, 24, 12), embed, MEMORY, unlabelled(16, 24))
    assert sizes == 8 * [(48, 48)]


# --- DensePose


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


# --- all of them


def test_the_crf_sees_the_image_rounded(seen):
    picture = torch.randint(0, 256, (3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    image = (picture / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for official in (False, True):
        ways = labeller(crf={}, mean=mean, std=std, official=official)
        ways.cam_walk(image, colours, torch.zeros(2, 16, 24))
    assert torch.equal(seen[0][1].permute(2, 0, 1), picture)
    off = picture.int() - seen[1][1].permute(2, 0, 1).int()
    assert set(off.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("size", [SIZE, (5, 7), (1, 1), (9, 3), (8, 16)])
@pytest.mark.parametrize("crop_size", [0, 20])
def test_every_size(size, crop_size):
    inputs = []

    def embed(images):
        inputs.append(images.shape[-2:])
        return images[..., ::4, ::4]

    image = random_image(*size)
    labels = unlabelled(*size)
    labels[0, 0] = 1
    memory = torch.eye(3), torch.arange(3)
    ways = labeller(crop_size=crop_size, divisor=4, crf={"iterations": 1})
    cams = torch.zeros(2, *size)
    cams[0] = 1
    results = [
        ways.cam_walk(image, embed, cams),
        ways.classifier_walk(image, embed, ColourClassifier(), labels),
        ways.classifier_only(image, embed, ColourClassifier(), labels),
        ways.nearest_segments(image, embed, memory, labels),
        ways.densepose_walk(image, embed, labels, torch.zeros_like(labels)),
    ]
    for result in results:
        assert result.shape == size and (result == 1).all()
    assert all(side % 4 == 0 and side >= crop_size for shape in inputs for side in shape)


def test_a_data_set_of_one_class():
    ways, image, labels = labeller(num_classes=1), random_image(*SIZE), unlabelled(*SIZE)
    labels[2:6, 2:6] = 0
    assert (ways.nearest_segments(image, colours, (torch.eye(3), torch.zeros(3, dtype=torch.long)), labels) == 0).all()
    assert (ways.densepose_walk(image, colours, labels, torch.zeros_like(labels)) == 0).all()
