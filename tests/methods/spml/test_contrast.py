"""The contrastive loss and its four relations against the card's sums, pixel by pixel, and its laws."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.spml import contrast
from weakseg.methods.spml.contrast import (
    affinity_loss,
    annotation_loss,
    contrast_sum,
    cooccurrence_loss,
    image_similarity_loss,
)
from weakseg.methods.spml.label_propagation import label_sets
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.segments import find_segments, local_prototypes, segment_prototypes

CLASSES = 4


def literal_loss(vectors, prototypes, own, positive, concentration):
    """Card section 3.5 of one pixel after the other: a list. positive(i, j) says whether they are related."""
    losses = []
    for i, cosines in enumerate((vectors @ prototypes.T).tolist()):
        s = [math.exp(concentration * cosine) for cosine in cosines]
        others = [j for j in range(len(s)) if positive(i, j) and j != own[i]]
        numerator = sum(s[j] for j in others) if others else s[own[i]]
        negatives = sum(s[j] for j in range(len(s)) if not positive(i, j))
        losses.append(-math.log(numerator / (numerator + negatives)))
    return losses


def problem(seed=0, pixels=30, prototypes=9, rows=3):
    """Arguments of contrast_sum; a pixel is related to its own segment, which for some is the only one."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [F.normalize(torch.randn(n, 5, generator=generator), dim=1).double() for n in (pixels, prototypes)]
    labels = torch.randint(0, rows, (prototypes,), generator=generator)
    labels[0] = rows
    own = torch.randint(0, prototypes, (pixels,), generator=generator)
    own[:3] = 0
    positive = torch.arange(rows + 1)[:, None] == labels
    return vectors, {"own": own, "row": labels[own], "positive": positive, "concentration": 6.0}


