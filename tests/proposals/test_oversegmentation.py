"""Regions of an edge map: merged as a slow loop and a library merge them, on real objects, and read as evidence."""

import pickle

import numpy as np
import pytest
from detectron2.config import CfgNode
from scipy.ndimage import gaussian_filter, label
from skimage.segmentation import watershed

from hostile import refused
from weakseg.proposals import oversegmentation
from weakseg.proposals.edge_maps import gradient_edges
from weakseg.proposals.map_folder import declare_provenance
from weakseg.proposals.oversegmentation import FULL_AREA, RegionMaps, merge_weakest, oversegment, regions
from weakseg.safe_io import read_image, read_label_png, write_png


def slow_merge(basins, edges, threshold, max_regions, full_area=FULL_AREA):
    """Every boundary measured anew after every merge."""
    merged = basins.copy()
    height, width = basins.shape
    neighbours = [((y, x), (y, x + 1)) for y in range(height) for x in range(width - 1)]
    neighbours += [((y, x), (y + 1, x)) for y in range(height - 1) for x in range(width)]
    while True:
        along = {}
        for a, b in neighbours:
            if merged[a] != merged[b]:
                pair = tuple(sorted((merged[a], merged[b])))
                along.setdefault(pair, []).append(max(edges[a], edges[b]))
        strengths = {}
        for (i, j), values in along.items():
            smaller = min((merged == i).sum(), (merged == j).sum()) / merged.size
            strengths[i, j] = np.mean(values) * min(1, np.sqrt(smaller / full_area))
        if not strengths:
            return merged
        weakest = min(strengths, key=strengths.get)
        if strengths[weakest] >= threshold and len(np.unique(merged)) <= max_regions:
            return merged
        merged[merged == weakest[1]] = weakest[0]


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def smooth_edges(seed, size=(24, 30)):
    """Numbers in [0, 1] with many basins, none of them equal."""
    noise = gaussian_filter(np.random.default_rng(seed).random(size), 0.7)
    return (noise - noise.min()) / np.ptp(noise)


@pytest.mark.parametrize("seed, threshold, max_regions", [(0, 0.3, 256), (1, 0.0, 7), (2, 0.45, 20), (3, 0.5, 256)])
def test_as_a_slow_loop_merges(seed, threshold, max_regions):
    edges = smooth_edges(seed)
    basins = watershed(edges) - 1
    assert basins.max() > 30
    parent = merge_weakest(basins, edges, threshold=threshold, max_regions=max_regions)
    expected = slow_merge(basins, edges, threshold, max_regions)
    assert 1 < len(np.unique(expected)) < basins.max()
    assert same_partition(parent[basins], expected)


def test_as_a_library_merges(monkeypatch):
    """higra's binary partition tree with average linkage; without our weight for small regions."""
    hg = pytest.importorskip("higra")
    monkeypatch.setattr(oversegmentation, "FULL_AREA", 1e-12)
    edges = smooth_edges(5, (40, 50))
    basins = watershed(edges) - 1
    graph = hg.get_4_adjacency_graph(edges.shape)
    weights = np.maximum(edges.ravel()[graph.edge_list()[0]], edges.ravel()[graph.edge_list()[1]])
    adjacency = hg.make_region_adjacency_graph_from_labelisation(graph, basins.astype(np.int64))
    mean = hg.rag_accumulate_on_edges(adjacency, hg.Accumulators.mean, weights)
    length = hg.rag_accumulate_on_edges(adjacency, hg.Accumulators.counter, weights)
    tree, _ = hg.binary_partition_tree_average_linkage(adjacency, mean, length)
    parents = tree.parents()
    for count in (2, 10, 40):
        # Inner nodes are numbered in the order of the merges: the cut is below the last count - 1 of them.
        top, nodes = tree.num_vertices() - (count - 1), np.arange(tree.num_leaves())
        while (parents[nodes] < top).any():
            nodes = np.where(parents[nodes] < top, parents[nodes], nodes)
        expected = hg.rag_back_project_vertex_weights(adjacency, nodes).reshape(edges.shape)
        parent = merge_weakest(basins, edges, threshold=0, max_regions=count)
        assert len(np.unique(parent)) == count
        assert same_partition(parent[basins], expected)


