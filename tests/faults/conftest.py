"""One warm process for all cases of a test process."""

import pytest
from helpers.faults import fork_server


@pytest.fixture(scope="session")
def server():
    with fork_server() as running:
        yield running
