"""Small finished experiments that the tests of figures share."""

import pytest
import synthetic_tables

DENSE = {"niah_single_1": 90.0, "fwe": 60.0, "vt": 5.0}


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """Three tasks, one of them too hard for the dense model; three layers of four heads."""
    root = tmp_path_factory.mktemp("experiment")
    return synthetic_tables.experiment(root, DENSE, samples=4, layers=3, heads=4, queries=20)


@pytest.fixture(scope="session")
def title():
    return synthetic_tables.title(DENSE, samples=4)
