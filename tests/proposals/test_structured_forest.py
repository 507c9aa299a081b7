"""The file of a forest: read once, kept beside itself, and refused in one sentence where it is damaged."""

import gzip
import logging
import os
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from hostile import refused
from proposals.forests import OPTIONS, random_forest
from weakseg.proposals import structured_forest as module
from weakseg.proposals.structured_forest import read_forest, write_forest

ARRAYS = ("children", "feature_ids", "thresholds", "edge_boundaries", "edge_bins")
FOREST = """%YAML:1.0

options:
    numberOfTrees: 2
    numberOfTreesToEvaluate: 1
    selfsimilarityGridSize: 3
    stride: 2
    shrinkNumber: 2
    patchSize: 16
    patchInnerSize: 8
    numberOfGradientOrientations: 4
    gradientSmoothingRadius: 0
    regFeatureSmoothingRadius: 2
    ssFeatureSmoothingRadius: 8
    gradientNormalizationRadius: 4

childs:
    - [2,4,0,0,0]
    - [4,0,0,0,0]

featureIds:
    - [831,832,0,0,0]
    - [1299,0,0,0,0]

thresholds:
    - [2.500000e-01,-1,0,0,0]
    - [7.5e-3,0,0,0,0]

edgeBoundaries:
    - [0,0,0,1,3]
    - [3,3,3,3,3,4]

edgeBins:
    - [63,0]
    - [831,5]

"""
"""A forest by hand in the layout of the published converter: 832 features are single values, 468 are differences."""


