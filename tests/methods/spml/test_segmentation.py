"""What both stages predict: the classes of the data set, by classifier or retrieval; pseudo labels of every method."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods.spml.small_runs import BACKGROUND, model_of, sample_of, small_data

from weakseg.methods.spml.prediction import make_prototypes

ORDERED = {True: (4, 0, 1, 2, 3, 5), False: (0, 1, 2, 3, 4, 5)}
"""House index of each class in SPML's order, with a background and without."""
METHODS = {
    "classifier_walk": ("classifier", "labels"),
    "cam_walk": ("cams",),
    "classifier_only": ("classifier", "labels"),
    "nearest_segments": ("memory", "labels"),
    "densepose_walk": ("labels", "region"),
}


@pytest.fixture(scope="module", params=[True, False], ids=["background", "no background"])
def data(request, tmp_path_factory):
    """Whether there is a background, and the label file."""
    return request.param, small_data(tmp_path_factory.mktemp("data"), background=request.param)


def test_the_classes_of_a_prediction_are_those_of_the_data_set(data, tmp_path):
    has_background, label_file = data
    model = model_of(label_file, tmp_path).eval()
    sample = sample_of((40, 36))
    sample |= {"height": 20, "width": 18}
    for ordered, house in enumerate(ORDERED[has_background]):
        with torch.no_grad():
            model.head.network.classifier.predict.bias.zero_()[ordered] = 1e6
        (result,) = model([sample])
        assert result["sem_seg"].shape == (20, 18) and (result["sem_seg"] == house).all()


def write_memory(folder, labels, channels=8):
    vectors = F.normalize(torch.randn(len(labels), channels, generator=torch.Generator().manual_seed(3)), dim=1)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "memory.npz", prototype=vectors.numpy(), prototype_label=np.array(labels))
    return vectors, torch.tensor(labels)


@pytest.mark.parametrize("method", METHODS)
def test_pseudo_labels_of_every_method(data, tmp_path, method):
    has_background, label_file = data
    memory = write_memory(tmp_path / "memory", [0, 1, 3, 4, 1, 3])
    model = model_of(
        label_file,
        tmp_path,
        MODEL__SPML__PSEUDO__METHOD=method,
        MODEL__SPML__TEST__MEMORY=str(tmp_path / "memory"),
    ).eval()
    generator = np.random.default_rng(1)
    cams = generator.random((40, 36, 6 - has_background), dtype=np.float32)
    samples = [sample_of((40, 36), 0, regions=generator.integers(0, 4, (40, 36), dtype=np.uint8), cams=cams)]
    samples.append(sample_of((33, 50), 1, cams=cams[:33, :, :2].repeat(2, axis=1)[:, :50]))
    results = model.pseudo_labels(samples)
    assert len(results) == 2
    for sample, result in zip(samples, results):
        evidence, size = sample["evidence"], sample["image"].shape[1:]
        image = (sample["image"] - model.pixel_mean) / model.pixel_std
        padded_cams = np.zeros((*size, 6 - has_background), np.float32)
        padded_cams[:, :, : evidence["cams"].shape[2]] = evidence["cams"]
        labels = torch.from_numpy(evidence["label_map"]).long()
        known = {
            "classifier": model.head.network.classifier,
            "labels": labels,
            "cams": torch.from_numpy(padded_cams).permute(2, 0, 1),
            "memory": memory,
            "region": torch.from_numpy(evidence.get("regions", np.zeros(size, np.uint8))).long(),
        }
        grow = getattr(model.head.labeller, method)
        with torch.no_grad():
            found = grow(image, embed_with(model), **{name: known[name] for name in METHODS[method]})
        house = torch.full((256,), 255)
        house[:6] = torch.tensor(ORDERED[has_background])
        assert result.keys() == {"sem_seg"} and result["sem_seg"].shape == size
        assert torch.equal(result["sem_seg"], house[found])
        if method not in ("cam_walk", "densepose_walk"):
            allowed = {ORDERED[has_background][k] for k in (1, 3)}
            assert set(result["sem_seg"].unique().tolist()) <= allowed


def embed_with(model):
    return lambda images: model.head.network(model.backbone(images)["res5"])


def test_a_class_activation_map_is_that_of_its_class(data, tmp_path):
    has_background, label_file = data
    model = model_of(label_file, tmp_path, MODEL__SPML__PSEUDO__METHOD="cam_walk").eval()
    others = [house for house in range(6) if not (has_background and house == BACKGROUND)]
    for number, house in enumerate(others):
        cams = np.zeros((24, 32, len(others)), np.float32)
        cams[:, :, number] = 1.0
        (result,) = model.pseudo_labels([sample_of((24, 32), cams=cams)])
        assert (result["sem_seg"] == house).all()
    # Where no class is active is background, if there is one.
    (result,) = model.pseudo_labels([sample_of((24, 32), cams=np.zeros((24, 32, len(others)), np.float32))])
    if has_background:
        assert (result["sem_seg"] == BACKGROUND).all()
    else:
        assert (result["sem_seg"] < 6).all() or (result["sem_seg"] == 255).all()


