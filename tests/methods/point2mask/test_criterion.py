"""Every loss term of a batch under its name, normalised, weighed; padding teaches nothing."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

from tiny import CONFIGS, point_labels, scenes, shrunk_config
from weakseg.methods.point2mask.criterion import Criterion, _global_counts
from weakseg.methods.point2mask.loss_weights import LossWeights


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("criterion")
    return build_model(shrunk_config(CONFIGS / "point2mask/demo.yaml", scenes(folder, count=1), folder)).eval()


WEAK = point_labels((64, 64), [(10.5, 12.5, 2), (50.5, 40.5, 4), (60.5, 20.5, 1), (63.5, 63.5, 5)])


def losses_of(model, image, sizes=((64, 64),)):
    """Loss terms for a batch tensor (B, 3, H, W) in which every image has the labels WEAK."""
    images = ImageList(image, list(sizes))
    return model.head.losses(model.backbone(image), images, [{"weak": WEAK} for _ in sizes])


def image(seed=0, size=(64, 64)):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_names_are_those_of_the_table(model):
    names = set(losses_of(model, image()))
    layers = {
        *(f"d{i}.{name}" for i in range(1) for name in ("loss_sem_cls", "loss_sem_mask", "loss_sem_color")),
        *(f"d0.{name}" for name in ("loss_tree_color", "loss_mask", "loss_st_mask", "loss_st_cls")),
        # Two decoder layers: the last one without a prefix.
        *("d0.loss_cls", "d0.loss_bbox", "d0.loss_iou", "loss_cls", "loss_bbox", "loss_iou"),
    }
    assert names == layers | {"loss_cl", "loss_bnd"}


def test_twice_the_same_image_costs_the_same(model):
    """Sums over the batch are divided by counts over the batch."""
    once = losses_of(model, image())
    twice = losses_of(model, image().repeat(2, 1, 1, 1), ((64, 64), (64, 64)))
    for name in once:
        torch.testing.assert_close(twice[name], once[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "names"),
    [
        ("classification", {"loss_st_cls", "loss_cls"}),
        ("box", {"loss_bbox"}),
        ("giou", {"loss_iou"}),
        ("mask", {"loss_mask", "loss_st_mask"}),
        ("stuff_class_factor", {"loss_st_cls"}),
        ("color", {"loss_sem_color"}),
        ("tree", {"loss_tree_color"}),
    ],
)
def test_each_weight_scales_its_own_terms(model, monkeypatch, weight, names):
    from dataclasses import replace

    # The matching uses the weights too: it is kept, so that only the scale changes.
    before = losses_of(model, image())
    original, matched = model.head.losses.__globals__["match"], []
    monkeypatch.setitem(
        model.head.losses.__globals__, "match", lambda *a, **k: matched.append(original(*a, **k)) or matched[0]
    )
    losses_of(model, image())
    weights = model.head.criterion.weights
    monkeypatch.setattr(model.head.criterion, "weights", replace(weights, **{weight: 3 * getattr(weights, weight)}))
    after = losses_of(model, image())
    for name, value in before.items():
        factor = 3.0 if name.split(".")[-1] in names else 1.0
        torch.testing.assert_close(after[name], factor * value, rtol=1e-5, atol=1e-7)


def test_squares_of_points_end_at_the_image(model):
    """A dilated point at the border reaches into the padding; no label is there (fault r)."""
    padded = torch.zeros(1, 3, 96, 96)
    padded[:, :, :64, :64] = image()
    seen = []
    module = model.head.criterion._semantic.__globals__
    original = module["partial_cross_entropy_sum"]
    try:
        module["partial_cross_entropy_sum"] = lambda logits, target: seen.append(target) or original(logits, target)
        losses_of(model, padded)
    finally:
        module["partial_cross_entropy_sum"] = original
    (target,) = seen
    assert target.shape == (1, 24, 24)
    assert (target[0, :16, :16] != 255).sum() > 4
    assert (target[0, 16:] == 255).all() and (target[0, :, 16:] == 255).all()


def test_channel_order_and_pixel_statistics_decide_the_colours(model, monkeypatch):
    criterion = model.head.criterion
    logits = torch.randn(1, 1, 6, 16, 16, generator=torch.Generator().manual_seed(1))
    picture = 0.2 * image(3)
    counts, present = {"unlabelled": torch.tensor(7.0)}, torch.tensor([[True, False, True, False, False, True]])
    rgb = criterion._colors(logits, present, ImageList(picture, [(64, 64)]), None, counts)
    monkeypatch.setattr(criterion, "channel_order", "BGR")
    bgr = criterion._colors(logits, present, ImageList(picture.flip(1), [(64, 64)]), None, counts)
    torch.testing.assert_close(bgr["d0.loss_sem_color"], rgb["d0.loss_sem_color"])
    other = criterion._colors(logits, present, ImageList(picture, [(64, 64)]), None, counts)
    assert other["d0.loss_sem_color"] != rgb["d0.loss_sem_color"]
    counts = {"unlabelled": torch.tensor(14.0)}
    doubled = criterion._colors(logits, present, ImageList(picture, [(64, 64)]), None, counts)
    torch.testing.assert_close(doubled["d0.loss_tree_color"], other["d0.loss_tree_color"] / 2)


def test_colour_losses_do_not_depend_on_the_statistics_of_the_backbone():
    pixels = 255 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    logits = torch.randn(1, 1, 6, 16, 16, generator=torch.Generator().manual_seed(1))
    counts, present = {"unlabelled": torch.tensor(7.0)}, torch.tensor([[True, False, True, False, False, True]])
    found = []
    for order, mean, std in (
        ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("RGB", [127.5, 127.5, 127.5], [127.5, 100.0, 80.0]),
        ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
    ):
        criterion = Criterion(
            num_things=4,
            num_stuff=2,
            pixel_mean=mean,
            pixel_std=std,
            channel_order=order,
            temperature=0.07,
            ramp_iters=0,
            weights=LossWeights(),
            official=False,
        )
        stored = pixels if order == "RGB" else pixels.flip(1)
        normalised = (stored - criterion.pixel_mean[:, None, None]) / criterion.pixel_std[:, None, None]
        found.append(criterion._colors(logits, present, ImageList(normalised, [(16, 16)]), None, counts))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("official", [False, True])
def test_only_the_published_form_filters_absent_classes(model, monkeypatch, official):
    seen = []
    module = model.head.criterion._colors.__globals__
    original = module["tree_loss_sum"]
    monkeypatch.setitem(module, "tree_loss_sum", lambda *a, present: seen.append(present) or original(*a))
    monkeypatch.setattr(model.head.criterion, "official", official)
    losses_of(model, image())
    (present,) = seen
    assert present is None if official else present.tolist() == [[False, True, True, False, True, True]]


def test_counts_are_raised_to_one_where_they_divide():
    counts = _global_counts(a=torch.tensor(0), b=3, c=torch.tensor(-2), d=0, at_least_one=("a", "b", "d"))
    assert {name: value.item() for name, value in counts.items()} == {"a": 1, "b": 3, "c": -2, "d": 1}
