import pytest
from hooks_world import receiving


@pytest.fixture
def receiver():
    with receiving() as http_receiver:
        yield http_receiver
