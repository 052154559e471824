import pytest
from hooks_world import receiving


@pytest.fixture
def receiver():
    with receiving() as made:
        yield made
