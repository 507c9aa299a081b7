"""Numbers in gzipped YAML of OpenCV's FileStorage: every layout in use, and one sentence for everything else."""

import gzip
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import yaml

from hostile import refused
from weakseg.safe_io import read_yml_gz


def written(tmp_path, text: str, header: str = "%YAML:1.0\n---\n"):
    path = tmp_path / "model.yml.gz"
    path.write_bytes(gzip.compress((header + text).encode(), 1))
    return path


def same(read, expected) -> None:
    if isinstance(expected, dict):
        assert read == expected and [type(value) for value in read.values()] == [type(v) for v in expected.values()]
    elif expected and isinstance(expected[0], list):
        assert isinstance(read, list) and [row.tolist() for row in read] == expected
    else:
        assert isinstance(read, np.ndarray) and read.tolist() == expected


LAYOUTS = {
    "flow rows": "a:\n   - [ 1, -2, 3 ]\n   - [ 4 ]\n",
    "flow rows over many lines": "a:\n   - [ 1,\n       -2, 3\n   ]\n   - [\n 4 ]\n",
    "a negative number starts a line": "a:\n   - [ 1,\n   -2, 3 ]\n   - [ 4 ]\n",
    "no spaces, and empty lines": "a:\n    - [1,-2,3]\n\n    - [4]\n\n\n",
    "no indent": "a:\n- [ 1, -2, 3 ]\n- [ 4 ]\n",
    "nested flow": "a: [ [ 1, -2, 3 ], [ 4 ] ]\n",
    "nested flow over many lines": "a:\n  [ [ 1, -2,\n 3 ]\n , [ 4 ]\n ]\n",
    "a comma after the last": "a: [ [ 1, -2, 3, ], [ 4, ] ]\n",
    "nested block": "a:\n   -\n      - 1\n      - -2\n      - 3\n   -\n      - 4\n",
    "compact nested block": "a:\n- - 1\n  - -2\n  - 3\n- - 4\n",
    "no last line end": "a:\n   - [ 1, -2, 3 ]\n   - [ 4 ]",
    "line ends of Windows": "a:\r\n   - [ 1, -2,\r\n 3 ]\r\n   - [ 4 ]\r\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("header", ["%YAML:1.0\n---\n", "%YAML:1.0\n\n", "%YAML 1.2\n---\n"])
def test_sequences_of_sequences(layout, header, tmp_path):
    text = LAYOUTS[layout]
    assert yaml.safe_load(text)["a"] == [[1, -2, 3], [4]]
    read = read_yml_gz(written(tmp_path, text, header))
    same(read["a"], [[1, -2, 3], [4]])
    assert all(row.dtype == np.int64 for row in read["a"]) and list(read) == ["a"]


@pytest.mark.parametrize(
    "text",
    ["a: [ 5, -6.5, 7. ]", "a:\n  - 5\n  - -6.5\n  - 7.\n", "a: [ 5, -6.5,\n  7. ]\n", "a:\n- 5.0\n- -0.65e1\n- 7e0"],
)
def test_one_sequence(text, tmp_path):
    read = read_yml_gz(written(tmp_path, text))
    same(read["a"], [5.0, -6.5, 7.0])
    assert read["a"].dtype == np.float64


def test_numbers_at_both_ends_of_a_sequence_that_starts_with_a_minus(tmp_path):
    same(read_yml_gz(written(tmp_path, "a:\n  - -5\n  - 6\n"))["a"], [-5, 6])
    same(read_yml_gz(written(tmp_path, "a:\n  - -.5\n  - 6\n"))["a"], [-0.5, 6.0])


def test_nodes_keep_their_names_order_and_kinds(tmp_path):
    text = (
        "options:\n   stride: 2\n   scale: .5\n   shift: -3\nbins: [ 1, 2 ]\nrows:\n   - [ ]\n   - [ 1.5 ]\nnone: []\n"
    )
    read = read_yml_gz(written(tmp_path, text))
    assert list(read) == ["options", "bins", "rows", "none"]
    for name, expected in yaml.safe_load(text).items():
        same(read[name], expected)


@pytest.mark.parametrize("style", [0, cv2.FileNode_FLOW])
def test_what_opencv_writes(style, tmp_path):
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=count) * 10.0 ** generator.integers(-8, 8, count) for count in (1, 40, 7)]
    path = tmp_path / "a.yml.gz"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.startWriteStruct("options", cv2.FileNode_MAP)
    storage.write("stride", 2)
    storage.endWriteStruct()
    storage.startWriteStruct("thresholds", cv2.FileNode_SEQ | style)
    for row in rows:
        storage.startWriteStruct("", cv2.FileNode_SEQ | style)
        for number in row:
            storage.write("", float(number))
        storage.endWriteStruct()
    storage.endWriteStruct()
    storage.startWriteStruct("bins", cv2.FileNode_SEQ | style)
    for number in range(-40, 40):
        storage.write("", number)
    storage.endWriteStruct()
    storage.release()
    read = read_yml_gz(path)
    assert read["options"] == {"stride": 2}
    same(read["bins"], list(range(-40, 40)))
    for row, expected in zip(read["thresholds"], rows, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a:\n   - [ 1, 2\n", "node a: a sequence that does not end"),
        ("a:\n   - [ 1, 2 ]\n   - [ 3,", "node a: a sequence that does not end"),
        ("a: [ [ 1, 2 ], [ 3 ]\nb: [ 1 ]\n", "node a: a sequence that does not end"),
        ("a: [ 1, two ]", "node a: 'two' between numbers"),
        ("a: [ 1, .Nan ]", "node a: 'Nan' between numbers"),
        ("a: [ 1, -.Inf ]", "node a: 'Inf' between numbers"),
        ("a: [ 1,, 2 ]", "node a: "),
        ("a: [ 1 2 ]", "node a: "),
        ("a: [ 1, - 2 ]", "node a: '-' between numbers"),
        ("a: [ 1, 2.3.4 ]", "node a: "),
        ("a: [ 1, 2e ]", "node a: "),
        ("a:\n  - 1\n  - [ 2 ]\n", "node a: "),
        ("a:\n  - [ 2 ]\n  - 1\n", "node a: '1' where a sequence is expected"),
        ("a: [ [ [ 1 ] ] ]", "node a: sequences nested more than two deep"),
        ("a:\n  -\n    - [ 1 ]\n", "node a: sequences nested more than two deep"),
        ("a:\n  b: text\n", "node a: 'b: text' where numbers are expected"),
        ("a:\n  b: 1.2.3\n", "node a: "),
        ("a:\n  b: 1\n  - 2\n", "node a: '- 2' where numbers are expected"),
        ("a:\nb: [ 1 ]\n", "node a: '' where numbers are expected"),
        ("a: [ 1 ]\na: [ 2 ]\n", "two nodes of the name a"),
        ("[ 1 ]\n", "where the name of a node is expected"),
        ("text\na: [ 1 ]\n", "'text' where the name of a node is expected"),
        ("a: !!opencv-matrix\n   rows: 1\n", "a tag such as !!opencv-matrix"),
        ("a: !!python/object/apply:os.system [ ls ]\n", "a tag"),
    ],
)
def test_other_content_is_refused_in_one_sentence(text, reason, tmp_path):
    path = written(tmp_path, text)
    message = refused(reason, read_yml_gz, path)
    assert message.startswith(f"{path}: expected gzipped YAML of OpenCV") and "Fetch it again" in message


