"""What every test shares: one thread a process, and the folder of real sample data."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos with masks (`WEAKSEG_DATA_DIR`, default ../shared/data beside the checkout); skips where absent."""
    folder = Path(os.environ.get("WEAKSEG_DATA_DIR", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set WEAKSEG_DATA_DIR to a folder that has them")
    return folder
