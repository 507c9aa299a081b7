"""Edges of the augmented image: which channels the forest sees, how often it is read, and padding to the batch."""

import pickle

import numpy as np
import pytest
import torch

from weakseg.methods.point2mask import edges as edges_module
from weakseg.methods.point2mask.edges import PrepareEdges, pad_edges


@pytest.fixture
def read(monkeypatch):
    """A forest that finds its number in the first channel plus twice the second; the list of what was read."""
    paths = []

    def read_forest(path):
        paths.append(path)
        return 1000.0

    def structured_edges(image, forest):
        assert image.dtype == np.uint8
        return ((forest + image[..., 0] + 2.0 * image[..., 1]) / 10000).astype(np.float32)

    monkeypatch.setattr(edges_module, "read_forest", read_forest)
    monkeypatch.setattr(edges_module, "structured_edges", structured_edges)
    return paths


def sample(height=2, width=3, **evidence):
    """Channels that are 10 and 20 in the first two and 40 in the third."""
    image = torch.tensor([10, 20, 40], dtype=torch.uint8)[:, None, None].expand(3, height, width)
    return {"image": image, "file_name": "a.jpg", "evidence": evidence}


@pytest.mark.parametrize(
    "channel_order, official, expected",
    [
        ("RGB", False, 1010 + 40),  # red 10, green 20
        ("RGB", True, 1040 + 40),  # blue first
        ("BGR", False, 1040 + 40),  # the image has blue first: red is 40
        ("BGR", True, 1010 + 40),
    ],
)
def test_the_forest_sees_red_first_and_in_the_published_form_blue_first(read, channel_order, official, expected):
    prepared = PrepareEdges("model.yml.gz", channel_order=channel_order, official=official)(sample())
    np.testing.assert_allclose(prepared["evidence"]["edges"], np.full((2, 3), expected / 10000), rtol=1e-6)


def test_corrected_is_the_default(read):
    prepared = PrepareEdges("model.yml.gz", channel_order="RGB")(sample())
    assert prepared["evidence"]["edges"][0, 0] == pytest.approx(0.105)


@pytest.mark.parametrize("official", [False, True])
def test_the_published_form_keeps_values_over_one(read, monkeypatch, official):
    monkeypatch.setattr(edges_module, "read_forest", lambda path: 14000.0)
    prepared = PrepareEdges("model.yml.gz", channel_order="RGB", official=official)(sample())
    assert prepared["evidence"]["edges"].max() == pytest.approx(1.408 if official else 1.0)


def test_pixels_stay_where_they_are(read):
    given = sample()
    given["image"] = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    found = PrepareEdges("model.yml.gz", channel_order="RGB")(given)["evidence"]["edges"]
    first, second, _ = given["image"].numpy().astype(int)
    np.testing.assert_allclose(found, (1000 + first + 2 * second) / 10000, rtol=1e-6)


def test_the_forest_is_read_once_a_process(read):
    prepare = PrepareEdges("model.yml.gz", channel_order="RGB")
    assert read == [], "not before there is an image"
    for _ in range(3):
        prepare(sample())
    assert read == ["model.yml.gz"]
    copy = pickle.loads(pickle.dumps(prepare))
    assert len(pickle.dumps(prepare)) < 1000, "the forest stays behind"
    np.testing.assert_array_equal(copy(sample())["evidence"]["edges"], prepare(sample())["evidence"]["edges"])
    assert read == ["model.yml.gz"] * 2


def test_other_evidence_and_the_given_sample_stay(read):
    given = sample(saliency=np.ones((2, 3)))
    prepared = PrepareEdges("model.yml.gz", channel_order="RGB")(given)
    assert set(prepared["evidence"]) == {"saliency", "edges"} and set(given["evidence"]) == {"saliency"}
    assert prepared["image"] is given["image"] and prepared["file_name"] == "a.jpg"


def test_padding_by_hand():
    first, second = np.array([[0.1, 0.2, 0.3]], np.float32), np.array([[0.4], [0.5]], np.float32)
    padded = pad_edges([sample(edges=first), sample(edges=torch.from_numpy(second))], (3, 4), "cpu")
    expected = torch.zeros(2, 3, 4)
    expected[0, 0, :3] = torch.tensor([0.1, 0.2, 0.3])
    expected[1, :2, 0] = torch.tensor([0.4, 0.5])
    assert padded.dtype == torch.float32
    torch.testing.assert_close(padded, expected, rtol=0, atol=0)


def test_an_empty_batch():
    assert pad_edges([], (3, 4), torch.device("cpu")).shape == (0, 3, 4)


@pytest.mark.parametrize("evidence", [{"evidence": {}}, {"evidence": {"saliency": 1}}, {}])
def test_a_sample_without_edges_names_the_keys(evidence):
    with pytest.raises(ValueError) as error:
        pad_edges([sample(2, 2, edges=np.zeros((2, 2))), {"file_name": "b.jpg"} | evidence], (2, 2), "cpu")
    for words in (
        "b.jpg: expected an edge map",
        "INPUT.EVIDENCE: (edges,)",
        "INPUT.EDGE_ROOT",
        "MODEL.POINT2MASK.GRAPH.",
    ):
        assert words in str(error.value)
    assert "MODEL.POINT2MASK.GRAPH.EDGE_MODEL" in str(error.value)
