"""Class maps from a classifier and from labelled segments: what is put together, with embeddings that are colours."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.inference.tiles import tile_ends
from weakseg.methods.spml import prediction
from weakseg.methods.spml.classifier import PixelClassifier
from weakseg.methods.spml.prediction import (
    Predictor,
    Tiling,
    segment_vectors,
    single_scale_size,
    view_segments,
)
from weakseg.methods.spml.views import pad_to, resize_linear, resize_nearest, to_bytes

ONE_TILE = Tiling(crop_size=64, stride=64)
TILES = Tiling(crop_size=20, stride=14)
CLUSTERING = {"grid": (3, 3), "iterations": 4}
KMEANS = {"kmeans_grid": (3, 3), "kmeans_iterations": 4}


def random_image(height=33, width=47, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def colours(images):
    """An embedding of stride 1: the colours."""
    return images


def slanted(images):
    """An embedding that a mirrored image changes, and that knows where a pixel is in its tile."""
    return images + torch.linspace(0, 2, images.shape[-1]) * torch.tensor([1.0, -1.0, 0.5])[:, None, None]


class ColourClassifier:
    """Logits that are the embedding's channels, times 2 at stride 4."""

    def full_logits(self, embedding, size, *, at_stride_4=False):
        return resize_linear(embedding, size) * (1 + at_stride_4)


def predictor(**settings):
    return Predictor(**{"num_classes": 3, "tiling": ONE_TILE, "image_size": 47, **KMEANS, **settings})


def cover(size, tiling):
    """How many tiles are at each pixel of a view without padding, (h, w)."""
    padded = [max(side, tiling.crop_size) for side in size]
    counts = torch.zeros(padded)
    for bottom in tile_ends(padded[0], tiling.crop_size, tiling.stride):
        for right in tile_ends(padded[1], tiling.crop_size, tiling.stride):
            counts[bottom - tiling.crop_size : bottom, right - tiling.crop_size : right] += 1
    return counts[: size[0], : size[1]]


def test_single_scale_sums_the_logits_of_the_tiles():
    image = random_image()
    counts = cover((33, 47), TILES)
    assert counts.max() == 4
    scores, base = predictor(tiling=TILES).softmax_scores(image, colours, ColourClassifier())
    torch.testing.assert_close(scores, (image * counts).softmax(0))
    assert base.equal(image)
    found = predictor(tiling=TILES).softmax(image, colours, ColourClassifier())
    assert found.equal(image.argmax(0)) and found.dtype == torch.int64


def test_scales_average_the_logits_of_the_tiles():
    image = random_image()
    scores, base = predictor(tiling=TILES, scales=(1.0,)).softmax_scores(image, colours, ColourClassifier())
    torch.testing.assert_close(scores, image.softmax(0))
    assert base.equal(image)


def test_single_scale_works_at_the_resized_size():
    image = random_image(33, 46)
    resized = resize_linear(image, (16, 23))
    scores, base = predictor(image_size=23).softmax_scores(image, colours, ColourClassifier())
    assert base.equal(resized)
    torch.testing.assert_close(scores, resized.softmax(0))
    found = predictor(image_size=23).softmax(image, colours, ColourClassifier())
    assert found.equal(resize_nearest(resized.argmax(0), (33, 46)))
    assert single_scale_size(random_image(20, 40), 60) == (30, 60)
    assert single_scale_size(random_image(374, 2), 512) == (511, 2)  # one pixel less, as in double precision


