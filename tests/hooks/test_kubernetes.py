"""Against a small API server with objects of the published schemas; no cluster was there."""

import copy
import json
import os
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hooks_world import make_context, paste, receiving, reply

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook

DATA = Path(__file__).parent.parent / "data" / "kubernetes"
TOKEN = "eyJhbGciOi.k8s.token"
ROLLOUT = "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/cart"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
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
        self.ready = {"default/foo-v1": [True], "default/foo-v2": [False, None]}
        """Service → readiness of its endpoints; None: not known, which counts as ready."""
        receiver.answers = [self.answer]

    def answer(self, handler, request):
        status, content = self.decide(request)
        reply(status, json.dumps(content).encode(), Content_Type="application/json")(handler, request)

    def decide(self, request):
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"kind": "Status", "message": "Unauthorized", "code": 401}
        if "/endpointslices?" in request.path:
            return self.list_slices(request.path)
        path = request.path.removesuffix("/status")
        if path not in self.objects:
            return 404, {"kind": "Status", "message": "not found", "code": 404}
        if request.method == "PATCH":
            return self.patch(path, is_status=request.path.endswith("/status"), request=request)
        resource = copy.deepcopy(self.objects[path])
        if self.meanwhile:
            self.meanwhile()
        return 200, resource

    def list_slices(self, path):
        """One slice a page, as an API server that is asked for pages of one."""
        where, _, query = path.partition("?")
        asked = dict(parse_qsl(query))
        namespace = where.split("/")[5]
        assert where == SLICES.format(namespace)
        name = asked["labelSelector"].removeprefix("kubernetes.io/service-name=")
        states = self.ready.get(f"{namespace}/{name}", [])
        number = int(asked.get("continue", 0))
        more = {"continue": str(number + 1)} if number + 1 < len(states) else {}
        items = [
            {
                "metadata": {"labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": ["10.1.2.3"], "conditions": {"ready": state, "serving": state, "terminating": False}}
                ],
            }
            for state in states[number : number + 1]
        ]
        return 200, {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": more, "items": items}

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


@pytest.mark.parametrize(("refusals", "state"), [(1, "failed"), (9, "unknown")])
def test_what_is_half_lifted_is_put_back(refusals, state, api):
    api.objects[ROLLOUT]["spec"]["paused"] = True
    before = copy.deepcopy(api.objects[ROLLOUT]["status"])
    patch, left = api.patch, [refusals]

    def refuse(path, *, is_status, request):
        if (is_status and api.objects[ROLLOUT]["status"].get("pauseConditions")) or not left[0]:
            return patch(path, is_status=is_status, request=request)
        left[0] -= 1
        return 403, {"message": "may not patch the spec"}

    api.patch = refuse
    outcome = rollout_hook(api, "promote").execute(make_context())
    assert (outcome.state, "may not patch the spec" in outcome.did) == (state, True), outcome
    if state == "failed":
        assert "were put back" in outcome.did
        assert api.objects[ROLLOUT]["status"] == before


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
    assert outcome.earlier == {"0": {"matches": None, "weights": {"foo-v1:8080": 90, "foo-v2:8080": 10}}}
    assert "(rule 0: foo-v1:8080 0, foo-v2:8080 100); rule 1 stays as it is: it has only foo-v2:8080" in outcome.did
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


@pytest.mark.parametrize("states", [[], [False], [False, False]])
def test_a_service_without_ready_endpoints_gets_nothing_and_going_back_is_not_refused(states, api):
    outcome = route_hook(api).execute(make_context())
    api.ready = {"default/foo-v1": states, "default/foo-v2": states}
    before = copy.deepcopy(api.objects[ROUTE]["spec"])
    refused = route_hook(api).execute(make_context())
    assert (refused.state, "the service foo-v2 has no ready endpoint" in refused.did) == ("failed", True), refused
    assert route_hook(api).test() == refused, "the same words"
    assert api.objects[ROUTE]["spec"] == before
    assert route_hook(api).test("rollback").state == "acknowledged"
    undone = route_hook(api).undo(make_context(), outcome.earlier)
    assert (undone.state, "the service foo-v1 has no ready endpoint" in undone.did) == ("failed", True), undone
    assert [reference["weight"] for reference in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]] == [90, 10]
    back = route_hook(api).execute(make_context(action="rollback"))
    assert (back.state, patches(api)[-1][1]["spec"]["rules"][0]["backendRefs"][0]["weight"]) == ("failed", 0)


