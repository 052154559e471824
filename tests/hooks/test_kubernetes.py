"""Against a small API server with objects of the published schemas; no cluster was there."""

import copy
import json
from pathlib import Path

import pytest
from hooks_world import make_context, receiving, reply

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook

DATA = Path(__file__).parent.parent / "data" / "kubernetes"
TOKEN = "eyJhbGciOi.k8s.token"
ROLLOUT = "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/cart"
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/foo-route"


def merge(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


class Api:
    """GET and merge patches of the whole and of /status, with the versions that an API server keeps."""

    def __init__(self, receiver):
        self.url, self.requests = receiver.url, receiver.requests
        self.objects = {
            path: json.loads((DATA / name).read_text())["object"]
            for path, name in ((ROLLOUT, "rollout.json"), (ROUTE, "httproute.json"))
        }
        self.meanwhile = None
        receiver.answers = [self.answer]

    def answer(self, handler, request):
        status, content = self.decide(request)
        reply(status, json.dumps(content).encode(), Content_Type="application/json")(handler, request)

    def decide(self, request):
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"kind": "Status", "message": "Unauthorized", "code": 401}
        path = request.path.removesuffix("/status")
        if path not in self.objects:
            return 404, {"kind": "Status", "message": "not found", "code": 404}
        if request.method == "PATCH":
            return self.patch(path, is_status=request.path.endswith("/status"), request=request)
        resource = copy.deepcopy(self.objects[path])
        if self.meanwhile:
            self.meanwhile()
        return 200, resource

    def patch(self, path, *, is_status, request):
        if request.headers["content-type"] != "application/merge-patch+json":
            return 415, {"message": "media type"}
        now, change = self.objects[path], json.loads(request.body)
        if change["metadata"].pop("resourceVersion") != now["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "message": "the object has been modified", "code": 409}
        merged = merge(now, {key: value for key, value in change.items() if (key == "status") == is_status})
        merged["metadata"]["resourceVersion"] = str(int(now["metadata"]["resourceVersion"]) + 1)
        self.objects[path] = merged
        return 200, merged


@pytest.fixture
def api():
    with receiving() as receiver:
        yield Api(receiver)


def hook_for(api, token=TOKEN, **what):
    options = {"url": api.url, "token": "${K8S}", "allow_hosts": ["127.0.0.1"]}
    return make_hook("kubernetes", options | what, {"K8S": token})


def rollout_hook(api, do, **extra):
    return hook_for(api, namespace="shop", rollout={"name": "cart", "do": do}, **extra)


def route_hook(api, **extra):
    return hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 0, "foo-v2": 100}}, **extra)


def patches(api):
    return [
        (request.path.removeprefix(ROLLOUT), json.loads(request.body))
        for request in api.requests
        if request.method == "PATCH"
    ]


def version(number):
    return {"metadata": {"resourceVersion": str(number)}}


@pytest.mark.parametrize(
    ("do", "status"),
    [("promote", {"pauseConditions": None}), ("promote_full", {"promoteFull": True}), ("abort", {"abort": True})],
)
def test_patches_are_those_of_the_published_tool(do, status, api):
    outcome = rollout_hook(api, do).execute(make_context())
    assert outcome.state == "acknowledged", outcome
    assert patches(api) == [("/status", version(7) | {"status": status})]
    assert outcome.earlier == {"aborted": False, "step": 1, "waits": ["CanaryPauseStep"]}


def test_an_aborted_one_is_retried_and_aborting_is_undone(api):
    outcome = rollout_hook(api, "abort").execute(make_context())
    assert "already" in rollout_hook(api, "abort").execute(make_context()).did
    assert rollout_hook(api, "abort").undo(make_context(), outcome.earlier).state == "acknowledged"
    assert api.objects[ROLLOUT]["status"]["abort"] is False
    api.objects[ROLLOUT]["status"]["abort"] = True
    assert rollout_hook(api, "retry").execute(make_context()).state == "acknowledged"
    assert patches(api)[-1][1]["status"] == {"abort": False}


def test_a_pause_of_the_spec_is_lifted_as_well(api):
    api.objects[ROLLOUT]["spec"]["paused"] = True
    assert rollout_hook(api, "promote").execute(make_context()).state == "acknowledged"
    assert patches(api)[1] == ("", version(8) | {"spec": {"paused": False}})