def test_prototypes_are_segments_with_the_labels_of_the_map(data, tmp_path):
    model = model_of(
        data[1], tmp_path, MODEL__SPML__PSEUDO__METHOD="prototypes", MODEL__SPML__PSEUDO__SCALES=(0.5, 1.25)
    ).eval()
    sample = sample_of((40, 36))
    (result,) = model.pseudo_labels([sample])
    assert result.keys() == {"prototypes"}
    image = (sample["image"] - model.pixel_mean) / model.pixel_std
    vectors, labels = make_prototypes(
        image,
        embed_with(model),
        torch.from_numpy(sample["evidence"]["label_map"]),
        scales=(0.5, 1.25),
        tiling=model.head.predictor.tiling,
        kmeans_grid=(3, 3),
        kmeans_iterations=10,
    )
    assert torch.equal(result["prototypes"]["prototype"], vectors) and len(vectors) > 2
    assert torch.equal(result["prototypes"]["prototype_label"], labels)


def test_retrieval_predicts_the_classes_of_the_memory(data, tmp_path):
    has_background, label_file = data
    for ordered, house in enumerate(ORDERED[has_background]):
        folder = tmp_path / f"memory{ordered}"
        write_memory(folder, [ordered] * 5 + [254] * 9 + [255])
        model = model_of(
            label_file,
            tmp_path,
            MODEL__SPML__TEST__PREDICTOR="retrieval",
            MODEL__SPML__TEST__MEMORY=str(folder),
        ).eval()
        (first,) = model([sample_of((40, 36))])
        # Nothing that may not vote is kept.
        assert model.head._memory[1].tolist() == [ordered] * 5 and len(model.head._memory[0]) == 5
        assert (first["sem_seg"] == house).all() and first["sem_seg"].shape == (40, 36)
        # It is read once.
        shutil.rmtree(folder)
        assert (model([sample_of((30, 36))])[0]["sem_seg"] == house).all()


RETRIEVAL = {"MODEL__SPML__TEST__PREDICTOR": "retrieval"}
NEAREST = {"MODEL__SPML__PSEUDO__METHOD": "nearest_segments"}


@pytest.mark.parametrize("changes", [RETRIEVAL, NEAREST])
def test_a_memory_of_another_embedding_is_refused(data, tmp_path, changes):
    write_memory(tmp_path / "memory", [0, 1], channels=7)
    model = model_of(data[1], tmp_path, MODEL__SPML__TEST__MEMORY=str(tmp_path / "memory"), **changes).eval()
    work = model if changes is RETRIEVAL else model.pseudo_labels
    with pytest.raises(ValueError, match="memory: expected prototypes of length 8, MODEL.SPML.EMBEDDING_DIM; found 7"):
        work([sample_of((40, 36))])


def test_nearest_segments_without_a_memory_are_refused_before_any_work(data, tmp_path, monkeypatch):
    write_memory(tmp_path, [0, 1])
    monkeypatch.chdir(tmp_path)
    model = model_of(data[1], tmp_path, **NEAREST).eval()
    monkeypatch.setattr(model.backbone, "forward", None)
    with pytest.raises(FileNotFoundError, match="MODEL.SPML.TEST.MEMORY: expected .*found none in ''"):
        model.pseudo_labels([sample_of((40, 36))])


@pytest.mark.parametrize("divisor", [0, 7, 16])
def test_every_tile_is_as_the_backbone_wants_it(data, tmp_path, monkeypatch, divisor):
    """Whatever the backbone is called and whatever the stride of its map."""
    write_memory(tmp_path / "memory", [0, 1])
    memory = {"MODEL__SPML__TEST__MEMORY": str(tmp_path / "memory")}
    tiles = {"MODEL__SPML__TEST__CROP_SIZE": 50, "MODEL__SPML__TEST__STRIDE": 20}
    model = model_of(data[1], tmp_path, **RETRIEVAL, **memory, **tiles).eval()
    monkeypatch.setattr(type(model.backbone), "size_divisibility", divisor)
    sizes, forward = [], model.backbone.forward

    def recorded(images):
        sizes.extend(images.shape[-2:])
        return forward(images)

    monkeypatch.setattr(model.backbone, "forward", recorded)
    sample = sample_of((40, 36), cams=np.zeros((40, 36, 5), np.float32))
    expected = {0: 50, 7: 56, 16: 64}[divisor]
    model([sample])
    for method in ("prototypes", "classifier_walk", "densepose_walk", "nearest_segments"):
        model.head.pseudo_method = method
        assert set(sizes) == {expected} and len(sizes) > 1
        sizes.clear()
        model.pseudo_labels([sample])
    assert set(sizes) == {expected}
    assert model.head.by_retrieval
    model.head.by_retrieval = False
    sizes.clear()
    model([sample])
    assert set(sizes) == {expected}
