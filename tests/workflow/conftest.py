import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from project import Project


@pytest.fixture
def stubbed(tmp_path):
    """A copy of the project whose stages are stand-ins."""
    return Project(tmp_path).stub_stages()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A copy of the project with stand-ins, its smoke experiment done; every test leaves it done."""
    project = Project(tmp_path_factory.mktemp("project")).stub_stages()
    project.run()
    return project