def test_after_an_analysis_that_decided_nothing_its_step_is_left(api):
    api.objects[ROLLOUT]["status"]["canary"] = {"currentStepAnalysisRunStatus": {"name": "a", "status": "Inconclusive"}}
    assert rollout_hook(api, "promote").execute(make_context()).state == "acknowledged"
    assert patches(api)[0][1]["status"] == {"pauseConditions": None, "controllerPause": False, "currentStepIndex": 2}


def test_what_does_not_wait_is_not_promoted(api):
    del api.objects[ROLLOUT]["status"]["pauseConditions"]
    outcome = rollout_hook(api, "promote").execute(make_context())
    assert (outcome.state, "does not wait" in outcome.did) == ("failed", True)
    assert not patches(api)
    assert not rollout_hook(api, "promote").idempotent
    api.objects[ROLLOUT]["status"]["stableRS"] = api.objects[ROLLOUT]["status"]["currentPodHash"]
    assert "already" in rollout_hook(api, "promote").execute(make_context()).did


def test_a_promotion_is_not_undone_by_itself(api):
    assert rollout_hook(api, "promote").undo(make_context(), {"aborted": False}).state == "failed"


def test_weights_of_the_rule_that_has_both_are_set_and_restored(api):
    before = copy.deepcopy(api.objects[ROUTE]["spec"])
    outcome = route_hook(api).execute(make_context())
    assert outcome.state == "acknowledged", outcome
    assert outcome.earlier == {"0": {"foo-v1": 90, "foo-v2": 10}}
    rules = api.objects[ROUTE]["spec"]["rules"]
    assert [ref["weight"] for ref in rules[0]["backendRefs"]] == [0, 100]
    assert rules[0]["backendRefs"][0]["port"] == 8080
    assert rules[1] == before["rules"][1]
    assert route_hook(api).execute(make_context()).state == "acknowledged", "a second time is harmless"
    assert route_hook(api).undo(make_context(), json.loads(json.dumps(outcome.earlier))).state == "acknowledged"
    assert api.objects[ROUTE]["spec"] == before


def test_a_route_without_these_services_is_left_alone(api):
    hook = hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 1, "foo-v3": 1}})
    assert "no rule" in hook.execute(make_context()).did
    assert hook.test().state == "failed"


@pytest.mark.parametrize("make", [route_hook, lambda api: rollout_hook(api, "abort")])
def test_a_change_in_between_is_not_overwritten(make, api):
    def touch():
        for resource in api.objects.values():
            resource["metadata"]["resourceVersion"] = str(int(resource["metadata"]["resourceVersion"]) + 1)

    api.meanwhile = touch
    outcome = make(api).execute(make_context())
    assert (outcome.state, "changed in the meantime" in outcome.did) == ("failed", True)


def test_refusals_say_why_and_no_secret(api):
    outcome = rollout_hook(api, "abort", token="wrong-token").execute(make_context())
    assert "401" in outcome.did
    assert "wrong-token" not in repr(outcome)
    assert "404" in hook_for(api, rollout={"name": "cart", "do": "abort"}).execute(make_context()).did


def test_a_lost_answer_may_have_been_done(receiver):
    rollout = (DATA / "rollout.json").read_text()
    body = json.dumps(json.loads(rollout)["object"]).encode()
    receiver.answers = [reply(200, body), reply(504, b"{}")]
    assert rollout_hook(receiver, "abort").execute(make_context()).state == "unknown"


def test_test_and_dry_run_touch_nothing(api):
    assert "version 7" in rollout_hook(api, "promote").test().did
    assert route_hook(api).test().state == "acknowledged"
    assert route_hook(api).execute(make_context(dry_run=True)).state == "acknowledged"
    assert not patches(api)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"rollout": {"name": "a", "do": "promote"}, "route": {"name": "a", "weights": {"a": 1, "b": 1}}},
        {"rollout": {"name": "../secrets", "do": "promote"}},
        {"rollout": {"name": "a", "do": "undo"}},
        {"route": {"name": "a", "weights": {"a": 0, "b": 0}}},
        {"route": {"name": "a", "weights": {"a": 1}}},
        {"namespace": "a/b", "rollout": {"name": "a", "do": "abort"}},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("kubernetes", {"url": "https://k", "token": "${K8S}"} | wrong)
