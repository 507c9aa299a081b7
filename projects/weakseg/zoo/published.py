"""Files that others publish and that WeakSeg reads: what each is, and where its authors publish it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class PublishedFile(NamedTuple):
    """The three parts of a hint: what the file is, where its authors publish it, and how it comes to `{path}`."""

    what: str
    where: str
    place: str = "put it at {path}"


_TIMM_MOBILENET = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/mobilenetv2_100_ra-b33bc2c4.pth"
)


POINT2MASK = "the tables of https://github.com/LiWentomng/Point2Mask (they link a file-sharing drive)"
SPML = "the tables of https://github.com/twke18/SPML (archives at https://huggingface.co/twke/SPML)"
"""Where the authors of a method publish its checkpoints."""


def _torchvision(what: str, name: str) -> PublishedFile:
    return PublishedFile(what, f"https://download.pytorch.org/models/{name}")


def _point2mask(config: str) -> PublishedFile:
    return PublishedFile(
        f"the converted checkpoint of Point2Mask for configs/point2mask/{config}.yaml",
        POINT2MASK,
        "convert it with `python tools/convert_checkpoint.py --method point2mask --config-file "
        f"configs/point2mask/{config}.yaml DOWNLOADED {{path}}`",
    )


def _spml(row: str, archive: str) -> PublishedFile:
    return PublishedFile(
        f"the converted checkpoint of SPML for configs/spml/{row}_classifier.yaml",
        f"https://huggingface.co/twke/SPML/blob/main/{archive} (as https://github.com/twke18/SPML links it)",
        "unpack it, then convert the model with `python tools/convert_checkpoint.py --method spml --config-file "
        f"configs/spml/{row}_classifier.yaml UNPACKED {{path}}`",
    )


_POINT2MASK_ROWS = (
    *("voc_r50", "voc_r101", "voc_swinl", "coco_r50", "coco_r101", "coco_swinl"),
    *("voc_r50_from_coco", "voc_r101_from_coco", "voc_swinl_from_coco"),
    *("voc_r50_p10", "voc_r101_p10", "coco_r50_p10", "coco_r101_p10"),
)
_SPML_ARCHIVES = {
    "voc_tag": "voc12_tag.zip",
    "voc_box": "voc12_box.zip",
    "voc_scribble": "voc12_scribble.zip",
    "voc_point": "voc12_point.zip",
    "densepose_point": "densepose_point.zip",
}
"""Of the rows of the published tables, in their order."""

PUBLISHED = {
    "resnet50-11ad3fa6.pth": _torchvision(
        "torchvision's ResNet-50 of ImageNet (ResNet50_Weights.IMAGENET1K_V2)", "resnet50-11ad3fa6.pth"
    ),
    # In no list of torchvision's ResNet101_Weights: V1 is resnet101-63fe2227, V2 resnet101-cd907fc2.
    "resnet101-b641f3a9.pth": _torchvision(
        "the ResNet-101 of ImageNet that the release of Point2Mask names, from torchvision's server though not in its "
        "list of weights (IMAGENET1K_V2 there is resnet101-cd907fc2.pth)",
        "resnet101-b641f3a9.pth",
    ),
    "resnet101-cd907fc2.pth": _torchvision(
        "torchvision's ResNet-101 of ImageNet (ResNet101_Weights.IMAGENET1K_V2)", "resnet101-cd907fc2.pth"
    ),
    "resnet-101-cuhk.pth": PublishedFile(
        "the ResNet-101 of ImageNet with a deep stem that SPML and EMANet start from",
        "https://huggingface.co/twke/SPML/blob/main/resnet-101-cuhk.pth",
    ),
    "swin_large_patch4_window12_384_22k.pth": PublishedFile(
        "Microsoft's Swin-L of ImageNet-22K (window 12, 384 x 384)",
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window12_384_22k.pth",
    ),
    "mobilenetv2_100_ra-b33bc2c4.pth": PublishedFile(
        "timm's MobileNetV2 of ImageNet (mobilenetv2_100.ra_in1k)", _TIMM_MOBILENET
    ),
    "mobilenetv2_100_imagenet_fp16.safetensors": PublishedFile(
        "a MobileNetV2 of ImageNet made from a file of google-coral/edgetpu, for which timm's may stand in",
        _TIMM_MOBILENET,
        "name it in MODEL.BACKBONE.WEIGHTS, with MODEL.PIXEL_MEAN and MODEL.PIXEL_STD as models/README.md says",
    ),
    "model.yml.gz": PublishedFile(
        "the random forest of OpenCV's structured edge detection (ximgproc)",
        "https://github.com/opencv/opencv_extra/raw/master/testdata/cv/ximgproc/model.yml.gz",
    ),
    "network-bsds500.pth": PublishedFile(
        "the edge network HED of BSDS500, as the port github.com/sniklaus/pytorch-hed publishes it",
        "http://content.sniklaus.com/github/pytorch-hed/network-bsds500.pytorch",
    ),
    **{f"point2mask_{config}.pth": _point2mask(config) for config in _POINT2MASK_ROWS},
    **{f"spml_{row}.pth": _spml(row, archive) for row, archive in _SPML_ARCHIVES.items()},
}
"""File name -> what it is. Configs expect each at models/<name>, relative to the folder a command is started in."""


def hint(path: str | Path) -> str:
    """One sentence: what the file at `path` is, where its authors publish it and what to do with it. "" where nothing
    is known of a file of this name."""
    path = Path(path)
    file = PUBLISHED.get(path.name)
    if file is None:
        return ""
    return f"{path.name} is {file.what}: get it from {file.where} and {file.place.format(path=path)}."
