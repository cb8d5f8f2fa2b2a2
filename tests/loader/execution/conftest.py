"""What the tests of MLX share."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx_checkpoints import CONFIGS, write_model


@pytest.fixture(scope="session")
def mlx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each name in CONFIGS."""
    folder = tmp_path_factory.mktemp("mlx")
    for name in CONFIGS:
        write_model(folder / name, name)
    return folder
