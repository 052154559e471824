"""What all routers share: which shares they take, and what they make of a router that does something else."""

import math
import time

import pytest
from hooks_world import make_context

from evaluator.errors import HookError
from evaluator.hooks import HookOptions, Realised, Router, make_router
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.router import Applied, check_shares, describe_drift, parse_shares
from evaluator.hooks.weights import find_weights, moves_back, sum_shares


class Table(Router[HookOptions]):
    """The smallest router there can be: a table of arm → share."""

    kind = "table"
    Options = HookOptions
    requested = None

    def __init__(self, arms=("baseline", "canary"), **shares):
        super().__init__(HookOptions(), {})
        self.names, self.table = arms, dict.fromkeys(arms, 0.0) | {"baseline": 1.0} | shares
        self.calls = []

    def arms(self):
        return self.names

    def _list_requested(self):
        return self.requested

    def _describe_router(self, words):
        return "the table"

    def _test_router(self):
        return ["there is a table"]

    def _read_state(self, words):
        return dict(self.table)

    def _apply(self, state, words, *, back):
        self.calls.append((state, back))
        self.table = dict(state)
        return Applied()


def test_shares_are_set_read_back_and_restored():
    router = Table()
    assert router.arms() == ("baseline", "canary")
    assert router.read_shares() == {"baseline": 1, "canary": 0}
    assert router.set_shares({"baseline": 0.95, "canary": 0.05}) == Realised(
        {"baseline": 0.95, "canary": 0.05}, earlier={"baseline": 1, "canary": 0}
    )
    assert router.set_shares({"canary": 1}).shares == {"baseline": 0, "canary": 1}


def test_a_promotion_is_full_share_and_undo_is_what_was_there_before():
    router = Table(baseline=0.95, canary=0.05)
    assert router.describe(make_context()) == "sets the shares of the table to canary 100 %"
    assert router.describe(make_context(action="rollback")) == "sets the shares of the table to baseline 100 %"
    assert router.describe_undo() == "takes back the shares of the table"
    outcome = router.execute(make_context())
    assert (outcome.state, outcome.earlier) == ("acknowledged", {"baseline": 0.95, "canary": 0.05})
    assert outcome.did == "the shares are baseline 0 %, canary 100 %"
    assert router.undo(make_context(), outcome.earlier).did == "the shares are baseline 95 %, canary 5 %"
    assert router.undo(make_context(), {"baseline": "x"}).state == "failed"
    assert router.execute(make_context(action="rollback")).state == "acknowledged"
    assert router.table == {"baseline": 1, "canary": 0}
    assert [back for _, back in router.calls] == [False, True, True]


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"canery": 1}, "has no arm canery (its arms are baseline, canary)"),
        ({"canary": 0.3}, "must add up to 100%, not 30%"),
        ({"baseline": 0.8, "canary": 0.3}, "must add up to 100%, not 110%"),
        ({}, "must add up to 100%, not 0%"),
        ({"baseline": 1.1, "canary": -0.1}, "the share of baseline is 1.1"),
        ({"canary": math.nan}, "the share of canary is nan"),
        ({"canary": math.inf}, "the share of canary is inf"),
        ({"canary": True}, "the share of canary is True"),
        ({"canary": "100%"}, "the share of canary is '100%'"),
        ({"canary": None}, "the share of canary is None"),
    ],
)
def test_shares_that_cannot_be_meant_change_nothing(shares, says):
    router = Table()
    with pytest.raises(HookError) as error:
        router.set_shares(shares)
    assert says in f"{error.value.message} ({error.value.hint})"
    assert not router.calls


