"""Label maps of hand-drawn labels and of label PNGs, and training images with them."""

import logging
import pickle

import numpy as np
import pytest
import torch

from tiny import CONFIGS, classes_only, shrunk_config
from weakseg.data.augmentation import build_augmentation
from weakseg.labels import ClassOrder, LabelFile, WeakLabels, write_label_file
from weakseg.methods.spml.label_maps import LabelMaps, TrainingImages, WholeImages

ORDER = ClassOrder.of(("cat", "dog", "sky", "background"))
NO_BACKGROUND = ClassOrder.of(("cat", "dog", "sky"))
CAT, DOG, SKY, BACKGROUND = range(4)
"""House indices; in a label map the background is 0 and the others 1, 2, 3."""
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def weak(size, classes, **labels):
    """One target for each of `classes`; labels: values by kind, one a target in the same order."""
    target = torch.arange(len(classes))
    found = WeakLabels(image_size=size, classes=torch.tensor(classes), is_crowd=torch.zeros(len(classes)).bool())
    for name, values in labels.items():
        values = values if name == "scribbles" else torch.tensor(values)
        changes = {name: values, f"{name.rstrip('s') if name != 'boxes' else 'box'}_target": target}
        if name == "points":
            changes["point_positive"] = torch.ones(len(classes), dtype=torch.bool)
        found = found.replace(**changes)
    return found


def rows(text):
    """A map from lines of one character a pixel: digits, "." unlabelled, "#" ignored."""
    values = {".": 254, "#": 255} | {str(k): k for k in range(10)}
    return [[values[character] for character in line] for line in text.split()]


@pytest.mark.parametrize(("order", "first"), [(ORDER, 1), (NO_BACKGROUND, 0)])
def test_points_are_discs_later_ones_over_earlier_ones(order, first):
    # A disc of diameter 2 about a corner of pixels has the four around it.
    labels = weak((4, 6), [DOG, CAT, SKY], points=[(2.0, 2.0), (3.0, 2.0), (6.0, 0.0)])
    cat, dog, sky = (str(first + k) for k in range(3))
    expected = rows(f".....{sky} .{dog}{cat}{cat}.. .{dog}{cat}{cat}.. ......")
    drawn = LabelMaps(order, point_diameter=2.0)(labels, {})
    assert drawn.dtype == np.uint8 and drawn.tolist() == expected
    # A negative point says what is not there.
    labels.point_positive[1] = False
    drawn = LabelMaps(order, point_diameter=2.0)(labels, {})
    assert drawn.tolist() == rows(f".....{sky} .{dog}{dog}... .{dog}{dog}... ......")


def test_scribbles_are_lines_with_points_over_them():
    lines = [torch.tensor([[0.5, 1.5], [3.5, 1.5], [3.5, 3.5]]), torch.tensor([[1.5, 0.5], [1.5, 2.5]])]
    labels = weak((4, 6), [DOG, BACKGROUND], scribbles=lines)
    maps = LabelMaps(ORDER, scribble_width=1.0, point_diameter=1.0)
    assert maps(labels, {}).tolist() == rows(".0.... 2022.. .0.2.. ...2..")
    labels = labels.replace(
        points=torch.tensor([[3.5, 1.5]]), point_target=torch.tensor([1]), point_positive=torch.tensor([True])
    )
    assert maps(labels, {}).tolist() == rows(".0.... 2020.. .0.2.. ...2..")
    # The published width: a pixel more on each side.
    drawn = LabelMaps(ORDER)(weak((5, 5), [CAT], scribbles=[torch.tensor([[1.5, 2.5], [3.5, 2.5]])]), {})
    assert drawn.tolist() == rows("..... 11111 11111 11111 .....")


def test_outside_all_boxes_is_background():
    labels = weak((4, 6), [DOG, CAT], boxes=[(1.2, -0.5, 3.1, 1.3), (-2.0, 2.9, 1.0, 9.0)])
    assert LabelMaps(ORDER)(labels, {}).tolist() == rows("0...00 0...00 .00000 .00000")
    # Without a background there is nothing that it could be.
    assert (LabelMaps(NO_BACKGROUND)(labels, {}) == 254).all()
    # Points and scribbles say more.
    both = labels.replace(
        points=torch.tensor([[2.5, 0.5], [5.5, 3.5]]),
        point_target=torch.tensor([0, 1]),
        point_positive=torch.tensor([True, True]),
    )
    assert LabelMaps(ORDER, point_diameter=1.0)(both, {}).tolist() == rows("0.2.00 0...00 .00000 .00001")


def test_what_no_mask_covers_is_ignored():
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[0, :2, :2] = True
    masks[1, 1:, 1:3] = True
    labels = weak((3, 4), [BACKGROUND, SKY], masks=masks.tolist())
    assert LabelMaps(ORDER)(labels, {}).tolist() == rows("00## 033# #33#")
    labels = labels.replace(
        boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        box_target=torch.tensor([0]),
        points=torch.tensor([[3.5, 0.5]]),
        point_target=torch.tensor([1]),
        point_positive=torch.tensor([True]),
    )
    assert LabelMaps(ORDER, point_diameter=1.0)(labels, {}).tolist() == rows("00#3 033# #33#")


