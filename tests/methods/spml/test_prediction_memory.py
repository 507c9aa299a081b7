"""Segments of a view as labelled prototypes, and the memory of prototypes in files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weakseg.inference.tiles import tile_ends
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.prediction import Predictor, Tiling, make_prototypes, read_memory, view_segments
from weakseg.methods.spml.segments import find_segments
from weakseg.methods.spml.views import pad_to, resize_linear, resize_nearest

ONE_TILE = Tiling(crop_size=64, stride=64)
TILES = Tiling(crop_size=20, stride=14)
CLUSTERING = {"grid": (3, 3), "iterations": 4}
KMEANS = {"kmeans_grid": (3, 3), "kmeans_iterations": 4}


def random_image(height=33, width=47, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def colours(images):
    """An embedding of stride 1: the colours."""
    return images


def slanted(images):
    """An embedding that a mirrored image changes, and that knows where a pixel is in its tile."""
    return images + torch.linspace(0, 2, images.shape[-1]) * torch.tensor([1.0, -1.0, 0.5])[:, None, None]


def test_segments_of_a_view_are_those_of_the_mean_of_unit_vectors():
    image = random_image()
    total, cover = torch.zeros(3, 33, 47), torch.zeros(33, 47)
    for bottom in tile_ends(33, 20, 14):
        for right in tile_ends(47, 20, 14):
            window = (..., slice(bottom - 20, bottom), slice(right - 20, right))
            total[window] += F.normalize(slanted(image[window]), dim=0)
            cover[window] += 1
    mean = total / cover
    expected = find_segments(mean[None], local=position_features(33, 47), **CLUSTERING)
    for padded in (False, True):
        found = view_segments(image, slanted, tiling=TILES, padded=padded, **CLUSTERING)
        assert found.segment.equal(expected.segment)
        torch.testing.assert_close(found.embedding, expected.embedding)


def test_padding_takes_no_part_but_may_have_its_share_of_the_grid():
    image = random_image()
    padded = pad_to(image, (64, 64))
    semantic = torch.full((1, 64, 64), 255)
    semantic[:, :33, :47] = 0
    with_padding = find_segments(
        padded[None], local=position_features(64, 64), semantic=semantic, grid=(6, 6), iterations=0
    )
    without = find_segments(image[None], local=position_features(33, 47), grid=(6, 6), iterations=0)
    settings = {"tiling": ONE_TILE, "grid": (6, 6), "iterations": 0}
    found = view_segments(image, colours, padded=True, **settings)
    assert found.segment.equal(with_padding.segment) and len(found.segment) == 33 * 47
    assert view_segments(image, colours, padded=False, **settings).segment.equal(without.segment)
    assert not with_padding.segment.equal(without.segment)


def test_prototypes_are_segments_with_their_most_frequent_label():
    image = random_image(50, 70)
    labels = torch.tensor([1, 254, 255])[image.argmax(0)]
    vectors, found = make_prototypes(image, colours, labels.byte(), tiling=ONE_TILE, image_size=35, **KMEANS)
    view, small = resize_linear(image, (25, 35)), resize_nearest(labels, (25, 35)).flatten()
    segments = view_segments(view, colours, tiling=ONE_TILE, padded=True, **CLUSTERING)
    unit = F.normalize(view, dim=0).flatten(1).T
    assert len(vectors) == len(found) == int(segments.segment.max()) + 1
    for s, (vector, label) in enumerate(zip(vectors, found)):
        mine = segments.segment == s
        torch.testing.assert_close(vector, F.normalize(unit[mine].sum(0), dim=0))
        assert label == torch.bincount(small[mine]).argmax()
    assert set(found.tolist()) == {1, 254, 255}
    assert vectors.dtype == torch.float32 and found.dtype == torch.int64


def test_prototypes_of_scales_come_one_after_another():
    image, labels = random_image(), torch.randint(0, 3, (33, 47), generator=torch.Generator().manual_seed(2))
    found = make_prototypes(image, slanted, labels, tiling=ONE_TILE, scales=(0.5, 1.25), **KMEANS)
    expected = []
    for size in ((16, 23), (41, 58)):
        view = resize_linear(image, size), slanted, resize_nearest(labels, size)
        expected.append(make_prototypes(*view, tiling=ONE_TILE, image_size=max(size), **KMEANS))
    for actual, parts in zip(found, zip(*expected)):
        torch.testing.assert_close(actual, torch.cat(parts))


def save(folder, name, vectors, labels):
    np.savez(folder / name, prototype=np.asarray(vectors, dtype=np.float32), prototype_label=np.asarray(labels))


def test_the_memory_is_read_in_the_order_of_names(tmp_path):
    save(tmp_path, "b.npz", [[1, 0]], [7])
    save(tmp_path, "a10.npz", np.zeros((0, 2)), np.zeros(0, dtype=int))
    save(tmp_path, "a9.npz", [[0, 1], [0.6, 0.8]], np.array([255, 0], dtype=np.uint8))
    (tmp_path / "note.txt").write_text("not a file of prototypes")
    vectors, labels = read_memory(tmp_path)
    torch.testing.assert_close(vectors, torch.tensor([[0, 1], [0.6, 0.8], [1, 0]]))
    assert vectors.dtype == torch.float32 and labels.dtype == torch.int64 and labels.tolist() == [255, 0, 7]


def test_no_folder_is_not_the_working_folder(tmp_path, monkeypatch):
    save(tmp_path, "a.npz", [[1, 0]], [7])
    monkeypatch.chdir(tmp_path)
    assert len(read_memory(".")[0]) == 1
    with pytest.raises(FileNotFoundError, match="MODEL.SPML.TEST.MEMORY: .*found none in ''"):
        read_memory("")


def test_a_usable_memory_is_never_copied():
    vectors, chosen = torch.eye(3), Predictor(num_classes=2, tiling=ONE_TILE)
    memory = vectors, torch.tensor([0, 1, 1])
    assert chosen.usable(memory) is memory
    kept, labels = chosen.usable((vectors, torch.tensor([0, 254, 1])))
    assert kept.equal(vectors[[0, 2]]) and labels.tolist() == [0, 1]
    kept, labels = replace(chosen, official=True).usable((vectors, torch.tensor([255, 254, 1])))
    assert kept.equal(vectors[1:]) and labels.tolist() == [254, 1]


def test_what_is_no_memory_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="MODEL.SPML.TEST.MEMORY: expected a folder with files NAME.npz"):
        read_memory(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="expected a folder with files NAME.npz .*found none in "):
        read_memory(tmp_path)
    save(tmp_path, "a.npz", [[1, 0]], [7])
    for arrays, message in (
        ({"prototype": np.zeros((1, 2))}, "found no prototype_label"),
        ({"vectors": np.zeros((1, 2))}, "found no prototype and no prototype_label"),
        ({"prototype": np.zeros((1, 2)), "prototype_label": np.zeros(2, int)}, r"\(1, 2\) and int64 \(2,\)"),
        ({"prototype": np.zeros(2), "prototype_label": np.zeros(2, int)}, r"prototype \(n, C\) of floats"),
        ({"prototype": np.zeros((1, 2), int), "prototype_label": np.zeros(1, int)}, "found int64"),
        ({"prototype": np.zeros((1, 2)), "prototype_label": np.zeros(1)}, "float64 .* and float64"),
        ({"prototype": np.zeros((1, 2)), "prototype_label": np.array([256])}, "labels 0 to 255; found 256 to 256"),
        ({"prototype": np.zeros((1, 2)), "prototype_label": np.array([-1])}, "found -1 to -1"),
        ({"prototype": np.zeros((1, 3)), "prototype_label": np.zeros(1, int)}, "length 2 as in a.npz; found 3"),
    ):
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(ValueError, match=message) as error:
            read_memory(tmp_path)
        assert "b.npz" in str(error.value)
