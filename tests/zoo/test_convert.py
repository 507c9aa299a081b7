"""Published checkpoints become files that predict alone, and come back bit by bit; other files are refused."""

import numpy as np
import pytest
import torch

from tiny import CONFIGS, classes_only, scenes, shrunk_config
from weakseg.data.convert.voc import THINGS
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.defaults import load_config
from weakseg.inference import WeakPredictor
from weakseg.zoo.convert import default_config, from_published, read_published, to_published
from zoo.small_published import published_content, small_config, small_model

METHOD = "point2mask"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a published file `published.pth`, its config file, its model, and what the file holds."""
    folder = tmp_path_factory.mktemp("published")
    config_file = small_config(folder)
    model = small_model(folder, config_file)
    content = published_content(model)
    torch.save(content, folder / "published.pth")
    return folder, config_file, model, content


def convert(path, config_file):
    return from_published(read_published(path, METHOD), METHOD, load_config(config_file))


def changed(small, change, **content):
    """A file with a changed state dict."""
    folder, _, _, original = small
    state = dict(original["state_dict"])
    change(state)
    torch.save(original | {"state_dict": state} | content, folder / "changed.pth")
    return folder / "changed.pth"


def test_there_and_back_is_bit_equal(small, tmp_path):
    folder, config_file, model, content = small
    ours = convert(folder / "published.pth", config_file)
    expected = model.state_dict()
    assert list(ours["model"]) == list(expected)
    assert all(torch.equal(ours["model"][name], value) for name, value in expected.items())
    assert ours["model"]["head.iteration"].dtype == torch.int64 and ours["model"]["head.iteration"].tolist() == [31752]
    assert "optimizer" not in ours

    torch.save(ours, tmp_path / "ours.pth")
    back = to_published(tmp_path / "ours.pth", METHOD)
    assert list(back) == ["meta", "state_dict"] and back["meta"] == content["meta"]
    original = {name.removeprefix("module."): value for name, value in content["state_dict"].items()}
    assert list(back["state_dict"]) == list(original)
    for name, value in original.items():
        assert back["state_dict"][name].dtype == value.dtype and torch.equal(back["state_dict"][name], value), name


def test_the_file_alone_predicts_what_the_published_model_does(small, tmp_path):
    folder, config_file, model, _ = small
    torch.save(convert(folder / "published.pth", config_file), tmp_path / "ours.pth")
    predictor = WeakPredictor.from_checkpoint(tmp_path / "ours.pth", device="cpu", opts=["INPUT.MIN_SIZE_TEST", "0"])
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    result = predictor(image)
    sample = {"image": torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy()), "height": 64, "width": 80}
    with torch.no_grad():
        (expected,) = model([sample])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert torch.equal(result["sem_seg"], expected["sem_seg"])
    assert predictor.cfg.INPUT.MIN_SIZE_TEST == 0 and predictor.cfg.MODEL.POINT2MASK.NUM_QUERIES == 10


def test_classes_are_those_of_the_data_set_without_its_files(small):
    folder, config_file, _, _ = small
    classes = convert(folder / "published.pth", config_file)["metadata"]
    assert classes["thing_classes"] == THINGS
    assert classes["stuff_classes"] == [*THINGS, "background"]
    assert classes["thing_colors"] == classes["stuff_colors"][:20]
    assert classes["stuff_colors"][0] == [128, 0, 0] and classes["stuff_colors"][20] == [0, 0, 0]


def test_classes_of_coco_are_in_published_order(tmp_path):
    config_file = small_config(tmp_path, "coco_r50")
    content = published_content(small_model(tmp_path, config_file, 80, 53))
    torch.save(content, tmp_path / "published.pth")
    classes = convert(tmp_path / "published.pth", config_file)["metadata"]
    assert (len(classes["thing_classes"]), len(classes["stuff_classes"])) == (80, 133)
    assert classes["thing_classes"][::79] == ["person", "toothbrush"] and classes["thing_classes"][7] == "truck"
    assert classes["stuff_classes"][80::52] == ["banner", "rug-merged"]
    assert len(classes["thing_colors"]) == 80 and len(classes["stuff_colors"]) == 133


@pytest.mark.parametrize("count", [21, 20])
def test_published_names_count_where_there_are_any(small, count):
    _, config_file, _, content = small
    names = tuple(f" thing {k}" for k in range(count))
    path = changed(small, lambda state: None, meta=content["meta"] | {"CLASSES": names})
    classes = convert(path, config_file)["metadata"]
    expected = [f"thing {k}" for k in range(count)]
    assert classes["stuff_classes"] == (expected if count == 21 else [*expected, "background"])
    assert classes["thing_classes"] == expected[:20]


@pytest.mark.parametrize("names", [["one"], "a string of 21 letters", None, []])
def test_names_that_do_not_fit_are_left_aside(small, names):
    path = changed(small, lambda state: None, meta={"CLASSES": names})
    assert convert(path, small[1])["metadata"]["stuff_classes"] == [*THINGS, "background"]


def test_a_data_set_of_ones_own_names_its_classes(tmp_path):
    labels = classes_only(tmp_path / "own.json", 3, 2)
    config_file = small_config(tmp_path, DATASETS__TRAIN=(str(labels),))
    torch.save(published_content(small_model(tmp_path, config_file, 3, 2)), tmp_path / "published.pth")
    classes = convert(tmp_path / "published.pth", config_file)["metadata"]
    assert classes["thing_classes"] == ["class 0", "class 1", "class 2"] and len(classes["stuff_colors"]) == 5


def test_tensors_alone_and_half_precision_are_read_too(small, tmp_path):
    folder, config_file, _, content = small
    state = {name: v.half() if v.is_floating_point() else v for name, v in content["state_dict"].items()}
    torch.save(state, tmp_path / "state.pth")
    ours = convert(tmp_path / "state.pth", config_file)
    assert ours["model"]["head.iteration"].dtype == torch.int64
    torch.save(ours, tmp_path / "ours.pth")
    back = to_published(tmp_path / "ours.pth", METHOD)["state_dict"]
    assert all(torch.equal(back[name.removeprefix("module.")], value) for name, value in state.items())
    assert all(back[name.removeprefix("module.")].dtype == value.dtype for name, value in state.items())


def test_a_changed_key_is_refused(small):
    def rename(state):
        state["module.bbox_head.semantic_projection.weight"] = state.pop("module.bbox_head.semantic_proj.weight")

    path = changed(small, rename)
    with pytest.raises(
        ValueError, match="changed.pth: expected exactly the 493 published tensors of this config's model"
    ) as error:
        convert(path, small[1])
    assert "1 missing (bbox_head.semantic_proj.weight), 1 too many (bbox_head.semantic_projection.weight)" in str(
        error.value
    )


def test_a_missing_key_is_refused(small):
    path = changed(small, lambda state: state.pop("module.neck.convs.1.gn.bias"))
    with pytest.raises(ValueError, match=r"found 1 missing \(neck.convs.1.gn.bias\)\. Choose"):
        convert(path, small[1])


def test_a_changed_shape_is_refused(small):
    def crop(state):
        state["module.bbox_head.stuff_query.weight"] = state["module.bbox_head.stuff_query.weight"][:, :5].clone()

    path = changed(small, crop)
    with pytest.raises(
        ValueError, match=r"1 of another shape \(bbox_head.stuff_query.weight: \(1, 5\) instead of \(1, 64\)\)"
    ):
        convert(path, small[1])


def test_a_file_of_other_classes_is_refused(small, tmp_path):
    config_file = small_config(tmp_path, "coco_r50")
    with pytest.raises(ValueError, match=r"of another shape .*--config-file"):
        convert(small[0] / "published.pth", config_file)


def test_a_file_of_another_method_is_refused(small, tmp_path):
    torch.save({"meta": {}, "state_dict": {"roi_heads.box.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"missing \(.*others\), 1 too many \(roi_heads.box.weight\)"):
        convert(tmp_path / "other.pth", small[1])


@pytest.mark.parametrize(
    "content",
    [{"meta": {}, "state_dict": [1, 2]}, {"meta": 3, "state_dict": {}}, {"epoch": 3}, {"model": {}, "config": "a: 1"}],
)
def test_a_dict_that_is_no_published_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match='other.pth: expected a published checkpoint of point2mask, "meta" and .*Get'):
        read_published(tmp_path / "other.pth", METHOD)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth: expected a checkpoint"):
        read_published(tmp_path / "text.pth", METHOD)
    with pytest.raises(FileNotFoundError, match="none.pth: expected .*github.com/LiWentomng/Point2Mask"):
        read_published(tmp_path / "none.pth", METHOD)


def row(folder, classes):
    name = "module.bbox_head.cls_branches.0.weight"
    torch.save({name: torch.zeros(classes, 4), "backbone.layer3.5.conv1.weight": torch.zeros(1)}, folder / "row.pth")
    return read_published(folder / "row.pth", METHOD)


def test_the_config_of_a_published_row_is_found(tmp_path):
    assert default_config(row(tmp_path, 80), METHOD) == "point2mask/coco_r50.yaml"
    with pytest.raises(ValueError, match="row.pth: expected .* of a published row; found .*--config-file"):
        default_config(row(tmp_path, 7), METHOD)


def trained(folder, config_file):
    """A checkpoint as the trainer writes it."""
    cfg = shrunk_config(config_file, classes_only(folder / "own.json", 3, 2), folder)
    model = small_model(folder, config_file, 3, 2)
    Checkpointer(model, str(folder), description=describe_run(cfg)).save("trained")
    return folder / "trained.pth", model


def test_a_checkpoint_that_was_trained_here_gets_the_published_form(small, tmp_path):
    path, model = trained(tmp_path, small[1])
    published = to_published(path, METHOD)
    assert published["meta"] == {"CLASSES": [f"class {k}" for k in range(5)]}
    assert published["state_dict"]["backbone.bn1.num_batches_tracked"].item() == 0
    assert torch.equal(published["state_dict"]["backbone.conv1.weight"], model.backbone.stem.conv1.weight)
    assert published["state_dict"]["bbox_head._iter"].tolist() == [31752.0]


def test_an_incomplete_or_published_file_is_not_converted_back(small, tmp_path):
    path, _ = trained(tmp_path, small[1])
    content = torch.load(path)
    del content["model"]["head.network.semantic_scale.weight"]
    torch.save(content, tmp_path / "incomplete.pth")
    with pytest.raises(ValueError, match=r"incomplete.pth: .*1 tensors missing \(head.network.semantic_scale.weight\)"):
        to_published(tmp_path / "incomplete.pth", METHOD)
    with pytest.raises(ValueError, match="published.pth: expected a checkpoint with config, metadata and model"):
        to_published(small[0] / "published.pth", METHOD)


def test_a_network_that_is_not_published_has_no_published_form(tmp_path):
    cfg = shrunk_config(CONFIGS / "point2mask/demo.yaml", scenes(tmp_path, count=1), tmp_path)
    (tmp_path / "demo.yaml").write_text(cfg.dump())
    model = small_model(tmp_path, tmp_path / "demo.yaml", 4, 2)
    Checkpointer(model, str(tmp_path), description=describe_run(cfg)).save("demo")
    with pytest.raises(ValueError, match="demo.pth: expected parameters of the Point2Mask network, found 'backbone"):
        to_published(tmp_path / "demo.pth", METHOD)