def test_holding_is_going_back_where_it_only_takes_traffic_from_the_candidate(api):
    references = api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]
    references[0]["name"], references[1]["name"] = "foo", "foo-canary"
    api.ready = {"default/foo": [False], "default/foo-canary": [True]}

    def hook_with(canary):
        return hook_for(api, route={"name": "foo-route", "weights": {"foo": 100, "foo-canary": canary}})

    assert "foo has no ready endpoint" in hook_with(11).test("hold").did
    assert hook_with(11).execute(make_context(action="hold")).state == "failed"
    assert not patches(api)
    assert hook_with(0).test("hold").state == "acknowledged"
    held = hook_with(0).execute(make_context(action="hold"))
    assert (held.state, "foo has no ready endpoint" in held.did) == ("failed", True)
    assert [ref["weight"] for ref in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]] == [100, 0]


def test_an_account_that_may_not_look_at_endpoints_gives_no_traffic(api):
    list_slices, api.list_slices = api.list_slices, lambda _: (403, {"message": "forbidden"})
    outcome = route_hook(api).execute(make_context())
    assert (outcome.state, "list on endpointslices" in outcome.did) == ("failed", True)
    assert not patches(api)
    api.list_slices = lambda _: (200, {"metadata": {}, "items": [7]})
    assert "cannot be read" in route_hook(api).execute(make_context()).did
    api.list_slices = list_slices
    earlier = route_hook(api).execute(make_context()).earlier
    api.list_slices = lambda _: (403, {"message": "forbidden"})
    undone = route_hook(api).undo(make_context(), earlier)
    assert (undone.state, "not known whether its services can serve" in undone.did) == ("acknowledged", True)


SEVERAL = [
    {"name": "foo-v1", "port": 8080, "weight": 60},
    {"name": "foo-v1", "port": 9090, "weight": 30},
    {"name": "foo-v2", "port": 8080, "weight": 0},
    {"name": "foo-v2", "port": 9090, "weight": 0},
    {"kind": "ServiceImport", "group": "multicluster.x-k8s.io", "name": "foo-v1", "port": 8080, "weight": 5},
    {"name": "foo-v2", "namespace": "other", "port": 8080, "weight": 3},
]


def test_a_reference_that_has_no_traffic_keeps_none(api):
    references = api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"] = copy.deepcopy(SEVERAL)
    references[1]["weight"] = 0
    outcome = hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 1, "foo-v2": 99}}).execute(make_context())
    weights = [reference["weight"] for reference in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]]
    assert (outcome.state, weights[:2]) == ("acknowledged", [1, 0]), outcome


def test_each_reference_to_a_service_is_set_and_other_objects_of_that_name_are_not(api):
    rules = api.objects[ROUTE]["spec"]["rules"]
    rules[0]["backendRefs"] = copy.deepcopy(SEVERAL)
    outcome = route_hook(api).execute(make_context())
    weights = [reference["weight"] for reference in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]]
    assert (outcome.state, weights) == ("acknowledged", [0, 0, 50, 50, 5, 3]), outcome
    assert "rule 0 also gives traffic to foo-v1 5, foo-v2 3" in outcome.did
    assert route_hook(api).undo(make_context(), json.loads(json.dumps(outcome.earlier))).state == "acknowledged"
    assert api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"] == SEVERAL
    one = hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 99, "foo-v2": 1}})
    assert "too small to divide" in one.execute(make_context()).did
    in_ratio = hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 10, "foo-v2": 2}})
    assert in_ratio.execute(make_context()).state == "acknowledged"
    weights = [reference["weight"] for reference in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]]
    assert weights == [7, 3, 1, 1, 5, 3]