def test_noise_of_sums_is_no_mistake():
    arms = ("a", "b", "c")
    assert check_shares({"a": 0.1 + 0.2, "b": 0.7}, arms) == {"a": 0.3, "b": 0.7, "c": 0}
    assert check_shares({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, arms)["a"] == pytest.approx(1 / 3)
    assert check_shares({"a": 1 + 1e-12, "b": -1e-13}, arms) == {"a": 1, "b": 0, "c": 0}


class Lying(Table):
    def _apply(self, state, words, *, back):
        self.calls.append((state, back))
        return Applied()


class Halving(Table):
    def _apply(self, state, words, *, back):
        self.table = {"baseline": 1 - state["canary"] / 2, "canary": state["canary"] / 2}
        return Applied()


def test_a_router_that_does_nothing_or_something_else_is_an_error():
    with pytest.raises(HookError, match="canary gets 0 % instead of 5 %; they are as before"):
        Lying().set_shares({"baseline": 0.95, "canary": 0.05})
    assert Lying().execute(make_context()).state == "failed"
    with pytest.raises(MaybeSent, match="baseline gets 75 % instead of 50 %, canary gets 25 % instead of 50 %"):
        Halving().set_shares({"baseline": 0.5, "canary": 0.5})
    assert Halving().execute(make_context()).state == "unknown"
    for back in (
        Lying(canary=1.0, baseline=0.0).execute(make_context(action="rollback")),
        Lying(canary=1.0, baseline=0.0).undo(make_context(), {"baseline": 1, "canary": 0}),
    ):
        assert (back.state, "baseline gets 0 % instead of 100 %" in back.did) == ("failed", True)
    assert Halving().set_shares({"baseline": 0.99, "canary": 0.01}).shares["canary"] == 0.005, "within a point"


def test_a_router_that_cannot_be_read_goes_back_all_the_same():
    class Blind(Table):
        reads = 0

        def _read_state(self, words):
            self.reads += 1
            if self.reads == 1:
                raise HookError("it does not answer")
            return super()._read_state(words)

    with pytest.raises(HookError, match="does not answer"):
        Blind().set_shares({"canary": 1})
    assert Blind(canary=1.0, baseline=0.0).set_shares({"baseline": 1}, back=True).earlier is None


def test_an_action_without_an_arm_of_its_own_needs_shares():
    router = Table(("blue", "green"), blue=1.0, baseline=0.0)
    outcome = router.execute(make_context())
    assert (outcome.state, "has no arm canary, so it is not known" in outcome.did) == ("failed", True)
    assert router.test() == outcome
    assert "has no arm baseline" in router.test("rollback").did
    router.requested = {"green": 1.0}
    router.table = {"blue": 1.0, "green": 0.0}
    assert router.test().state == router.execute(make_context()).state == "acknowledged"


def test_a_router_is_made_of_options_that_share_requests():
    options = {"set": ["x"], "get": ["y"]}
    assert make_router("command", options).arms() == ("baseline", "canary")
    for kind, of_no_router in (("command", {"run": ["x"]}), ("tcp", {"address": "h:1"})):
        with pytest.raises(HookError, match="does not share requests between arms"):
            make_router(kind, of_no_router)


def test_drift_is_what_differs_by_more_than_a_point():
    assert describe_drift({"a": 0.95, "b": 0.05}, {"a": 0.941, "b": 0.059}) == ""
    assert (
        describe_drift({"a": 0.95, "b": 0.05}, {"a": 0.9, "b": 0.1})
        == "a gets 90 % instead of 95 %, b gets 10 % instead of 5 %"
    )
    assert describe_drift({"a": 1, "b": 0}, {"a": math.nan}) == "a gets nan % instead of 100 %"


# ------------------------------------------------------------------ what routers report


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ('{"baseline": 0.95, "canary": 0.05}', (0.95, 0.05)),
        ('{"baseline": "95%", "canary": "5%", "old": 0}', (0.95, 0.05)),
        ('{"baseline": 1, "canary": 0}\n', (1, 0)),
        ('{"baseline": 0.333, "canary": 0.666}', (0.333, 0.666)),
    ],
)
def test_reported_shares_are_read(text, shares):
    assert tuple(parse_shares(text, ("baseline", "canary")).values()) == shares


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"no JSON object of arm and share: \(empty\)"),
        ("0.5", "no JSON object"),
        ('["baseline"]', "no JSON object"),
        ('{"baseline": 0.95, "cana', "no JSON object"),
        ('{"baseline": NaN, "canary": 0.05}', "no JSON object"),
        ('{"baseline": true, "canary": 0}', "no JSON object"),
        ('{"baseline": null, "canary": 1}', "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"baseline": 1}', "has no share of canary"),
        ('{"baseline": 0.5, "canary": 0.4}', "do not add up to 100 %"),
        ('{"baseline": 95, "canary": 5}', "do not add up to 100 %"),
        ('{"baseline": 1.5, "canary": -0.5}', "do not add up to 100 %"),
        ('{"baseline": 0.5, "canary": 0.4, "old": 0.1}', "has shares of old, which is none of the arms"),
    ],
)
def test_half_an_answer_is_none(text, says):
    with pytest.raises(HookError, match=says):
        parse_shares(text, ("baseline", "canary"))


# ------------------------------------------------------------------ weights


def equal(**arms):
    return {arm: {f"{arm}{number}": 1 for number in range(n)} for arm, n in arms.items()}


@pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.1, 0.25, 1 / 3, 0.333, 0.5, 0.667, 0.98, 0.999, 1])
@pytest.mark.parametrize(
    "own",
    [
        equal(b=1, c=1),
        equal(b=4, c=1),
        equal(b=3, c=3),
        equal(b=20, c=2),
        {"b": {"b1": 10, "b2": 20}, "c": {"c1": 5, "c2": 1, "c3": 1}},
        {"b": {"b1": 256}, "c": {"c1": 0}},
        {"b": {"b1": 256, "b2": 256}, "c": {"c1": 1}},
    ],
)
def test_whole_weights_come_near_to_each_share(own, share):
    weights = find_weights(own, {"b": 1 - share, "c": share}, 256)
    assert sum_shares(weights, own)["c"] == pytest.approx(share, abs=0.003)
    assert set(weights) == {name for names in own.values() for name in names}
    assert all(isinstance(weight, int) and 0 <= weight <= 256 for weight in weights.values())
    if share == 0:
        assert all(weights[name] == 0 for name in own["c"])
    if 0.04 < share < 0.9:  # within an arm, servers keep their ratio
        for names in own.values():
            total, total_own = sum(weights[name] for name in names), sum(names.values())
            for name, weight in names.items():
                assert weights[name] / total == pytest.approx(weight / total_own if total_own else 1, rel=0.1)


def test_weights_are_exact_where_they_can_be():
    assert find_weights(equal(a=1, b=1, c=1), {"a": 0.9, "b": 0.05, "c": 0.05}, 256) == {"a0": 18, "b0": 1, "c0": 1}
    assert find_weights(equal(b=1, c=1), {"b": 0.99, "c": 0.01}, 256) == {"b0": 99, "c0": 1}
    large = find_weights({"b": {"x": 1}, "c": {"y": 5000, "z": 1000}}, {"b": 0, "c": 1}, 256)
    assert large["y"] / large["z"] == pytest.approx(5, abs=0.01)
    assert max(large.values()) <= 256
    assert find_weights({"b": {"x": 7}, "c": {"y": 3, "z": 9}}, {"b": 0, "c": 1}, 256) == {"x": 0, "y": 3, "z": 9}


def test_no_server_is_left_out_where_weights_may_be_larger():
    own = {"b": {"b1": 1}, "c": {f"c{number}": 1 + number % 2 for number in range(40)}}
    small, large = (find_weights(own, {"b": 0.99, "c": 0.01}, 1000, most) for most in (0, 100_000))
    assert min(small[name] for name in own["c"]) == 0
    assert large["c1"] / large["c0"] == pytest.approx(2, rel=0.05)
    assert sum_shares(large, own)["c"] == pytest.approx(0.01, abs=1e-4)


def test_many_servers_take_no_second():
    own = equal(b=500, c=500)
    began = time.process_time()
    weights = find_weights(own, {"b": 0.95, "c": 0.05}, 256)
    assert time.process_time() - began < 2
    assert sum_shares(weights, own)["c"] == pytest.approx(0.05, abs=0.001)
    share = sum_shares(find_weights(equal(b=1, c=50), {"b": 0.99, "c": 0.01}, 256), equal(b=1, c=50))["c"]
    assert share == pytest.approx(0.01, abs=0.001), "the share comes first, although some servers get nothing"


@pytest.mark.parametrize(
    ("shares", "current", "is_back"),
    [
        ({"baseline": 1, "canary": 0}, {"baseline": 0, "canary": 1}, True),
        ({"baseline": 0.9, "canary": 0.1}, {"baseline": 0.9, "canary": 0.1}, True),
        ({"baseline": 0.8, "canary": 0.2}, {"baseline": 0.9, "canary": 0.1}, False),
        ({"blue": 1, "green": 0}, {"blue": 0, "green": 1}, False),
        ({"baseline": 1, "fast": 0}, {"baseline": 0.5, "fast": 0.5}, True),
        ({"cart-BASELINE": 0.9, "canary": 0, "fast": 0.1}, {"cart-BASELINE": 0.1, "canary": 0.5, "fast": 0.4}, True),
        ({"baseline": 0.7, "canary": 0, "fast": 0.3}, {"baseline": 0.5, "canary": 0.3, "fast": 0.2}, False),
        ({"stable": 1, "canary": 0}, {"stable": 0.1, "canary": 0.9}, True),
        ({"stable": 0, "canary": 1}, {"stable": 1, "canary": 0}, False),
        ({"baseline": 1, "canary": 0}, {"canary": 1}, False),
    ],
)
def test_shares_move_back_if_no_candidate_gets_more_and_others_no_less(shares, current, is_back):
    assert moves_back(shares, current) is is_back