def scene(n=2, height=9, width=12, seed=0):
    """Segments, prototypes, tags of a batch; some pixels unlabelled, some ignored. Float64."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(n, 6, height, width, generator=generator).double().requires_grad_()
    semantic = torch.randint(0, CLASSES + 1, (n, 3, 4), generator=generator)
    semantic = F.interpolate(semantic[:, None].float(), (height, width))[:, 0].long()
    semantic[0, 0, :3] = 255
    region = torch.randint(0, 3, (n, height, width), generator=generator)
    local = position_features(height, width)
    segments = find_segments(embedding, local=local, grid=(2, 2), iterations=3, semantic=semantic, region=region)
    tags = torch.zeros(n, CLASSES, dtype=torch.bool)
    tags[0, [0, 1]] = True
    tags[1, [0, 1, 2]] = True
    return embedding, segments, local_prototypes(segments, tags), tags


def test_loss_and_gradients_of_the_sums():
    (pixels, prototypes), arguments = problem()
    positive = arguments["positive"][arguments["row"]]
    expected = literal_loss(pixels, prototypes, arguments["own"].tolist(), lambda i, j: positive[i, j], 6.0)
    torch.testing.assert_close(contrast_sum(pixels, prototypes, **arguments), torch.tensor(sum(expected)).double())
    inputs = [pixels.requires_grad_(), prototypes.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *vectors: 0.5 * contrast_sum(*vectors, **arguments), inputs)


@pytest.mark.parametrize("elements", [1, 200, 10**6])
def test_tiles_do_not_matter(monkeypatch, elements):
    (pixels, prototypes), arguments = problem(pixels=50)
    results = []
    for size in (2**18, elements):
        monkeypatch.setitem(contrast._TILE_ELEMENTS, "cpu", size)
        inputs = [pixels.clone().requires_grad_(), prototypes.clone().requires_grad_()]
        loss = contrast_sum(*inputs, **arguments)
        loss.backward()
        results.append([loss, *(vectors.grad for vectors in inputs)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_constants_are_prototypes_without_a_gradient():
    (pixels, prototypes), arguments = problem()
    every = prototypes.clone().requires_grad_()
    whole = contrast_sum(pixels, every, **arguments)
    whole.backward()
    arguments["own"] = arguments["own"].clamp(max=5)
    whole = contrast_sum(pixels, every, **arguments)
    every.grad = None
    whole.backward()
    first, constants = prototypes[:6].clone().requires_grad_(), prototypes[6:].clone().requires_grad_()
    parted = contrast_sum(pixels, first, constants=constants, **arguments)
    parted.backward()
    torch.testing.assert_close(parted, whole)
    torch.testing.assert_close(first.grad, every.grad[:6])
    assert constants.grad is None


def test_the_order_of_pixels_does_not_matter():
    (pixels, prototypes), arguments = problem()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))
    moved = arguments | {name: arguments[name][order] for name in ("own", "row")}
    torch.testing.assert_close(
        contrast_sum(pixels[order], prototypes, **moved), contrast_sum(pixels, prototypes, **arguments)
    )


def test_a_lone_segment_among_no_others_costs_nothing():
    pixels = F.normalize(torch.tensor([[1.0, 2.0], [0.5, -1.0]]), dim=1).requires_grad_()
    prototypes = segment_prototypes(pixels, torch.tensor([0, 0]), 1)
    zero = torch.zeros(2, dtype=torch.long)
    loss = contrast_sum(pixels, prototypes, own=zero, row=zero, positive=torch.ones(1, 1).bool(), concentration=16)
    loss.backward()
    assert loss == 0 and (pixels.grad == 0).all()


def test_a_dominating_own_segment_does_not_swallow_the_others():
    # In float32 the sum of both less the own one is 0: the published difference loses the other positive (fault ff).
    pixels, prototypes = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    zero = torch.zeros(1, dtype=torch.long)
    loss = contrast_sum(
        pixels, prototypes, own=zero, row=zero, positive=torch.tensor([[True, True, False]]), concentration=16
    )
    torch.testing.assert_close(loss, torch.tensor(16.0 + math.log(1 + math.exp(-16))))


def test_half_precision_stays_out_of_the_exponentials():
    (pixels, prototypes), arguments = problem()
    pixels, prototypes = pixels.bfloat16(), prototypes.bfloat16()
    expected = contrast_sum(pixels.double(), prototypes.double(), **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrast_sum(pixels.requires_grad_(), prototypes, **arguments)
    loss.backward()
    assert loss.dtype == torch.float32 and pixels.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_image_similarity_is_the_mean_over_images_of_their_means():
    _, segments, prototypes, _ = scene()
    loss, images = image_similarity_loss(segments, segments.located, concentration=16.0)
    expected = 0
    located = segment_prototypes(segments.located, segments.segment, len(segments.segment_image))
    for b in range(2):
        of_image = (segments.segment_image == b).nonzero()[:, 0]
        mine = segments.image == b
        own, regions = segments.segment[mine] - of_image[0], segments.region[mine]
        losses = literal_loss(
            segments.located[mine],
            located[of_image],
            own.tolist(),
            lambda i, j, mine=regions, theirs=segments.segment_region[of_image]: mine[i] == theirs[j],
            16.0,
        )
        expected += sum(losses) / len(losses)
    assert images == 2
    torch.testing.assert_close(loss, torch.tensor(expected).double())


@pytest.mark.parametrize("with_memory", [False, True])
def test_annotation_contrasts_labelled_pixels_and_segments(with_memory):
    _, segments, prototypes, _ = scene()
    memory = scene(seed=1)[2] if with_memory else None
    labels, vectors = prototypes.semantic, prototypes.vector
    if with_memory:
        labels, vectors = torch.cat([labels, memory.semantic]), torch.cat([vectors, memory.vector])
    keep = (labels < CLASSES).nonzero()[:, 0].tolist()
    pixels = (segments.semantic < CLASSES).nonzero()[:, 0]
    expected = literal_loss(
        segments.embedding[pixels],
        vectors[keep],
        [keep.index(own) for own in segments.segment[pixels].tolist()],
        lambda i, j: segments.semantic[pixels[i]] == labels[keep[j]],
        6.0,
    )
    loss, count = annotation_loss(segments, prototypes, first=0, num_classes=CLASSES, concentration=6.0, memory=memory)
    assert count == len(pixels) and 0 < count < len(segments.semantic)
    torch.testing.assert_close(loss, torch.tensor(sum(expected)).double())


@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("official", [False, True])
def test_cooccurrence_relates_images_that_share_a_tag(official, with_memory):
    _, segments, prototypes, tags = scene(n=3)
    memory = scene(seed=1)[2] if with_memory else None
    # Background is no tag: the second image has none.
    tags = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    prototypes = replace(prototypes, tags=tags[prototypes.image])
    every = torch.cat([prototypes.tags, memory.tags]) if with_memory else prototypes.tags
    vectors = torch.cat([prototypes.vector, memory.vector]) if with_memory else prototypes.vector
    pixels = [i for i, b in enumerate(segments.image.tolist()) if official or b != 1]

    def share(i, j):
        return bool((tags[segments.image[pixels[i]], 1:] & every[j, 1:]).any())

    expected = literal_loss(segments.embedding[pixels], vectors, segments.segment[pixels].tolist(), share, 8.0)
    if official:
        cosines = (segments.embedding @ vectors.T).tolist()
        # Fault g: without a tag the own segment is the numerator and a negative.
        for i, b in enumerate(segments.image.tolist()):
            if b == 1:
                s = [math.exp(8 * cosine) for cosine in cosines[i]]
                own = s[segments.segment[i]]
                assert expected[i] == pytest.approx(-math.log(own / (own + sum(s))))
    loss, count = cooccurrence_loss(
        segments, prototypes, tags, first=0, concentration=8.0, memory=memory, official=official
    )
    assert count == len(pixels)
    torch.testing.assert_close(loss, torch.tensor(sum(expected)).double())


def test_affinity_relates_label_sets_that_intersect():
    _, segments, prototypes, _ = scene()
    propagated = torch.arange(len(prototypes.semantic)) % (CLASSES + 1) - 1
    prototypes = replace(prototypes, propagated=propagated)
    sets = label_sets(propagated, CLASSES)
    expected = literal_loss(
        segments.embedding,
        prototypes.vector,
        segments.segment.tolist(),
        lambda i, j: bool((sets[segments.segment[i]] & sets[j]).any()),
        12.0,
    )
    loss, count = affinity_loss(segments, prototypes, first=0, num_classes=CLASSES, concentration=12.0)
    assert count == len(segments.segment)
    torch.testing.assert_close(loss, torch.tensor(sum(expected)).double())


def all_losses(segments, prototypes, tags):
    options = {"first": 0, "concentration": 6.0}
    return {
        "image": image_similarity_loss(segments, segments.located, concentration=16.0),
        "annotation": annotation_loss(segments, prototypes, num_classes=CLASSES, **options),
        "cooccurrence": cooccurrence_loss(segments, prototypes, tags, **options),
        "affinity": affinity_loss(segments, prototypes, num_classes=CLASSES, **options),
    }


def test_a_batch_in_another_order_has_the_same_losses():
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        embedding, _, _, tags = scene(n=3)
        generator = torch.Generator().manual_seed(5)
        semantic = torch.randint(0, CLASSES + 1, (3, 9, 12), generator=generator)
        region = torch.randint(0, 3, (3, 9, 12), generator=generator)
        segments = find_segments(
            embedding[order],
            local=position_features(9, 12),
            grid=(2, 2),
            iterations=3,
            semantic=semantic[order],
            region=region[order],
        )
        losses = all_losses(segments, local_prototypes(segments, tags[order]), tags[order])
        sum(loss for loss, _ in losses.values()).backward()
        results.append([*(loss for loss, _ in losses.values()), embedding.grad])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [255, CLASSES])
def test_without_labels_every_loss_is_a_number_and_in_the_graph(value):
    embedding = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 5, 7), value)
    segments = find_segments(
        embedding, local=position_features(5, 7), grid=(2, 2), iterations=2, semantic=labels, region=labels
    )
    tags = torch.zeros(2, CLASSES, dtype=torch.bool)
    losses = all_losses(segments, local_prototypes(segments, tags), tags)
    sum(loss for loss, _ in losses.values()).backward()
    assert torch.isfinite(embedding.grad).all()
    assert losses["annotation"] == losses["cooccurrence"] == (0, 0)
    assert (losses["affinity"][1] == 0) == (value == 255) == (losses["image"][1] == 0)
    assert all(torch.isfinite(loss) and loss.requires_grad for loss, _ in losses.values())


def test_one_class_costs_nothing_for_annotation_at_an_odd_size():
    embedding = torch.randn(1, 6, 33, 47, generator=torch.Generator().manual_seed(0)).requires_grad_()
    segments = find_segments(
        embedding,
        local=position_features(33, 47),
        grid=(6, 6),
        iterations=10,
        semantic=torch.ones(1, 33, 47),
        region=torch.zeros(1, 33, 47),
    )
    tags = torch.tensor([[False, True, False, False]])
    losses = all_losses(segments, local_prototypes(segments, tags), tags)
    # Everything is positive: there is nothing to be told apart.
    for loss, count in losses.values():
        assert abs(loss.item()) < 1e-3 * count
    assert losses["annotation"][1] == 33 * 47
