from pathlib import Path

import pytest
from tiny_folder import write_asset


@pytest.fixture
def asset(tmp_path: Path) -> Path:
    return write_asset(tmp_path)
