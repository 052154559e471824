import pytest

from evaluator.errors import UsageError
from evaluator.records import Release, Service, check_names


@pytest.mark.parametrize("name", ["cart@1.5.0", "cart/日本 😀", "x" * 200, "../up"])
def test_names_that_can_be_shown_and_typed(name):
    check_names(Release(name, (Service(name, "1", "2"), Service(""))), ["canary", name])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("", "needs a name", id="empty"),
        pytest.param("  ", "needs a name", id="blank"),
        pytest.param("x" * 201, "201 characters", id="long"),
        pytest.param("a\x1b[31m", "cannot be seen", id="colour"),
        pytest.param("a\nb", "cannot be seen", id="line"),
        pytest.param("a\u202eb", "cannot be seen", id="right-to-left"),
        pytest.param("a\udc80", "cannot be seen", id="undecoded-byte"),
        pytest.param(" a", "cannot be seen", id="space"),
        pytest.param("-rf", "begins with a dash", id="dash"),
        pytest.param("--help", "begins with a dash", id="option"),
    ],
)
def test_other_names_are_refused(name, says):
    with pytest.raises(UsageError, match=says) as caught:
        check_names(Release(name))
    assert caught.value.message.isprintable()
    with pytest.raises(UsageError, match="the arm"):
        check_names(Release("cart"), [name])


def test_versions_are_checked_where_they_are_given():
    with pytest.raises(UsageError, match="canary version"):
        check_names(Release("cart", (Service("", "", "1\x07"),)))