def written(tmp_path, text: str = FOREST, name: str = "model.yml.gz"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    return path


def same(forest, expected) -> None:
    assert forest.options == expected.options
    for name in ARRAYS:
        read, array = getattr(forest, name), getattr(expected, name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def age(path, seconds: float) -> None:
    stat = path.stat()
    os.utime(path, (stat.st_atime, stat.st_mtime + seconds))


def test_a_forest_by_hand(tmp_path):
    forest = read_forest(written(tmp_path))
    assert list(asdict(forest.options).values()) == [2, 2, 16, 8, 4, 0, 2, 8, 4, 3, 2, 1]
    assert (forest.options.channels, forest.options.cells, forest.options.cell_pairs) == (13, 8, 36)
    assert forest.options.patch_features == 832
    assert forest.children.tolist() == [[2, 4, 0, 0, 0], [4, 0, 0, 0, 0]]
    assert forest.feature_ids.tolist() == [[831, 832, 0, 0, 0], [1299, 0, 0, 0, 0]]
    assert forest.thresholds.tolist() == [[0.25, -1, 0, 0, 0], [np.float32(7.5e-3), 0, 0, 0, 0]]
    assert forest.edge_boundaries.tolist() == [0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 4]
    assert forest.edge_bins.tolist() == [63, 0, 831, 5]


def test_what_is_written_is_read_and_travels_to_workers(tmp_path):
    forest = random_forest(OPTIONS, depth=3)
    write_forest(tmp_path / "a.yml.gz", forest)
    same(read_forest(tmp_path / "a.yml.gz"), forest)
    same(pickle.loads(pickle.dumps(forest)), forest)
    without_votes = replace(forest, edge_boundaries=0 * forest.edge_boundaries, edge_bins=forest.edge_bins[:0])
    write_forest(tmp_path / "b.yml.gz", without_votes)
    same(read_forest(tmp_path / "b.yml.gz"), without_votes)


def test_more_boundaries_than_needed_are_left_out(tmp_path):
    forest = read_forest(written(tmp_path, FOREST.replace("3,3,4]", "3,3,4,900,7]")))
    assert forest.edge_boundaries.tolist() == [0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 4]


def test_the_file_is_parsed_once(tmp_path, monkeypatch):
    path = written(tmp_path)
    first = read_forest(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.npz", "model.yml.gz"]
    monkeypatch.setattr(module, "read_yml_gz", None)
    same(read_forest(path), first)


@pytest.mark.parametrize("seconds", [-60, 0, 60])
def test_a_changed_file_is_read_anew(seconds, tmp_path):
    path = written(tmp_path)
    stamp = path.stat()
    read_forest(path)
    text = FOREST.replace("[63,0]", "[35,0]").replace("831,5", "467,5")
    written(tmp_path, text.replace("stride: 2", "stride: 2\n    learned: 20131207" if seconds == 0 else "stride: 2"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    age(path, seconds)  # 0: only the size tells
    assert seconds or path.stat().st_size != stamp.st_size
    for _ in range(2):
        assert read_forest(path).edge_bins.tolist() == [35, 0, 467, 5]


def test_a_kept_copy_older_than_the_file_is_made_anew(tmp_path, monkeypatch):
    path = written(tmp_path)
    read_forest(path)
    age(tmp_path / "model.npz", -3600)
    parsed = []
    monkeypatch.setattr(module, "read_yml_gz", lambda path, read=module.read_yml_gz: parsed.append(path) or read(path))
    read_forest(path)
    read_forest(path)
    assert parsed == [path]


@pytest.mark.parametrize("damage", ["cut", "text", "other arrays", "other forest"])
def test_a_broken_copy_is_made_anew(damage, tmp_path, caplog):
    path, kept = written(tmp_path), tmp_path / "model.npz"
    first = read_forest(path)
    arrays = dict(np.load(kept))
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
    elif damage == "text":
        kept.write_text("hello")
    elif damage == "other arrays":
        np.savez(kept, x=np.zeros(3))
    else:
        np.savez(kept, **{**arrays, "children": arrays["children"] + np.int32(1)})
    with caplog.at_level(logging.WARNING):
        same(read_forest(path), first)
    assert f"{kept} is made anew from {path}" in caplog.text
    np.testing.assert_array_equal(np.load(kept)["children"], first.children)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, caplog):
    path = written(tmp_path)
    (tmp_path / "model.npz").mkdir()  # nothing can be put in its place
    for _ in range(2):
        assert read_forest(path).edge_bins.tolist() == [63, 0, 831, 5]
    assert "is read anew each time" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.npz", "model.yml.gz"]


def test_a_missing_file_is_named_with_its_source(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"model\.yml\.gz: expected a forest.*; found nothing there\. .*get it from"
    ):
        read_forest(tmp_path / "model.yml.gz")
    with pytest.raises(FileNotFoundError, match=r"other\.yml\.gz: .*found nothing there\. Check the path"):
        read_forest(tmp_path / "other.yml.gz")
    refused("found a folder there", read_forest, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("edgeBins:", "bins:", "no node edgeBins"),
        ("    stride: 2\n", "", "the option stride = None, which is no integer"),
        ("stride: 2", "stride: 2.5", "the option stride = 2.5, which is no integer"),
        ("stride: 2", "stride: 0", "the option stride = 0, not in 1..256"),
        ("patchSize: 16", "patchSize: 1000000", "the option patchSize = 1000000, not in 1..256"),
        ("ssFeatureSmoothingRadius: 8", "ssFeatureSmoothingRadius: -1", "ssFeatureSmoothingRadius = -1, not in 0..256"),
        ("patchInnerSize: 8", "patchInnerSize: 18", "an inner patch of 18 that cannot lie in the middle of 16"),
        ("patchInnerSize: 8", "patchInnerSize: 9", "an inner patch of 9 that cannot lie in the middle of 16"),
        ("shrinkNumber: 2", "shrinkNumber: 3", "a patch of 16 pixels that shrinks 3 times"),
        ("numberOfTrees: 2", "numberOfTrees: 3", "childs of 2 trees where the options say 3"),
        ("[2,4,0,0,0]", "[2,4,0,0]", r"childs with sequences of \[4, 5\] entries"),
        ("    - [2,4,0,0,0]\n    - [4,0,0,0,0]", "    [2,4,0,0,0]", "childs with sequences of no entries"),
        ("[831,832,0,0,0]", "[831,832,0,0]", "featureIds with sequences of"),
        ("    - [831,832,0,0,0]\n", "", r"featureIds of shape \(1, 5\) beside childs of shape \(2, 5\)"),
        ("    - [7.5e-3,0,0,0,0]\n", "", r"thresholds of shape \(1, 5\)"),
        ("[2,4,0,0,0]", "[2,5,0,0,0]", "childs that lead back, or beyond the 5 nodes"),
        ("[2,4,0,0,0]", "[2,2,0,0,0]", "childs that lead back, or beyond the 5 nodes"),
        ("[2,4,0,0,0]", "[1,4,0,0,0]", "childs that lead back, or beyond the 5 nodes"),
        ("[2,4,0,0,0]", "[2,-4,0,0,0]", "childs that lead back, or beyond the 5 nodes"),
        ("[2,4,0,0,0]", "[2,4.5,0,0,0]", "childs that are not all integers of 32 bits"),
        ("[2,4,0,0,0]", "[4294967298,4,0,0,0]", "childs that are not all integers of 32 bits"),
        ("[1299,", "[1300,", r"featureIds outside 0\.\.1299"),
        ("[1299,", "[-1,", r"featureIds outside 0\.\.1299"),
        ("7.5e-3", "7.5e300", "thresholds that are not finite"),
        ("7.5e-3", "7.5e999", "thresholds that are not finite"),
        ("7.5e-3", ".Nan", "cannot read it \\(node thresholds: 'Nan' between numbers"),
        ("3,3,4]", "3,4]", "10 edgeBoundaries for 10 nodes, which need one more"),
        ("[0,0,0,1,3]", "[0,0,4,1,3]", "edgeBoundaries that do not rise"),
        ("[0,0,0,1,3]", "[-1,0,0,1,3]", "edgeBoundaries that do not rise"),
        ("3,3,4]", "3,3,5]", "edgeBoundaries that do not rise from 0 to at most the 4 edgeBins"),
        ("[831,5]", "[832,5]", r"edgeBins outside 0\.\.831"),
        ("[831,5]", "[831,-5]", r"edgeBins outside 0\.\.831"),
        ("[831,5]", "[1e99,5]", "edgeBins that are not all integers of 32 bits"),
        ("edgeBins:\n    - [63,0]\n    - [831,5]", "edgeBins:\n    x: 1", "edgeBins that are a mapping"),
        ("childs:\n    - [2,4,0,0,0]\n    - [4,0,0,0,0]", "childs:\n    x: 1", "childs that are a mapping"),
    ],
)
def test_a_damaged_forest_is_refused_in_one_sentence(old, new, reason, tmp_path):
    assert old in FOREST
    path = written(tmp_path, FOREST.replace(old, new, 1))
    message = refused(reason, read_forest, path)
    assert message.startswith(f"{path}: expected ")
    assert list(tmp_path.iterdir()) == [path]


def test_a_truncated_file_is_refused_in_one_sentence(tmp_path):
    path = written(tmp_path)
    packed = path.read_bytes()
    for damaged in (packed[:-1], packed[: len(packed) // 2], gzip.decompress(packed)):
        path.write_bytes(damaged)
        assert str(path) in refused("expected gzipped YAML", read_forest, path)


def test_arrays_of_another_type_are_no_forest():
    forest = random_forest(OPTIONS, depth=1)
    refused("children of type int64, not int32", replace, forest, children=forest.children.astype(np.int64))
