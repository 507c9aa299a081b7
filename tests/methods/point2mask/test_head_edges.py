"""The whole head with low-level edges: they come with a sample and hold the growth of points back."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from tiny import CONFIGS, shrunk_config
from weakseg.data import WeakMapper, build_test_loader, dataset_names
from weakseg.safe_io import write_json, write_png

DEMO = CONFIGS / "point2mask/demo.yaml"


def test_the_graph_uses_edge_maps(tmp_path):
    """A wall of edges from a file keeps a thing from growing past it."""
    label_file = tmp_path / "labels.json"
    image = np.full((64, 96, 3), 120, dtype=np.uint8)
    write_png(tmp_path / "flat.png", image)
    wall = np.zeros((64, 96), dtype=np.uint8)
    wall[:, 44:52] = 255
    write_png(tmp_path / "edges/flat.png", wall)
    points = [{"id": k + 1, "category_id": 1, "point_coords": [[x, 32.0]]} for k, x in enumerate((38.0, 90.0))]
    categories = [{"id": 1, "name": "thing"}, {"id": 2, "name": "ground", "isthing": 0}]
    flat = [{"id": 1, "file_name": "flat.png", "height": 64, "width": 96}]
    annotations = [{**point, "image_id": 1} for point in points]
    write_json(label_file, {"images": flat, "categories": categories, "annotations": annotations})

    def owner(**changes):
        keys = {"INPUT__MIN_SIZE_TEST": 0, "TEST__INPUTS": ("points", "proposals"), **changes}
        cfg = shrunk_config(DEMO, label_file, tmp_path, MODEL__POINT2MASK__GRAPH__LAMBDA_BOUNDARY=10.0, **keys)
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        loader = build_test_loader(
            cfg, dataset_names(cfg, "test")[0], WeakMapper(cfg, False, prepare=model.head.prepare)
        )
        (batch,) = loader
        return model.pseudo_labels(batch)[0]["panoptic_seg"][0]

    edges = {
        "MODEL__POINT2MASK__GRAPH__LOW_LEVEL_EDGES": True,
        "INPUT__EVIDENCE": ("edges",),
        "INPUT__EDGE_ROOT": str(tmp_path / "edges"),
    }
    with_edges = owner(**edges)
    assert (with_edges[:, :44] == 1).all() and (with_edges[:, 56:] == 2).all()
    assert (owner()[:, 56:60] == 1).all()  # without them the nearer point wins
    with pytest.raises(ValueError, match="flat.png: expected an edge map"):
        owner(MODEL__POINT2MASK__GRAPH__LOW_LEVEL_EDGES=True)