def test_without_labels_all_is_unlabelled():
    for order in (ORDER, NO_BACKGROUND):
        drawn = LabelMaps(order)(WeakLabels(image_size=(3, 5), tags=torch.tensor([CAT])), {})
        assert drawn.shape == (3, 5) and (drawn == 254).all()


def test_a_label_png_goes_before_what_is_drawn():
    values = np.array([[0, 1, 2, 3], [4, 5, 100, 253], [254, 255, 3, 0]], dtype=np.uint8)
    labels = weak((3, 4), [CAT], points=[(1.0, 1.0)])
    # The background is 0; four classes are known, what is above is unlabelled, 255 ignored.
    found = LabelMaps(ORDER)(labels, {"semantic": values})
    assert found.dtype == np.uint8 and found.tolist() == rows("0123 .... .#30")
    # Without a background 0 is unlabelled, and the first class is 1.
    assert LabelMaps(NO_BACKGROUND)(labels, {"semantic": values}).tolist() == rows(".012 .... .#2.")


def test_classes_that_are_present_have_the_indices_of_the_data_set():
    found = LabelMaps(ORDER).present(np.array([[0, 3, 254], [255, 3, 4]], dtype=np.uint8))
    assert found.dtype == torch.int64 and sorted(found.tolist()) == [SKY, BACKGROUND]
    found = LabelMaps(NO_BACKGROUND).present(np.array([[0, 254], [255, 3]], dtype=np.uint8))
    assert found.tolist() == [CAT]
    assert LabelMaps(ORDER).present(np.full((2, 2), 254, np.uint8)).tolist() == []


def training_images(crop_size, order=ORDER, **changes):
    arguments = {"crop_size": crop_size, "scale_range": (1.0, 1.0), "mean": MEAN} | changes
    return TrainingImages(LabelMaps(order), **arguments)


def image_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("order", [ORDER, NO_BACKGROUND])
def test_tags_are_the_classes_of_the_whole_label_map(order):
    values = np.full((24, 24), 254, np.uint8)
    values[0, 0], values[23, 23] = 1, 3
    images = training_images(8, order)
    seen = set()
    for seed in range(20):
        _, labels, evidence = images(
            image_of((24, 24)), WeakLabels((24, 24)), {"semantic": values}, np.random.default_rng(seed)
        )
        assert sorted(labels.tags.tolist()) == [CAT, SKY] and labels.image_size == (8, 8)
        assert len(labels) == 0 and not len(labels.points)
        seen |= set(np.unique(evidence["label_map"]).tolist())
    assert 254 in seen


def test_tags_of_a_mirrored_image_are_those_of_its_pixels():
    values = np.array([[1, 254], [254, 254]], np.uint8)
    images = training_images(2, flip_pairs=((1, 2),))
    seen = set()
    for seed in range(8):
        _, labels, evidence = images(
            image_of((2, 2)), WeakLabels((2, 2)), {"semantic": values}, np.random.default_rng(seed)
        )
        found = np.unique(evidence["label_map"]).tolist()
        assert (labels.tags.tolist(), found) in (([CAT], [1, 254]), ([DOG], [2, 254]))
        seen |= set(labels.tags.tolist())
    assert seen == {CAT, DOG}


