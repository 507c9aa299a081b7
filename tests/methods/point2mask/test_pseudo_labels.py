"""Pseudo labels of small scenes whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.point2mask.graph import pixel_graph, point_distance
from weakseg.methods.point2mask.pseudo_labels import (
    best_classes,
    boxes_of,
    likely_classes,
    make_pseudo_labels,
    present_probabilities,
)
from weakseg.methods.point2mask.semantic_losses import dilate_points

THINGS, STUFF, CLASSES = 3, 3, 5  # things 0..2, stuff 3 and 4
SIZE = (64, 96)
OBJECTS = {0: (0, 0, 32, 32), 1: (0, 64, 64, 96), 2: (48, 8, 64, 40)}  # y0, x0, y1, x1; all of class 1, on stuff
CENTRES = [(0, 16, 15), (1, 30, 80), (2, 55, 24)]


def scene():
    """Logits (1, C, H / 8, W / 8) that know the objects, boundary logits and embedding that know nothing."""
    logits = torch.zeros(1, CLASSES, SIZE[0] // 8, SIZE[1] // 8)
    logits[:, STUFF] = 8.0
    for y0, x0, y1, x1 in OBJECTS.values():
        logits[0, :, y0 // 8 : y1 // 8, x0 // 8 : x1 // 8] = torch.tensor([0.0, 8.0, 0.0, 0.0, 0.0]).view(-1, 1, 1)
    return logits, torch.zeros_like(logits[:, 0]), torch.ones_like(logits[:, :1])


def point_map(points, classes, size=SIZE, with_stuff=True):
    """(B, H, W): the points' classes and, `with_stuff`, one pixel of stuff."""
    result = torch.full((len(points), *size), 255)
    result[:, size[0] * 5 // 8, size[1] // 2] = STUFF if with_stuff else 255
    for b, rows in enumerate(points):
        for k, y, x in rows:
            result[b, y, x] = classes[b][k]
    return result


def run(points, classes, inputs=None, size=SIZE, image_sizes=None, point_size=1, with_stuff=True, seen=None, **options):
    """`points`, `classes`: rows per image; `seen`: rows (class, y, x) of the point map, if not the points."""
    logits, boundary, embedding = inputs or [v.expand(len(points), *v.shape[1:]) for v in scene()]
    seen_map = point_map(seen or points, [range(CLASSES)] if seen else classes, size, with_stuff)
    return make_pseudo_labels(
        logits,
        dilate_points(seen_map, CLASSES, point_size),
        boundary,
        embedding,
        [torch.tensor(c, dtype=torch.int64) for c in classes],
        [torch.tensor(p, dtype=torch.int64).view(-1, 3) for p in points],
        image_sizes or [size] * len(points),
        **({"num_things": THINGS, "phase": 1, "stride": 8} | options),
    )


def random_inputs(size, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = (-(-size[0] // 8), -(-size[1] // 8))
    logits = torch.randn(batch, CLASSES, *small, generator=generator) * 2
    embedding = F.normalize(torch.randn(batch, 6, *small, generator=generator), dim=1)
    return logits, torch.randn(batch, *small, generator=generator), embedding


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_each_object_goes_to_its_point(phase, official):
    result = run([CENTRES], [[1, 1, 1]], phase=phase, official=official)
    for k, (y0, x0, y1, x1) in OBJECTS.items():  # up to half a cell from the border
        inside = slice(y0 + 4, y1 - 4), slice(x0 + 4, x1 - 4)
        around = slice(max(y0 - 4, 0), y1 + 4), slice(max(x0 - 4, 0), x1 + 4)
        assert bool((result.instance_map[0][inside] == k).all()) and bool((result.semantic[0][inside] == 1).all())
        assert int((result.instance_map[0] == k).sum()) == int((result.instance_map[0][around] == k).sum())
    assert torch.equal(result.instance_map[0] >= 0, result.semantic[0] == 1)
    expected = torch.tensor([[x0, y0, x1, y1] for y0, x0, y1, x1 in OBJECTS.values()]).float()
    assert float((result.boxes[0] - expected).abs().max()) <= 4
    assert result.instance_map[0].dtype == result.semantic.dtype == torch.int64


@pytest.mark.parametrize("phase", [1, 2])
def test_instance_without_a_point_changes_nothing_for_the_others(phase):
    with_it = run([[(0, 16, 15), (2, 30, 80), (3, 55, 24)]], [[1, 1, 1, 1]], phase=phase)
    without = run([CENTRES], [[1, 1, 1]], phase=phase)
    rank = torch.tensor([0, 2, 3, -1])
    assert torch.equal(with_it.instance_map[0], rank[without.instance_map[0]])
    assert torch.equal(with_it.boxes[0][[0, 2, 3]], without.boxes[0])
    assert with_it.boxes[0][1].tolist() == [24, 16, 72, 48]  # the middle half of 96 x 64


def test_published_instance_without_a_point_is_ten_away_from_all_pixels():
    graph = torch.full((1, 2, 3, 8), 7.0)
    distance = point_distance(graph, torch.tensor([[0, 0, 0, 0], [0, 2, 9, 9]]), 3, stride=8)
    assert distance[:, 0].tolist() == [[[0, 7, 14], [7, 7, 14]], [[10] * 3] * 2, [[7, 7, 7], [7, 0, 7]]]
    # A dear graph: with the published rule the far pixels go to the instance that nobody pointed at.
    options = {"inputs": random_inputs(SIZE), "lambda_probability": 50.0}
    for official, phase, expected in ((True, 1, True), (False, 1, False), (True, 2, False)):
        result = run([[(1, 1, 1)]], [[1, 1]], official=official, phase=phase, **options)
        assert bool((result.instance_map[0] == 0).any()) == expected


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_nothing_one_many_in_a_batch(phase, official):
    points = [[], [], [(0, 30, 80)], CENTRES]
    classes = [[], [1, 1], [1], [1, 1, 1]]
    result = run(points, classes, phase=phase, official=official)
    assert [boxes.shape for boxes in result.boxes] == [(0, 4), (2, 4), (1, 4), (3, 4)]
    assert bool((result.instance_map[0] == -1).all()) and bool((result.instance_map[1] == -1).all())
    assert result.boxes[1].tolist() == [[24, 16, 72, 48]] * 2
    # Stuff was labelled in all images, things in the last two: elsewhere thing pixels are uncertain.
    assert set(result.semantic[0].unique().tolist()) == {STUFF, 255}
    assert torch.equal(result.instance_map[2] == 0, result.semantic[2] == 1)
    for i in range(len(points)):
        alone = run(points[i : i + 1], classes[i : i + 1], phase=phase, official=official)
        assert torch.equal(result.instance_map[i], alone.instance_map[0])
        assert torch.equal(result.boxes[i], alone.boxes[0])
        assert torch.equal(result.semantic[i], alone.semantic[0])


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_nobody_pointed_at_anything(phase, official):
    result = run([[]], [[]], with_stuff=False, phase=phase, official=official)
    assert bool((result.semantic == 255).all()) and bool((result.instance_map[0] == -1).all())
    assert result.boxes[0].shape == (0, 4)


@pytest.mark.parametrize("phase", [1, 2])
def test_nothing_is_dealt_in_the_padding(phase):
    result = run([CENTRES[:2]], [[1, 1]], image_sizes=[(40, 88)], phase=phase)
    is_outside = torch.ones(SIZE, dtype=torch.bool)
    is_outside[:40, :88] = False
    assert bool((result.instance_map[0][is_outside] == -1).all())
    assert bool((result.semantic[0][is_outside] == 255).all())
    assert bool((result.instance_map[0][~is_outside] >= 0).any())
    assert float(result.boxes[0][:, 2].max()) <= 88 and float(result.boxes[0][:, 3].max()) <= 40

    published = run([CENTRES[:2]], [[1, 1]], image_sizes=[(40, 88)], phase=phase, official=True)
    assert bool((published.instance_map[0][is_outside] >= 0).any())
    assert bool((published.semantic[0][is_outside] != 255).any())
    assert float(published.boxes[0][:, 2].max()) <= 88 and float(published.boxes[0][:, 3].max()) <= 40


def test_padding_does_not_change_the_supply():
    def wide(width, **options):
        logits = torch.tensor([0.0, 4.0, 3.0, 0.0, 0.0]).view(1, CLASSES, 1, 1).expand(1, CLASSES, 4, width // 8)
        inputs = (logits, torch.zeros(1, 4, width // 8), torch.ones(1, 1, 4, width // 8))
        points = [[(0, 16, 10), (1, 16, 50)]]
        options = options | {"size": (32, width), "phase": 2, "with_stuff": False}
        return run(points, [[1, 2]], inputs=inputs, **options).instance_map[0][:, :64]

    plain = wide(64)
    assert set(plain.unique().tolist()) == {0, 1}
    assert torch.equal(wide(128, image_sizes=[(32, 64)]), plain)
    assert not torch.equal(wide(128, image_sizes=[(32, 64)], official=True), plain)


def test_without_an_iteration_thing_pixels_go_to_the_nearest_instance():
    inputs = random_inputs(SIZE)
    lambdas = {"lambda_probability": 0.5, "lambda_boundary": 0.2, "lambda_feature": 0.3}
    dilated = dilate_points(point_map([CENTRES], [[1, 1, 2]]), CLASSES, 1)
    probabilities = present_probabilities(inputs[0], dilated).probabilities
    graph = pixel_graph(probabilities, *inputs[1:], stride=8, **lambdas)
    distance = point_distance(graph, F.pad(torch.tensor(CENTRES), (1, 0)), 3, stride=8)
    nearest = F.interpolate(distance, size=SIZE, mode="bilinear", align_corners=False)[:, 0].argmin(dim=0)
    is_thing = dense_probabilities(inputs[0], dilated)[0].argmax(dim=0) < THINGS
    for phase in (1, 2):
        result = run([CENTRES], [[1, 1, 2]], inputs=inputs, phase=phase, iterations=0, **lambdas)
        assert torch.equal(result.instance_map[0], torch.where(is_thing, nearest, -1))


def test_temperature_and_iterations_reach_the_transport():
    def dealt(**options):
        return run([CENTRES], [[1, 1, 2]], inputs=random_inputs(SIZE), phase=2, **options).instance_map[0]

    published = dealt()
    assert torch.equal(published, dealt(epsilon=1e-3, iterations=80))
    assert not any(torch.equal(published, dealt(**o)) for o in ({"epsilon": 1e-2}, {"iterations": 20}))


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_instances_of_an_image_without_any_labelled_pixel_stay_empty(phase, official):
    result = run([[]], [[1, 1]], seen=[[(1, 16, 15)]], phase=phase, official=official)
    assert bool((result.semantic[0] == 1).any()) and bool((result.instance_map[0] == -1).all())


@pytest.mark.parametrize("phase", [1, 2])
def test_pixel_that_no_present_class_explains_is_of_class_0(phase):
    logits = torch.zeros(1, CLASSES, 8, 12)
    logits[:, 4] = 200.0  # absent, yet so sure that all others underflow to 0
    result = run([[(0, 20, 20)]], [[1]], inputs=(logits, *scene()[1:]), phase=phase)
    is_stuff = result.semantic[0] == STUFF
    assert int(is_stuff.sum()) == 1 and torch.equal(result.instance_map[0] == 0, ~is_stuff)


@pytest.mark.parametrize("phase", [1, 2])
def test_two_points_in_one_cell_the_lower_instance_wins(phase):
    result = run([[(0, 17, 81), (1, 18, 80)]], [[1, 1]], phase=phase)
    assert set(result.instance_map[0].unique().tolist()) == {-1, 0}
    assert result.boxes[0][1].tolist() == [24, 16, 72, 48]


@pytest.mark.parametrize("size", [(24, 70), (12, 50), (9, 9)])
@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_graph_with_a_side_of_one(size, phase, official):
    points, classes = [[(0, 2, 1), (1, size[0] - 1, size[1] - 1)]], [[0, 1]]
    inputs = random_inputs(size)
    result = run(points, classes, inputs=inputs, size=size, phase=phase, stride=16, official=official)
    dense = dense_probabilities(inputs[0], dilate_points(point_map(points, classes, size), CLASSES, 1))
    assert torch.equal(result.instance_map[0] >= 0, dense[0].argmax(dim=0) < THINGS)


def dense_probabilities(logits, dilated):
    """Card 3.4, step 1, in full."""
    softmax = F.interpolate(logits, size=dilated.masks.shape[1:], mode="bilinear", align_corners=False).softmax(dim=1)
    labelled = torch.zeros_like(softmax)
    labelled[dilated.image_index, dilated.class_index] = dilated.masks.float()
    return torch.maximum(softmax * dilated.present[:, :, None, None], labelled)


@pytest.mark.parametrize("size", [(64, 40), (75, 51), (7, 9)])
def test_probabilities_of_present_classes(size):
    logits = random_inputs(size, batch=3)[0]
    points = [[(0, 3, 4), (1, 5, 5)], [], [(0, 0, 0)]]
    dilated = dilate_points(point_map(points, [[2, 0], [], [1]], size, with_stuff=False), CLASSES, 3)
    present = present_probabilities(logits, dilated)
    assert present.classes.T.tolist() == [[0, 2], [255, 255], [1, 255]]
    dense = F.pad(dense_probabilities(logits, dilated), (0, 0, 0, 0, 0, 256 - CLASSES))  # nothing is of class 255
    for i, kinds in enumerate(present.classes.T):
        torch.testing.assert_close(present.probabilities[:, i], dense[i, kinds], rtol=0.0, atol=2e-6)
    kind, best = best_classes(present)
    torch.testing.assert_close(best, dense.amax(dim=1), rtol=0.0, atol=2e-6)
    assert torch.equal(kind, dense.argmax(dim=1))


def test_likely_are_the_class_and_any_stuff():
    present = torch.tensor([[0, 2, 3, 4], [1, 4, 255, 255]]).T  # (k, B)
    counts = likely_classes(torch.tensor([[2, 1], [0, 2]]), present, THINGS)  # (m, B) instances
    # A slot without a class counts as stuff: its probability is 0.
    assert counts.tolist() == [[[0, 1, 1, 1], [1, 0, 1, 1]], [[1, 1, 1, 1], [0, 1, 1, 1]]]


def test_square_around_a_point_has_its_class_whatever_the_network_says():
    result = run([[(0, 44, 60)]], [[2]], point_size=5)
    is_square = torch.zeros(SIZE, dtype=torch.bool)
    is_square[42:47, 58:63] = True
    assert torch.equal(result.semantic[0] == 2, is_square)
    assert bool((result.instance_map[0][is_square] == 0).all())


def test_uncertain_pixels_have_no_class():
    logits = torch.zeros(1, CLASSES, 2, 2)
    # Four other classes with logit 0: the class is as likely as all of them together at log 4.
    logits[0, STUFF] = torch.tensor(4.0).log() + torch.tensor([1e-3, -1e-3])
    result = run([[]], [[]], inputs=(logits, torch.zeros(1, 2, 2), torch.zeros(1, 3, 2, 2)), size=(16, 16))
    assert result.semantic[0, 0, 0] == STUFF and result.semantic[0, 0, 15] == 255


def test_boxes_end_one_pixel_after_the_mask_and_at_the_image():
    instance_map = torch.full((10, 12), -1)
    instance_map[2, 3] = instance_map[5, 4] = 0
    instance_map[9, 11] = instance_map[0, 0] = 2
    boxes = boxes_of(instance_map, 3, (8, 11))
    assert boxes.tolist() == [[3, 2, 5, 6], [2, 2, 8, 6], [0, 0, 11, 8]]
    assert boxes.dtype == torch.float32


@pytest.mark.parametrize("phase", [1, 2])
def test_autocast_changes_nothing(phase):
    plain = run([CENTRES], [[1, 0, 2]], inputs=random_inputs(SIZE), phase=phase)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run([CENTRES], [[1, 0, 2]], inputs=random_inputs(SIZE), phase=phase)
    assert torch.equal(plain.instance_map[0], mixed.instance_map[0]) and torch.equal(plain.semantic, mixed.semantic)


def test_mirrored_image_has_mirrored_labels():
    logits, boundary, embedding = random_inputs(SIZE)
    mirrored = [(k, y, SIZE[1] - 1 - x) for k, y, x in CENTRES]
    options = {"with_stuff": False, "point_size": 3}
    plain = run([CENTRES], [[1, 1, 2]], inputs=(logits, boundary, embedding), **options)
    flipped = run([mirrored], [[1, 1, 2]], inputs=(logits.flip(3), boundary.flip(2), embedding.flip(3)), **options)
    assert float((plain.instance_map[0] != flipped.instance_map[0].flip(1)).float().mean()) < 2e-3