def test_official_resizing_differs_in_rounding_alone():
    image = random_image()
    _, base = predictor(image_size=24).softmax_scores(image, colours, ColourClassifier())
    _, official = predictor(image_size=24, official=True).softmax_scores(image, colours, ColourClassifier())
    torch.testing.assert_close(official, base, atol=3e-5, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_flips_average_the_probabilities_at_the_image_size(flip):
    image, tiling = random_image(), Tiling(crop_size=80, stride=80)
    expected = []
    for height, width in ((16, 23), (33, 47), (49, 70)):
        view = resize_linear(image, (height, width))
        for is_mirrored in {flip, False}:
            seen = pad_to(view.flip(2) if is_mirrored else view, (80, 80))
            probabilities = resize_linear(slanted(seen)[:, :height, :width], (33, 47)).softmax(0)
            expected.append(probabilities.flip(2) if is_mirrored else probabilities)
    chosen = predictor(tiling=tiling, scales=(0.5, 1.0, 1.5), flip=flip)
    scores, base = chosen.softmax_scores(image, slanted, ColourClassifier())
    torch.testing.assert_close(scores, torch.stack(expected).mean(0))
    assert base.equal(image)
    assert chosen.softmax(image, slanted, ColourClassifier()).equal(scores.argmax(0))


def test_with_flips_a_mirrored_image_has_the_mirrored_prediction():
    image = random_image()
    chosen = predictor(tiling=TILES, scales=(0.5, 1.0), flip=True)
    scores, _ = chosen.softmax_scores(image, slanted, ColourClassifier())
    mirrored, _ = chosen.softmax_scores(image.flip(2), slanted, ColourClassifier())
    torch.testing.assert_close(mirrored.flip(2), scores)
    plain, _ = predictor(tiling=TILES, scales=(0.5, 1.0)).softmax_scores(image, slanted, ColourClassifier())
    assert (plain - scores).abs().max() > 0.1


def test_the_classifier_sees_the_padded_tile_at_either_stride():
    def embed(images):
        assert images.shape[-2:] == (56, 56)
        return F.avg_pool2d(images, 4)

    torch.manual_seed(0)
    classifier = PixelClassifier(3, 2, norm="BN").eval()
    image, tiling = random_image(), Tiling(crop_size=50, stride=50, divisor=8)
    embedding = embed(pad_to(image, (50, 50), 8)[None])
    for at_stride_4 in (False, True):
        chosen = predictor(num_classes=2, tiling=tiling, at_stride_4=at_stride_4)
        scores, _ = chosen.softmax_scores(image, embed, classifier)
        logits = classifier.full_logits(embedding, (56, 56), at_stride_4=at_stride_4)
        torch.testing.assert_close(scores, logits[0, :, :33, :47].softmax(0))
        assert not scores.requires_grad


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("scales", [(), (0.5, 1.0)])
def test_the_crf_sees_the_image_in_bytes_at_the_size_of_the_scores(monkeypatch, scales, official):
    seen = []

    def crf(scores, image, *, iterations):
        seen.append((scores, image, iterations))
        return scores.flip(0)

    monkeypatch.setattr(prediction, "dense_crf", crf)
    image = random_image(33, 46)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    chosen = predictor(
        image_size=23, scales=scales, crf={"iterations": 3}, mean=mean, std=std, official=official, flip=True
    )
    found = chosen.softmax(image, colours, ColourClassifier())
    scores, base = chosen.softmax_scores(image, colours, ColourClassifier())
    assert base.shape[1:] == scores.shape[1:] == ((33, 46) if scales else (16, 23))
    [(given, bytes_given, iterations)] = seen
    assert given.equal(scores) and iterations == 3
    assert bytes_given.equal(to_bytes(base, mean, std, official=official))
    assert found.equal(resize_nearest(scores.flip(0).argmax(0), (33, 46)))


def test_the_crf_cleans_a_noisy_pixel():
    image = torch.zeros(3, 33, 47)
    image[0, :, 20:] = 2.0
    image[1] = 0.5
    noisy = image.clone()
    noisy[:, 5, 5] = torch.tensor([0.6, 0.5, 0.0])
    plain, refined = (predictor(num_classes=2, crf=crf) for crf in (None, {"iterations": 5}))
    classifier = ColourClassifier()
    two = lambda images: images[:, :2]  # noqa: E731
    expected = (torch.arange(47) < 20).long().expand(33, 47)
    assert plain.softmax(noisy, two, classifier)[5, 5] == 0
    assert refined.softmax(noisy, two, classifier).equal(expected)


BLOCKS = torch.eye(3)
"""Three colours."""


def blocks(height=33, width=47):
    """An image of three upright stripes of plain colours, and which colour a pixel has."""
    colour = torch.arange(width) * 3 // width
    return BLOCKS[colour].T[:, None].expand(3, height, width).contiguous(), colour.expand(height, width)


def test_each_segment_has_the_class_of_its_nearest_prototype():
    image, colour = blocks()
    memory = BLOCKS, torch.tensor([1, 0, 1])
    chosen = predictor(num_classes=2, neighbours=1)
    assert chosen.retrieval(image, colours, memory).equal(memory[1][colour])
    scores, _ = chosen.retrieval_scores(image, colours, memory)
    assert scores.equal(F.one_hot(memory[1][colour], 2).permute(2, 0, 1).float())
    large, colour = blocks(50, 70)
    tiled = predictor(num_classes=2, neighbours=1, tiling=TILES, image_size=70)
    assert tiled.retrieval(large, colours, memory).equal(memory[1][colour])


def test_a_memory_of_three_votes_with_three():
    image, _ = blocks()
    memory = BLOCKS, torch.tensor([1, 0, 1])
    chosen = predictor(num_classes=2)
    assert chosen.retrieval(image, colours, memory).eq(1).all()
    scores, _ = chosen.retrieval_scores(image, colours, memory)
    torch.testing.assert_close(scores[:, 7, 9], torch.tensor([1 / 3, 2 / 3]))


def test_unlabelled_prototypes_vote_only_in_the_official_form():
    image, colour = blocks()
    labels = torch.tensor([1, 254, 255])
    corrected = predictor(num_classes=2, neighbours=1).retrieval(image, colours, (BLOCKS, labels))
    assert corrected.eq(1).all()
    official = predictor(num_classes=2, neighbours=1, official=True).retrieval(image, colours, (BLOCKS, labels))
    assert official[colour == 0].eq(1).all() and official[colour == 1].eq(254).all()
    assert official[colour == 2].ne(255).all()
    with pytest.raises(ValueError, match="at least one labelled prototype"):
        predictor(num_classes=2).retrieval(image, colours, (BLOCKS, torch.full((3,), 254)))


def test_retrieval_at_a_single_scale_votes_at_the_resized_size():
    image = random_image(50, 70)
    memory = F.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), dim=1), torch.arange(60) % 3
    chosen = predictor(tiling=TILES, image_size=35)
    scores, base = chosen.retrieval_scores(image, colours, memory)
    assert scores.shape == (3, 25, 35) and base.equal(resize_linear(image, (25, 35)))
    segments = view_segments(base, colours, tiling=TILES, padded=True, **CLUSTERING)
    similarity = segment_vectors(segments) @ memory[0].T
    for s, nearest in enumerate(similarity.argsort(1, descending=True)[:, :20]):
        counts = torch.bincount(memory[1][nearest], minlength=3)
        mine = segments.segment.view(25, 35) == s
        torch.testing.assert_close(scores[:, mine], (counts / 20)[:, None].expand(-1, int(mine.sum())))
    assert chosen.retrieval(image, colours, memory).equal(resize_nearest(scores.argmax(0), (50, 70)))


