"""Which policy applies: the file there is, or among a folder of them that of the release's service."""

import pytest

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy import load_policy
from evaluator.policy.selection import choose_policy, find_policy, list_policies, policy_of
from evaluator.records import Release, Run, Service
from evaluator.store import Store


@pytest.fixture
def folder(tmp_path):
    """Write policies into a folder by their names."""

    def write(**texts):
        place = tmp_path / "evaluator.policies"
        place.mkdir(exist_ok=True)
        for name, text in texts.items():
            (place / f"{name}.yaml").write_text(text)
        return place

    return write


def choose(path, *services):
    return choose_policy(path, lambda: services)


def alpha(path, *services):
    return choose(path, *services).rulebook.alpha


def test_a_file_applies_whatever_the_service_is(tmp_path):
    path = tmp_path / "evaluator.yaml"
    path.write_text("service: cart\nalpha: 0.1\n")
    policy = choose_policy(path, lambda: pytest.fail("the services are not asked for"))
    assert (policy.rulebook.alpha, policy.of_folder) == (0.1, False)
    assert policy == load_policy(path)
    assert policy.command("shop@1") == "evaluator verdict shop@1"
    assert choose_policy(None).origin == "built-in"


def test_each_service_has_its_own_and_the_others_the_default(folder):
    path = folder(cart="alpha: 0.1\n", shop="alpha: 0.2\n", default="alpha: 0.3\n")
    assert [alpha(path, name) for name in ("cart", "shop", "search")] == [0.1, 0.2, 0.3]
    assert alpha(path) == alpha(path, "search", "mail") == 0.3
    policy = choose(path, "cart")
    assert policy.origin == str(path / "cart.yaml")
    assert policy.command("cart@1 b") == f"evaluator verdict 'cart@1 b' --policy {path}/cart.yaml"
    assert policy.hash == load_policy(path / "cart.yaml").hash


def test_a_service_without_a_policy_is_an_error(folder):
    path = folder(cart="", shop="")
    with pytest.raises(UnknownName, match="there is no policy of service 'crat'; did you mean 'cart'") as error:
        choose(path, "crat")
    assert f"write {path}/crat.yaml, or default.yaml" in error.value.hint
    with pytest.raises(PolicyError, match=r"a policy for each service \(cart, shop\), and the service is not known"):
        choose(path)


def test_the_services_that_a_file_names_count_before_its_name(folder):
    path = folder(first="service: team/cart\nalpha: 0.1\n", both="services: [{name: a}, {name: b}]\nalpha: 0.2\n")
    assert alpha(path, "team/cart") == 0.1
    assert alpha(path, "a", "b") == alpha(path, "a") == alpha(path, "b") == 0.2
    with pytest.raises(UnknownName, match="'first'"):
        choose(path, "first")


def test_services_that_are_released_together_need_a_policy_that_names_them(folder):
    path = folder(a="alpha: 0.1\n", b="alpha: 0.2\n", default="")
    with pytest.raises(PolicyError, match=r"a and b are released together .*: a\.yaml, b\.yaml") as error:
        choose(path, "b", "a")
    assert "services: [{name: a}, {name: b}]" in error.value.hint
    with pytest.raises(PolicyError, match=r"a\.yaml, default\.yaml"):
        choose(path, "a", "c")
    folder(both="services: [{name: a}, {name: b}]\nalpha: 0.3\n")
    assert [alpha(path, "a", "b"), alpha(path, "a"), alpha(path, "b")] == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"cart": "", "other": "service: cart\n"}, r"other\.yaml:1: the policy of cart is .*cart\.yaml already"),
        ({"default": "alpha: 0.1\nservice: cart\n"}, r"default\.yaml:2: default is for services that have no policy"),
        ({"cart": "", "broken": "a: [\n"}, r"broken\.yaml:2: "),
        ({}, "there is no policy in this folder"),
        (
            {"x": "services: [{name: a}, {name: b}]\n", "y": "services: [{name: a}, {name: c}]\n"},
            r"a is named by several",
        ),
    ],
)
def test_whatever_leaves_a_choice_is_an_error(folder, texts, says):
    with pytest.raises(PolicyError, match=says):
        choose(folder(**texts), "a" if "x" in texts else "cart")


def test_a_mistake_in_the_policy_that_applies_has_its_line(folder):
    path = folder(cart="alpha: 0.1\nalpa: 1\n", shop="")
    assert choose(path, "shop").of_folder
    with pytest.raises(PolicyError, match=r"cart\.yaml:2: alpa"):
        choose(path, "cart")
    with pytest.raises(PolicyError, match=r"cart\.yaml:2: alpa"):
        list_policies(path)


def test_the_nearest_of_file_and_folder_is_found(tmp_path, folder, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_policy(deep) is None
    path = folder(cart="")
    assert find_policy(deep) == path
    (tmp_path / "a" / "evaluator.yaml").write_text("")
    assert find_policy(deep) == tmp_path / "a" / "evaluator.yaml"
    (tmp_path / "evaluator.yaml").write_text("")
    with pytest.raises(PolicyError, match="only one of them can apply"):
        find_policy(tmp_path)
    monkeypatch.setenv("EVALUATOR_POLICY", "elsewhere")
    assert str(find_policy(tmp_path)) == "elsewhere"


def test_of_stored_releases(tmp_path, folder):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    for name, service in (("cart@1", "cart"), ("cart@2", "cart"), ("shop@1", "shop"), ("loose", "")):
        release = Release(name, (Service(service, "1", "2"),))
        store.data.register_run(release, Run(f"run-{name}", name, f"run-{name}", "import"))
    path = folder(cart="alpha: 0.1\n", shop="alpha: 0.2\n")
    assert policy_of(path, store, ["cart@1", "cart@2"]).rulebook.alpha == 0.1
    with pytest.raises(PolicyError, match=r"policies of their own: .*cart\.yaml, .*shop\.yaml"):
        policy_of(path, store, ["cart@1", "shop@1"])
    with pytest.raises(PolicyError, match="the service is not known"):
        policy_of(path, store, ["loose"])
    with pytest.raises(UnknownName, match="'cart@3'"):
        policy_of(path, store, ["cart@3"])
    assert policy_of(path / "shop.yaml", store, ["cart@1"]).rulebook.alpha == 0.2
    folder(default="alpha: 0.3\n")
    assert policy_of(path, store, ["loose"]).rulebook.alpha == 0.3