def test_two_halves_and_a_weak_wall():
    edges = np.zeros((20, 30), np.float32)
    edges[:, 15] = 0.8
    edges[10, :15] = 0.2
    found = oversegment(edges, threshold=0.1)
    assert found.dtype == np.uint8 and found.max() == 2
    assert (found[:9, :14] == 0).all() and (found[:, 17:] == 1).all() and (found[12:, :14] == 2).all()
    assert oversegment(edges, threshold=0.3).max() == 1 and oversegment(edges, threshold=0.9).max() == 0
    assert oversegment(edges, threshold=0.1, max_regions=2).max() == 1
    np.testing.assert_array_equal(oversegment(edges, threshold=0.1, max_regions=2)[:, 17:], 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_small_and_flat_maps(size):
    assert (oversegment(np.zeros(size, np.float32), threshold=0.1) == 0).all()
    assert oversegment(np.random.default_rng(0).random(size).astype(np.float32), threshold=0).shape == size


def test_regions_are_at_most_256_connected_and_in_order():
    edges = smooth_edges(0, (100, 120))
    assert watershed(edges).max() > 300
    found = oversegment(edges, threshold=0)
    assert found.max() == 255
    assert [label(found == k)[1] for k in range(256)] == [1] * 256
    firsts = [np.flatnonzero(found == k)[0] for k in range(256)]
    assert firsts == sorted(firsts)
    refused("1 to 256 regions at most; found 257", oversegment, edges, threshold=0, max_regions=257)
    refused("found 0", oversegment, edges, threshold=0, max_regions=0)


def test_regions_respect_the_borders_of_real_objects(data_dir):
    """Each region given the class of most of its pixels in the truth: 97 % of all pixels are right."""
    for photo in ("2007_000720", "2007_002088", "2007_003110"):
        truth = read_label_png(data_dir / f"voc/SegmentationClass/{photo}.png")
        found = oversegment(gradient_edges(read_image(data_dir / f"voc/JPEGImages/{photo}.jpg")), threshold=0.1)
        known = truth != 255
        votes = np.zeros((256, 256), int)
        np.add.at(votes, (found[known], truth[known]), 1)
        assert votes.max(axis=1).sum() / known.sum() > 0.97, photo


@pytest.fixture
def folder(tmp_path):
    write_png(tmp_path / "regions/a.png", np.arange(12, dtype=np.uint8).reshape(3, 4) + 244)
    return tmp_path / "regions"


RECORD = {"file_name": "photos/a.jpg", "image_id": 1, "height": 3, "width": 4}


def test_the_evidence(folder):
    loader = regions(CfgNode({"INPUT": CfgNode({"REGION_ROOT": str(folder)})}))
    found = pickle.loads(pickle.dumps(loader))(RECORD)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.arange(12).reshape(3, 4) + 244)
    assert loader.provenance == f"region maps in {folder}, made by something that nothing there names"
    declare_provenance(folder, "hand", what="region maps")
    assert RegionMaps(folder).provenance == f"region maps in {folder}, made by hand"


def test_a_palette_gives_indices(folder):
    write_png(folder / "a.png", np.full((3, 4), 7, np.uint8), palette=np.full((256, 3), 200, np.uint8))
    assert (RegionMaps(folder)(RECORD) == 7).all()


def test_what_is_missing_or_wrong_is_named(folder):
    for root in ("", folder / "none"):
        with pytest.raises(FileNotFoundError, match="INPUT.REGION_ROOT: expected a folder.*make_oversegmentation"):
            RegionMaps(root)
    loader = RegionMaps(folder)
    with pytest.raises(FileNotFoundError, match=r"b\.png: expected the region map of photos/b\.jpg; found none"):
        loader({**RECORD, "file_name": "photos/b.jpg"})
    refused(r"a\.png: expected an 8-bit map.* of 5 x 3 pixels; found uint8", loader, {**RECORD, "width": 5})
    write_png(folder / "a.png", np.zeros((3, 4, 3), np.uint8))
    refused(r"found uint8 of shape \(3, 4, 3\)", loader, RECORD)
