"""Which label distinguishes two versions, and which set has series for both."""

from datetime import UTC, datetime

import pytest

from evaluator.sources.prometheus.looking import LABELS, look_around


class Server:
    """Series by metric, as a server gives them."""

    def __init__(self, **series):
        self.series = series

    def labels_of(self, name, start, end):
        assert start < end
        return self.series.get(name, [])

    def metric_names(self, start, end):
        return frozenset(self.series)

    def latest(self):
        return datetime(2026, 11, 1, tzinfo=UTC)


def requests(**labels):
    return [{"code": "200", **dict(zip(labels, values, strict=True))} for values in zip(*labels.values(), strict=True)]


@pytest.mark.parametrize(
    ("labels", "old", "new"),
    [
        ({"version": ("1.10", "1.9")}, 'version="1.9"', 'version="1.10"'),
        ({"version": ("1.8", "1.10", "1.9")}, 'version="1.9"', 'version="1.10"'),
        ({"track": ("canary", "stable")}, 'track="stable"', 'track="canary"'),
        ({"version": ("2", "2"), "track": ("b", "a")}, 'track="a"', 'track="b"'),
    ],
)
def test_versions_are_distinguished_by_the_likeliest_label(labels, old, new):
    surroundings = look_around(Server(http_requests_total=requests(**labels)))
    assert surroundings.sets == ("red-http",)
    assert surroundings.selectors == {"baseline": old, "canary": new}


def test_a_set_that_has_only_one_of_them_is_left_out():
    node = [{"mode": "idle", "instance": "a"}]
    surroundings = look_around(Server(http_requests_total=requests(version=("1", "2")), node_cpu_seconds_total=node))
    assert surroundings.sets == ("red-http",)


def test_statuses_are_found_in_the_label_that_has_them():
    series = [{"status": "500", "version": version} for version in ("1", "2")]
    assert look_around(Server(http_requests_total=series)).sets == ("red-http-status",)


def test_nothing_is_invented():
    assert look_around(Server()).sets == ()
    assert look_around(Server(http_requests_total=requests(pod=("a", "b")))).selectors == {}
    assert "instance" not in LABELS
