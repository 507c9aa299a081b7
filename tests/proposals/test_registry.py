"""Evidence is found by name, through a registry that a stranger can add to."""

import numpy as np
import pytest
from detectron2.config import CfgNode as CN

from weakseg.proposals import PROPOSAL_LOADER_REGISTRY, build_evidence


class Gradient:
    provenance = "left-to-right ramp, made without masks"

    def __init__(self, top: float):
        self.top = top

    def __call__(self, record: dict) -> np.ndarray:
        return np.tile(np.linspace(0, self.top, record["width"], dtype=np.float32), (record["height"], 1))


@pytest.fixture
def toy_loader():
    PROPOSAL_LOADER_REGISTRY._do_register("toy_gradient", lambda cfg: Gradient(cfg.TOP))
    yield "toy_gradient"
    PROPOSAL_LOADER_REGISTRY._obj_map.pop("toy_gradient")


def config(*names: str) -> CN:
    return CN({"INPUT": CN({"EVIDENCE": names}), "TOP": 2.0})


def test_a_registered_loader_is_built_from_the_config(toy_loader):
    evidence = build_evidence(config(toy_loader))
    assert list(evidence) == [toy_loader]
    assert evidence[toy_loader].provenance == "left-to-right ramp, made without masks"
    np.testing.assert_array_equal(evidence[toy_loader]({"height": 2, "width": 3}), [[0, 1, 2], [0, 1, 2]])


def test_no_evidence_is_no_loader():
    assert build_evidence(config()) == {}


def test_an_unknown_name_is_named_with_the_known_ones(toy_loader):
    with pytest.raises(ValueError, match="toy_gradient.*found missing_edges"):
        build_evidence(config(toy_loader, "missing_edges"))