def test_padding_is_the_mean_colour_and_takes_no_part():
    image, regions = image_of((5, 7)), np.arange(35, dtype=np.uint8).reshape(5, 7)
    labels = weak((5, 7), [DOG], points=[(2.0, 2.0)])
    label_map = LabelMaps(ORDER)(labels, {})
    mirrored = []
    for seed in range(6):
        pixels, _, evidence = training_images(9)(image, labels, {"regions": regions}, np.random.default_rng(seed))
        assert pixels.dtype == np.float32 and pixels.shape == (9, 9, 3) and evidence.keys() == {"label_map", "regions"}
        is_mirrored = not np.allclose(pixels[:5, :7], image, atol=1e-4)
        step = -1 if is_mirrored else 1
        np.testing.assert_allclose(pixels[:5, :7], image[:, ::step], atol=1e-4)
        for name, values in (("label_map", label_map), ("regions", regions)):
            assert evidence[name].dtype == np.uint8
            assert np.array_equal(evidence[name][:5, :7], values[:, ::step])
            assert (evidence[name][5:] == 255).all() and (evidence[name][:, 7:] == 255).all()
        normalised = (torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(STD)
        assert normalised[5:].abs().max() < 1e-6 and normalised[:, 7:].abs().max() < 1e-6
        mirrored.append(is_mirrored)
    assert len(set(mirrored)) == 2


def test_without_regions_an_image_is_one_region():
    _, _, evidence = training_images(6)(image_of((4, 4)), WeakLabels((4, 4)), {}, np.random.default_rng(0))
    assert (evidence["regions"][:4, :4] == 0).all() and (evidence["regions"][4:] == 255).all()


def test_equal_generators_give_equal_images():
    images = training_images(8, scale_range=(0.5, 1.5), grey_probability=0.3, blur_probability=0.5)
    image, evidence = image_of((12, 14)), {"semantic": image_of((12, 14))[..., 0] // 50}
    found = [images(image, WeakLabels((12, 14)), dict(evidence), np.random.default_rng(seed))[0] for seed in (3, 3, 4)]
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def config(tmp_path, names, **changes):
    """voc_point on a label file of classes `names`."""
    path = tmp_path / "labels.json"
    categories = [{"id": k + 1, "name": name, "isthing": 0} for k, name in enumerate(names)]
    write_label_file(path, LabelFile(categories, [], {}))
    return shrunk_config(CONFIGS / "spml/voc_point.yaml", path, tmp_path, **changes)


def test_training_images_from_a_config(tmp_path):
    changes = {"GRAYSCALE": 0.4, "BLUR": 0.6, "FLIP_PAIRS": ((1, 2),), "SCRIBBLE_WIDTH": 2.0, "POINT_DIAMETER": 4.0}
    changes |= {"CROP_SIZE": 16, "SCALE_RANGE": (0.7, 1.2)}
    cfg = config(
        tmp_path,
        ("cat", "dog", "sky", "background"),
        MODEL__PIXEL_MEAN=(10.0, 20.0, 30.0),
        **{f"MODEL__SPML__INPUT__{key}": value for key, value in changes.items()},
    )
    lines = [torch.tensor([[2.5, 3.5], [15.0, 3.5]]), torch.tensor([[2.5, 13.5], [15.0, 13.5]])]
    labels = weak((20, 18), [CAT, DOG], scribbles=lines).replace(
        points=torch.tensor([[9.0, 9.0]]), point_target=torch.tensor([1]), point_positive=torch.tensor([True])
    )
    # Workers of the loader get it so.
    assert pickle.dumps(build_augmentation(cfg, True))
    for official in (False, True):
        cfg.MODEL.SPML.OFFICIAL_COMPAT = official
        expected = TrainingImages(
            LabelMaps(ORDER, scribble_width=2.0, point_diameter=4.0),
            mean=(10.0, 20.0, 30.0),
            crop_size=16,
            scale_range=(0.7, 1.2),
            flip_pairs=((1, 2),),
            grey_probability=0.4,
            blur_probability=0.6,
            official=official,
        )
        for seed in range(8):
            arguments = (image_of((20, 18)), labels, {})
            results = [
                augmentation(*arguments, np.random.default_rng(seed))
                for augmentation in (build_augmentation(cfg, True), expected)
            ]
            for a, b in zip(*((pixels, *(e[n] for n in ("label_map", "regions"))) for pixels, _, e in results)):
                assert np.array_equal(a, b)
            assert torch.equal(results[0][1].tags, results[1][1].tags)


def test_the_log_says_that_labels_are_not_drawn_over_label_maps(tmp_path, caplog):
    cfg = config(tmp_path, ("cat", "dog", "background"))
    with caplog.at_level(logging.INFO, logger="weakseg"):
        build_augmentation(cfg, True)
        assert not caplog.messages
        cfg.INPUT.EVIDENCE = ("semantic",)
        build_augmentation(cfg, False)
        assert not caplog.messages
        build_augmentation(cfg, True)
    assert caplog.messages == ["Labels: evidence semantic alone; points are not drawn over it"]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("head", ["Point2MaskHead", "CAMHead"])
def test_a_head_of_another_method_is_refused(tmp_path, head, is_train):
    cfg = config(tmp_path, ("cat", "dog", "background"), MODEL__WEAK_HEAD__NAME=head)
    with pytest.raises(ValueError, match=f"^INPUT.AUGMENTATION: expected .* {head} learns from; found spml"):
        build_augmentation(cfg, is_train)
    cfg.MODEL.WEAK_HEAD.NAME = "SPMLClassifierHead"
    build_augmentation(cfg, is_train)


def test_images_at_test_stay_as_they_are(tmp_path):
    cfg = config(tmp_path, ("cat", "dog", "background"), MODEL__SPML__INPUT__POINT_DIAMETER=2.0)
    augmentation = build_augmentation(cfg, False)
    assert isinstance(augmentation, WholeImages)
    image, labels = image_of((5, 6)), weak((5, 6), [CAT], points=[(2.0, 2.0)])
    regions = np.zeros((5, 6), np.uint8)
    found, same, evidence = augmentation(image, labels, {"regions": regions}, np.random.default_rng(0))
    assert found is image and same is labels and evidence["regions"] is regions
    assert evidence["label_map"].tolist() == rows("...... .11... .11... ...... ......")


def test_the_classes_of_a_data_set_without_background(tmp_path):
    path = classes_only(tmp_path / "labels.json", 2, 1)
    augmentation = build_augmentation(shrunk_config(CONFIGS / "spml/voc_point.yaml", path, tmp_path), True)
    labels = weak((30, 30), [SKY], points=[(15.0, 15.0)])
    _, found, evidence = augmentation(image_of((30, 30)), labels, {}, np.random.default_rng(0))
    assert found.tags.tolist() == [2] and set(np.unique(evidence["label_map"])) == {2, 254, 255}