def test_retrieval_at_scales_averages_the_shares_at_the_image_size():
    image = random_image()
    memory = F.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), dim=1), torch.arange(60) % 3
    chosen = predictor(tiling=ONE_TILE, scales=(0.5, 1.0), flip=True, neighbours=5)
    expected = []
    for size in ((16, 23), (33, 47)):
        for is_mirrored in (True, False):
            view = resize_linear(image, size)
            view = view.flip(2) if is_mirrored else view
            segments = view_segments(view, colours, tiling=ONE_TILE, padded=False, **CLUSTERING)
            nearest = (segment_vectors(segments) @ memory[0].T).argsort(1, descending=True)[:, :5]
            shares = F.one_hot(memory[1][nearest], 3).float().mean(1)
            maps = resize_linear(shares[segments.segment].T.reshape(3, *size), (33, 47))
            expected.append(maps.flip(2) if is_mirrored else maps)
    scores, _ = chosen.retrieval_scores(image, colours, memory)
    torch.testing.assert_close(scores, torch.stack(expected).mean(0))
    assert chosen.retrieval(image, colours, memory).equal(scores.argmax(0))


@pytest.mark.parametrize("settings", [{}, {"scales": (0.5, 1.0)}, {"crf": {"iterations": 1}}])
def test_one_segment_and_one_class(settings):
    image = torch.ones(3, 33, 47)
    memory = torch.tensor([[0.6, 0.6, 0.6], [-0.6, -0.6, -0.6]]), torch.tensor([1, 0])
    one = predictor(num_classes=2, kmeans_grid=(1, 1), neighbours=1, **settings)
    assert one.retrieval(image, colours, memory).equal(torch.ones(33, 47, dtype=torch.long))
    many = predictor(num_classes=2, neighbours=1, **settings)
    assert many.retrieval(image, colours, memory).equal(torch.ones(33, 47, dtype=torch.long))
    assert (
        many.softmax(image * torch.tensor([1.0, 2, 0])[:, None, None], lambda x: x[:, :2], ColourClassifier())
        .eq(1)
        .all()
    )
    pixel = random_image(1, 1)
    assert many.retrieval(pixel, colours, memory).shape == (1, 1)
