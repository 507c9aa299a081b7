"""Every fault of a label file is found, and is one sentence with its place and remedy."""

import pytest

from labels.content import written
from weakseg.labels import read_label_file


def annotation(index, **values):
    return lambda content: content["annotations"][index].update(values)


def image(index, **values):
    return lambda content: content["images"][index].update(values)


def category(index, **values):
    return lambda content: content["categories"][index].update(values)


def drop(group, index, key):
    return lambda content: content[group][index].pop(key)


AT = r", annotation 812 \(image 17\): "
FAULTS = {
    "newer": (
        lambda c: c.update(weakseg_version=2),
        r": expected .* weakseg_version 1 or before; found 2\. Update weakseg",
    ),
    "no categories": (lambda c: c.pop("categories"), 'a list "categories" at the top; found None'),
    "empty categories": (lambda c: c.update(categories=[]), '"categories" is empty'),
    "no images": (lambda c: c.pop("images"), 'a list "images"'),
    "annotations of another form": (lambda c: c.update(annotations={}), 'a list "annotations"'),
    "panoptic": (lambda c: c["annotations"].insert(0, {"segments_info": []}), r"prepare_coco\.py"),
    "category id": (drop("categories", 0, "id"), "every category needs an id"),
    "category twice": (category(0, id=3), "category 3: its id is used twice"),
    "no name": (drop("categories", 1, "name"), "category 3: expected a name; found None"),
    "blank name": (category(1, name=" "), "category 3: expected a name"),
    "isthing": (category(1, isthing=2), "category 3: expected isthing 1 .* or 0 .*; found 2"),
    "color": (category(1, color=[0, 0, 256]), "category 3: expected a color"),
    "color of fractions": (category(1, color=[0, 0, 0.5]), "category 3: expected a color"),
    "image id": (drop("images", 0, "id"), "every image needs an id"),
    "image twice": (image(0, id=4), "image 4: its id is used twice"),
    "no file name": (drop("images", 0, "file_name"), "image 17: expected a file_name; found None"),
    "file name twice": (image(1, file_name="a.jpg"), r"image 4: the file_name 'a\.jpg' is used twice"),
    "no height": (drop("images", 0, "height"), "image 17: expected width and height in pixels.*640 x None"),
    "no pixels": (image(0, width=0), "image 17: expected width and height"),
    "size of text": (image(0, width="640"), "image 17: expected width and height"),
    "too large": (image(0, width=10**6, height=10**6), "image 17: expected width and height"),
    "unknown tag": (image(0, tags=[3, 2]), r"image 17: expected tags, a list of category ids; found \[3, 2\]"),
    "tag twice": (image(0, tags=[3, 3]), "image 17: a tag is named twice"),
    "annotation id": (drop("annotations", 1, "id"), "every annotation needs an id"),
    "annotation twice": (annotation(2, id=812), AT + "its id is used twice"),
    "unknown image": (
        annotation(1, image_id=18),
        r", annotation 812 \(image 18\): its image_id is not among the images",
    ),
    "unknown category": (annotation(1, category_id=2), AT + "its category_id 2 is not among the categories"),
    "no category": (drop("annotations", 1, "category_id"), AT + "its category_id None is not among"),
    "crowd": (annotation(1, iscrowd=2), AT + "expected iscrowd 0 or 1; found 2"),
    "area": (annotation(1, area=float("nan")), AT + "expected a finite area; found nan"),
    "box of three": (annotation(1, bbox=[1, 2, 3]), AT + r"expected bbox \[x, y, width, height\]"),
    "box of negative size": (annotation(1, bbox=[1, 2, 3, -1]), AT + "expected bbox"),
    "infinite box": (annotation(1, bbox=[1, 2, 3, float("inf")]), AT + "expected bbox"),
    "box right": (
        annotation(1, bbox=[600, 2, 41.5, 3]),
        AT + r"box \[600, 2, 41.5, 3\] lies outside the image of 640 x 480",
    ),
    "box bottom": (annotation(1, bbox=[1, 470, 2, 11.5]), AT + "box .* lies outside"),
    "box left": (annotation(1, bbox=[-1.5, 2, 3, 3]), AT + "box .* lies outside"),
    "box top": (annotation(1, bbox=[1, -1.5, 3, 3]), AT + "box .* lies outside"),
    "point right": (
        annotation(1, point_coords=[[640.2, 93.0]]),
        AT + r"point \(640\.2, 93\.0\) lies outside the image of 640 x 480\. Points are \(x, y\) in pixels",
    ),
    "point on the right border": (annotation(1, point_coords=[[640, 0]]), AT + r"point \(640, 0\) lies outside"),
    "point on the lower border": (annotation(1, point_coords=[[0, 480]]), AT + r"point \(0, 480\) lies outside"),
    "point left": (annotation(1, point_coords=[[-0.1, 3]]), AT + "point .* lies outside"),
    "point above": (annotation(1, point_coords=[[3, -0.1]]), AT + "point .* lies outside"),
    "no points": (
        annotation(1, point_coords=[]),
        AT + r"expected points \[\[x, y\], ...\] of finite numbers; found \[\]",
    ),
    "flat point": (annotation(1, point_coords=[1, 2]), AT + "expected points"),
    "point of three": (annotation(1, point_coords=[[1, 2, 3]]), AT + "expected points"),
    "point of truth": (annotation(1, point_coords=[[True, 2]]), AT + "expected points"),
    "infinite point": (annotation(1, point_coords=[[float("inf"), 2]]), AT + "expected points"),
    "labels of points": (annotation(0, point_labels=[1]), "expected point_labels, 1 or 0 for each of 2 points"),
    "label of a point": (annotation(0, point_labels=[1, 2]), "expected point_labels"),
    "no scribbles": (annotation(1, scribbles=[]), AT + "expected scribbles"),
    "empty scribble": (annotation(1, scribbles=[[]]), AT + "expected points"),
    "scribble outside": (annotation(1, scribbles=[[[1, 1], [1, 500]]]), AT + r"point \(1, 500\) lies outside"),
    "no expressions": (annotation(1, expressions=[]), AT + "expected expressions"),
    "blank expression": (annotation(1, expressions=["a", " "]), AT + "expected expressions"),
    "polygon of two": (annotation(1, segmentation=[[1, 2, 3, 4]]), AT + "expected polygons"),
    "odd polygon": (annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), AT + "expected polygons"),
    "polygon of text": (annotation(1, segmentation=[["a"] * 6]), AT + "expected polygons"),
    "mask of text": (annotation(1, segmentation="x"), AT + "expected a segmentation"),
    "mask without counts": (annotation(1, segmentation={"size": [480, 640]}), AT + "expected a segmentation"),
    "mask of another size": (
        annotation(1, segmentation={"size": [640, 480], "counts": "x"}),
        AT + "its mask is of 480 x 640 pixels, the image of 640 x 480",
    ),
    "runs too long": (
        annotation(1, segmentation={"size": [480, 640], "counts": [307200, 1]}),
        AT + "the run lengths of its mask do not add up to 640 x 480 pixels",
    ),
    "negative run": (annotation(1, segmentation={"size": [480, 640], "counts": [307201, -1]}), AT + "the run lengths"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_with_their_place(name, tmp_path):
    change, sentence = FAULTS[name]
    path = written(tmp_path, change)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_label_file(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message


def test_what_is_just_inside_is_valid(tmp_path):
    for change in (
        annotation(1, point_coords=[[0, 0], [639.999, 479.999]]),
        annotation(1, bbox=[-1, -1, 642, 482]),
        annotation(1, bbox=[0, 0, 0, 0]),
        annotation(1, segmentation=[]),
        image(0, tags=[]),
        category(0, color=[0, 255, 7]),
    ):
        read_label_file(written(tmp_path, change))
