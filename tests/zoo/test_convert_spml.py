"""Published SPML checkpoints become files that predict alone, and come back bit by bit, whatever the stage."""

import numpy as np
import pytest
import torch

from tiny import classes_only
from weakseg.data.convert.densepose import PARTS
from weakseg.data.convert.voc import THINGS
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.defaults import load_config
from weakseg.inference import WeakPredictor
from weakseg.weights import without_extra_state
from weakseg.zoo.convert import default_config, from_published, read_published, to_published
from zoo.small_published import published_content as point2mask_content
from zoo.small_published import small_config as point2mask_config
from zoo.small_published import small_model as point2mask_model
from zoo.small_spml import DENSEPOSE, STAGES, VOC, published_content, small_config, small_model

METHOD = "spml"


@pytest.fixture(scope="module", params=[(VOC, 21), (DENSEPOSE, 15)], ids=["voc", "densepose"])
def small(request, tmp_path_factory):
    """A folder with a published file `published.pth`, its config file for each stage, model and content."""
    data, num_classes = request.param
    folder = tmp_path_factory.mktemp("published")
    config_files = {stage: small_config(folder, stage, data) for stage in STAGES}
    model = small_model(folder, config_files["SPMLHead"], num_classes)
    content = published_content(model)
    torch.save(content, folder / "published.pth")
    return folder, config_files, model, content


def convert(path, config_file):
    return from_published(read_published(path, METHOD), METHOD, load_config(config_file))


def saved(folder, content):
    torch.save(content, folder / "changed.pth")
    return folder / "changed.pth"


@pytest.mark.parametrize("stage", STAGES)
def test_there_and_back_is_bit_equal(small, tmp_path, stage):
    folder, config_files, model, content = small
    ours = convert(folder / "published.pth", config_files[stage])
    expected = without_extra_state(model.state_dict())
    assert ours["model"].keys() == expected.keys() and len(expected) < len(model.state_dict())
    assert all(torch.equal(ours["model"][name], value) for name, value in expected.items())

    torch.save(ours, tmp_path / "ours.pth")
    back = to_published(tmp_path / "ours.pth", METHOD)
    assert list(back) == ["embedding_model", "prediction_model"]
    for part, tensors in content.items():
        assert back[part].keys() == tensors.keys()
        for name, value in tensors.items():
            assert back[part][name].dtype == value.dtype and torch.equal(back[part][name], value), name


@pytest.mark.parametrize("stage", STAGES)
def test_the_file_alone_predicts_what_the_published_model_does(small, tmp_path, stage):
    folder, config_files, model, _ = small
    torch.save(convert(folder / "published.pth", config_files[stage]), tmp_path / "ours.pth")
    predictor = WeakPredictor.from_checkpoint(tmp_path / "ours.pth", device="cpu", opts=["INPUT.MIN_SIZE_TEST", "0"])
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image[:20] //= 8
    sample = {"image": torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy()), "height": 40, "width": 56}
    with torch.no_grad():
        (expected,) = model([sample])
    num_classes = len(predictor.metadata.stuff_classes)
    # Class 0 of the file is the background, which comes last here; the model itself has no class of that name.
    assert torch.equal(predictor(image)["sem_seg"], (expected["sem_seg"] - 1) % num_classes)
    assert len(expected["sem_seg"].unique()) > 1


def test_classes_are_those_of_the_data_set_without_its_files(small):
    folder, config_files, _, _ = small
    classes = convert(folder / "published.pth", config_files["SPMLClassifierHead"])["metadata"]
    names = THINGS if len(classes["stuff_classes"]) == 21 else PARTS
    assert classes["stuff_classes"] == [*names, "background"]
    assert classes["thing_classes"] == classes["thing_colors"] == []
    assert classes["stuff_colors"][0] == [128, 0, 0] and classes["stuff_colors"][-1] == [0, 0, 0]


def test_prefixes_of_parallel_training_and_other_entries_are_left_out(small, tmp_path):
    folder, config_files, model, content = small
    prefixed = {part: {f"module.{name}": value for name, value in tensors.items()} for part, tensors in content.items()}
    path = saved(tmp_path, prefixed | {"optimizer": {"state": {}}, "iteration": 3999})
    ours = convert(path, config_files["SPMLHead"])["model"]
    assert all(torch.equal(ours[name], value) for name, value in without_extra_state(model.state_dict()).items())


@pytest.mark.parametrize("part", ["embedding_model", "prediction_model"])
def test_a_changed_key_is_refused(small, tmp_path, part):
    _, config_files, _, content = small
    tensors = dict(content[part])
    name = list(tensors)[-1]
    tensors["head.weight"] = tensors.pop(name)
    path = saved(tmp_path, content | {part: tensors})
    with pytest.raises(
        ValueError, match=rf"changed.pth: .* found 1 missing \({part}.{name}\), 1 too many \({part}.head.weight\)"
    ):
        convert(path, config_files["SPMLHead"])


@pytest.mark.parametrize(
    "content",
    [
        {"embedding_model": {"a": torch.ones(1)}},
        {"embedding_model": {"a": torch.ones(1)}, "prediction_model": [1]},
        {"embedding_model": {3: torch.ones(1)}, "prediction_model": {}},
        {"a": torch.ones(1)},
        {"meta": {}, "state_dict": {}},
    ],
)
def test_a_dict_that_is_no_published_checkpoint_is_refused(tmp_path, content):
    sentence = (
        'changed.pth: expected a published checkpoint of spml, "embedding_model" and "prediction_model"; found .*'
    )
    with pytest.raises(ValueError, match=f"{sentence}Get one from .*github.com/twke18/SPML"):
        read_published(saved(tmp_path, content), METHOD)


def test_the_config_of_a_published_row_is_found(tmp_path):
    def row(num_classes):
        names = ("resnet_backbone.res4.22.conv1.weight", "aspp.aspp_1.0.weight")
        prediction = {"semantic_classifier.4.weight": torch.zeros(num_classes, 128, 1, 1)}
        content = {"embedding_model": dict.fromkeys(names, torch.ones(1)), "prediction_model": prediction}
        return default_config(read_published(saved(tmp_path, content), METHOD), METHOD)

    assert row(21) == "spml/voc_point_classifier.yaml"
    with pytest.raises(ValueError, match="changed.pth: expected .* of a published row; found .*--config-file"):
        row(7)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_that_was_trained_here_gets_the_published_form(tmp_path, stage):
    config_file = small_config(tmp_path, stage, VOC)
    cfg = load_config(config_file)
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "own.json", 3, 2)),)
    model = small_model(tmp_path, config_file, 5)
    Checkpointer(model, str(tmp_path), description=describe_run(cfg)).save("trained")
    published = to_published(tmp_path / "trained.pth", METHOD)
    classifier = model.head.network.classifier
    assert torch.equal(published["prediction_model"]["semantic_classifier.4.bias"], classifier.predict.bias)
    assert sum(map(len, published.values())) == len(without_extra_state(model.state_dict()))


def test_a_checkpoint_of_another_method_has_no_published_form(tmp_path):
    config_file = point2mask_config(tmp_path)
    torch.save(point2mask_content(point2mask_model(tmp_path, config_file)), tmp_path / "published.pth")
    published = read_published(tmp_path / "published.pth", "point2mask")
    torch.save(from_published(published, "point2mask", load_config(config_file)), tmp_path / "ours.pth")
    with pytest.raises(ValueError, match="ours.pth: expected tensors of the SPML network, found 'head.iteration'"):
        to_published(tmp_path / "ours.pth", METHOD)
