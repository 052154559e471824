import pytest

from evaluator.errors import PolicyError
from evaluator.policy import load_policy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("monitoring: {max_duration: 0}", "must be more than 0s", id="no-time"),
        pytest.param("service: 'a\tb'", "only characters that are allowed and visible", id="control"),
        pytest.param("instances: {header: 'X Instance'}", "only characters that are allowed", id="header"),
        pytest.param(f"service: {'x' * 101}", "must be shorter", id="long"),
    ],
)
def test_mistakes_are_reported_in_plain_words(tmp_path, text, says):
    path = tmp_path / "evaluator.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=rf"evaluator\.yaml:1: .*{says}"):
        load_policy(path)


def test_endpoints_may_have_long_names(tmp_path):
    path = tmp_path / "evaluator.yaml"
    endpoint = "GET /search?" + "q" * 500
    path.write_text(f'metrics:\n  - {{name: m, type: latency_mean, margin: 5%, endpoint: "{endpoint}"}}\n')
    assert load_policy(path).rulebook.rules[0].slice.endpoint == endpoint
