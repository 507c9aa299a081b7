"""The table of files that others publish, and the sentence about a missing one."""

import pytest

from tiny import ROOT
from weakseg.zoo.published import PUBLISHED, hint


def test_a_hint_says_what_where_and_where_to_put_it():
    assert hint("models/resnet50-11ad3fa6.pth") == (
        "resnet50-11ad3fa6.pth is torchvision's ResNet-50 of ImageNet (ResNet50_Weights.IMAGENET1K_V2): get it from "
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth and put it at models/resnet50-11ad3fa6.pth."
    )


def test_the_hint_for_a_checkpoint_is_the_command_that_makes_it(tmp_path):
    text = hint(tmp_path / "point2mask_coco_r50.pth")
    assert "https://github.com/LiWentomng/Point2Mask" in text
    assert text.endswith(
        "convert it with `python tools/convert_checkpoint.py --method point2mask --config-file "
        f"configs/point2mask/coco_r50.yaml DOWNLOADED {tmp_path}/point2mask_coco_r50.pth`."
    )


@pytest.mark.parametrize("path", ["", "models/mine.pth", "resnet50-11ad3fa6.pth/model.bin", "models"])
def test_nothing_is_said_of_other_files(path):
    assert hint(path) == ""


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_hint_is_one_sentence_with_an_address(name):
    text = hint(f"models/{name}")
    assert text.startswith(f"{name} is ") and text.endswith(".") and "\n" not in text and ". " not in text
    assert "http" in text and "{" not in text


def test_the_readme_lists_every_checkpoint_with_its_config_and_command():
    text = (ROOT / "models/README.md").read_text()
    names = [name for name in PUBLISHED if name.startswith("point2mask_")]
    assert len(names) == 13
    for name in names:
        config = name.removeprefix("point2mask_").replace(".pth", ".yaml")
        assert (ROOT / "configs/point2mask" / config).is_file()
        assert f"| `{config}` | `{name}` |" in text
        command = "python tools/convert_checkpoint.py --method point2mask --config-file"
        assert f"{command} configs/point2mask/{config} DOWNLOADED.pth models/{name}\n" in text


def test_the_hint_for_an_spml_row_names_its_archive():
    assert hint("models/spml_voc_box.pth") == (
        "spml_voc_box.pth is the converted checkpoint of SPML for configs/spml/voc_box_classifier.yaml: get it from "
        "https://huggingface.co/twke/SPML/blob/main/voc12_box.zip (as https://github.com/twke18/SPML links it) and "
        "unpack it, then convert the model with `python tools/convert_checkpoint.py --method spml --config-file "
        "configs/spml/voc_box_classifier.yaml UNPACKED models/spml_voc_box.pth`."
    )


@pytest.mark.parametrize("name", ["resnet-101-cuhk.pth", "resnet50-11ad3fa6.pth"])
def test_the_readme_lists_the_backbones(name):
    line = next(row for row in (ROOT / "models/README.md").read_text().splitlines() if row.startswith(f"| `{name}`"))
    assert f"<{PUBLISHED[name].where}>" in line


def test_the_readme_lists_every_spml_checkpoint_with_its_archive_config_and_command():
    """Figures and archives: SPML card, section 1."""
    text = (ROOT / "models/README.md").read_text()
    rows = {
        "voc_tag": ("69.5 / 71.6", "voc12_tag.zip"),
        "voc_box": ("73.5 / 74.7", "voc12_box.zip"),
        "voc_scribble": ("76.1 / 76.4", "voc12_scribble.zip"),
        "voc_point": ("73.2 / 74.0", "voc12_point.zip"),
        "densepose_point": ("44.15 / -", "densepose_point.zip"),
    }
    assert [name for name in PUBLISHED if name.startswith("spml_")] == [f"spml_{row}.pth" for row in rows]
    for row, (figures, archive) in rows.items():
        config, file = f"{row}_classifier.yaml", f"spml_{row}.pth"
        assert (ROOT / "configs/spml" / config).is_file()
        assert f"| {figures} | `{archive}` | `{config}` | `{file}` |" in text
        assert archive in PUBLISHED[file].where
        command = f"python tools/convert_checkpoint.py --method spml --config-file configs/spml/{config}"
        assert f"    {command} UNPACKED.pth models/{file}\n" in text