def test_other_files_are_refused_in_one_sentence(tmp_path):
    refused("starts with 'a: 1'", read_yml_gz, written(tmp_path, "a: 1", header=""))
    refused("starts with '%YAML:2.0", read_yml_gz, written(tmp_path, "a: 1", header="%YAML:2.0\n---\n"))
    refused("starts with ''", read_yml_gz, written(tmp_path, "", header=""))
    path = written(tmp_path, "a: [ " + "1, " * 10_000 + "1 ]")
    packed = path.read_bytes()
    for damaged in (packed[:-4], packed[: len(packed) // 2], packed[:-8] + b"\0" * 8, b"%YAML:1.0\n", b""):
        path.write_bytes(damaged)
        refused("expected gzipped YAML", read_yml_gz, path)


def test_the_limit_holds_for_the_file_and_for_what_it_unpacks_to(tmp_path):
    path = written(tmp_path, "a: [ " + "1, " * 9_000_000 + "1 ]")
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    refused("more than the limit of 2000000 bytes unpacked", read_yml_gz, path, max_bytes=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    refused("at most 1000 bytes", read_yml_gz, path, max_bytes=1000)
    path = written(tmp_path, "a: [ 1 ]")
    size = len(gzip.decompress(path.read_bytes()))
    same(read_yml_gz(written(tmp_path, "a: [ 1 ]"), max_bytes=max(size, path.stat().st_size))["a"], [1])


def test_millions_of_numbers_take_a_moment(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 256, 2_000_000).tolist()
    path = written(tmp_path, f"a:\n   - [ {', '.join(map(str, numbers))} ]\n")
    start = time.process_time()
    (row,) = read_yml_gz(path)["a"]
    assert time.process_time() - start < 5  # a parser that goes number by number takes a minute
    assert row.tolist() == numbers
