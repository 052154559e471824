"""Who is reading, from the claims of a provider."""

import pytest

from evaluator.ui.identity import CLOCK_S, FRESH_S, Reader, has_recent_login, read_claims

CLAIMS = {"sub": "u-1", "email": "ann@example.org", "email_verified": True, "groups": ["sre"], "auth_time": 1000}


def test_verified_address_subject_and_groups_stand_for_a_person():
    assert read_claims(CLAIMS).names == ("ann@example.org", "u-1", "group:sre")


def test_an_unverified_address_is_ignored():
    for verified in (False, "true", None):
        assert "ann@example.org" not in read_claims({**CLAIMS, "email_verified": verified}).names
    assert read_claims({"sub": "u-3", "email": "ann@example.org"}).name == "u-3"


def test_a_subject_that_is_written_as_an_address_is_an_unverified_address():
    assert "ann@example.org" not in read_claims({"sub": "ann@example.org", "groups": ["sre"]}).names
    assert read_claims({**CLAIMS, "sub": "ann@example.org"}).name == "ann@example.org"


@pytest.mark.parametrize("groups", [None, 7, True, {"sre": 1}, [7, None, ["sre"]]])
def test_groups_that_are_none_are_none(groups):
    assert read_claims({**CLAIMS, "groups": groups}).names == ("ann@example.org", "u-1")


def test_who_has_no_name_has_no_groups_either():
    assert read_claims({"groups": ["sre"]}).names == ()


@pytest.mark.parametrize("signed_in_at", [True, float("nan"), float("inf"), -1, "1000", [1000]])
def test_a_time_that_is_none_is_no_login(signed_in_at):
    assert not has_recent_login(read_claims({**CLAIMS, "auth_time": signed_in_at}), 1001)


def test_a_login_has_recent_login_for_some_minutes():
    reader = read_claims(CLAIMS)
    assert has_recent_login(reader, 1000 + FRESH_S)
    assert not has_recent_login(reader, 1000 + FRESH_S + 1)
    assert not has_recent_login(reader, 1000 - CLOCK_S - 1)


def test_the_time_of_a_token_is_that_of_a_login_only_where_each_time_needs_one():
    claims = {"sub": "u-1", "iat": 1000}
    assert not has_recent_login(read_claims(claims), 1001)
    assert has_recent_login(read_claims(claims, asks_each_time=True), 1001)
    assert not has_recent_login(read_claims({"sub": "u-1", "auth_time": "now"}), 1001)


def test_the_account_of_this_machine_has_no_login():
    assert has_recent_login(Reader("root", ("root",)))