def test_a_service_of_another_namespace_is_named_with_it(api):
    api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"] = copy.deepcopy(SEVERAL)
    hook = hook_for(api, route={"name": "foo-route", "weights": {"foo-v1": 0, "other/foo-v2": 9}})
    assert "the service other/foo-v2 has no ready endpoint" in hook.test().did
    api.ready["other/foo-v2"] = [True]
    assert hook.execute(make_context()).state == "acknowledged"
    weights = [reference["weight"] for reference in api.objects[ROUTE]["spec"]["rules"][0]["backendRefs"]]
    assert weights == [0, 0, 0, 0, 5, 9]


def test_several_rules_are_found_again_by_what_they_match(api):
    rules = api.objects[ROUTE]["spec"]["rules"]
    rules[1]["backendRefs"] = [{"name": "foo-v1"}, {"name": "foo-v2", "weight": 3}]
    outcome = route_hook(api).execute(make_context())
    assert set(outcome.earlier) == {"0", "1"}
    now = api.objects[ROUTE]["spec"]["rules"]
    now.insert(0, {"matches": [{"path": {"value": "/new"}}], "backendRefs": [{"name": "foo-v1"}, {"name": "foo-v2"}]})
    now[1]["backendRefs"].pop(0)
    undone = route_hook(api).undo(make_context(), outcome.earlier)
    assert (undone.state, "rule 1 has no foo-v1:8080 any more" in undone.did) == ("failed", True), undone
    weights = [[ref.get("weight") for ref in rule["backendRefs"]] for rule in api.objects[ROUTE]["spec"]["rules"]]
    assert weights == [[None, None], [10], [1, 3]]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"abort": True}, "is aborted, so a promotion would change nothing"),
        ({"phase": "Degraded", "message": "ProgressDeadlineExceeded"}, "is degraded (ProgressDeadlineExceeded)"),
        ({"pauseConditions": None}, "does not wait at a pause"),
    ],
)
def test_a_rollout_that_cannot_go_on_is_refused_and_going_back_is_not(status, says, api):
    api.objects[ROLLOUT]["status"] |= status
    outcome = rollout_hook(api, "promote").execute(make_context())
    assert (outcome.state, says in outcome.did) == ("failed", True), outcome
    assert rollout_hook(api, "promote").test() == outcome
    assert not patches(api)
    assert rollout_hook(api, "abort").test().state == "acknowledged"
    assert rollout_hook(api, "abort").execute(make_context()).state == "acknowledged"


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


def test_the_earlier_weights_can_be_set_by_hand(api, tmp_path):
    """With a `kubectl` that reads and replaces the object of the small API server."""
    hook = route_hook(api)
    before = copy.deepcopy(api.objects[ROUTE])
    outcome = hook.execute(make_context())
    assert outcome.state == "acknowledged"
    moved = api.objects[ROUTE]
    assert moved["spec"] != before["spec"]
    (tmp_path / "route.json").write_text(json.dumps(moved))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n'
        f'case "$*" in *get*) cat {tmp_path}/route.json;; *replace*) cat > {tmp_path}/new.json;; esac\n'
    )
    kubectl.chmod(0o755)
    variables = {"K8S": TOKEN, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    lines, _ = paste(hook, undoes=True, earlier=json.loads(json.dumps(outcome.earlier)), environment=variables)
    assert json.loads((tmp_path / "new.json").read_text())["spec"] == before["spec"]
    assert TOKEN not in lines
    calls = (tmp_path / "calls").read_text()
    assert f"--server={api.url} --token={TOKEN} -n default get httproute foo-route -o json" in calls


@pytest.mark.parametrize(("do", "aborted", "status"), [("abort", False, "false"), ("retry", True, "true")])
def test_a_rollout_can_be_put_back_by_hand(api, tmp_path, do, aborted, status):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    kubectl.chmod(0o755)
    variables = {"K8S": TOKEN, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    paste(rollout_hook(api, do), undoes=True, earlier={"aborted": aborted}, environment=variables)
    words = (tmp_path / "words").read_text().splitlines()
    patch = f'{{"status": {{"abort": {status}}}}}'
    assert words[-7:] == ["patch", "rollout", "cart", "--subresource=status", "--type=merge", "-p", patch]
