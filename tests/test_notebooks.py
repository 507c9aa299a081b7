"""notebooks/predict.ipynb runs from top to bottom on a real photo."""

import nbformat
import pytest
from nbclient import NotebookClient

from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine.trainer import Trainer


def test_the_notebook_segments_a_real_photo(data_dir, tmp_path, monkeypatch):
    photos = sorted((data_dir / "voc/JPEGImages").glob("*.jpg"))
    if not photos:
        pytest.skip(f"no photos in {data_dir}/voc/JPEGImages")
    cfg = shrunk_config(
        CONFIGS / "point2mask/demo.yaml",
        scenes(tmp_path, count=2),
        tmp_path / "out",
        SOLVER__MAX_ITER=1,
        DATASETS__TEST=(),
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_STUFF=0.0,
    )
    Trainer(cfg).train()
    monkeypatch.setenv("WEAKSEG_WEIGHTS", str(tmp_path / "out/model_final.pth"))
    monkeypatch.setenv("WEAKSEG_IMAGE", str(photos[0]))
    notebook = nbformat.read(ROOT / "notebooks/predict.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    picture = notebook.cells[-1].outputs[-1]
    assert "image/png" in picture["data"]
    assert all(output.output_type != "error" for cell in notebook.cells for output in cell.get("outputs", []))
