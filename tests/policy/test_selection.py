"""Which policy applies: the file there is, or among a folder of them that of the release's service."""

from dataclasses import replace
from pathlib import Path

import pytest

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy import load_policy, with_learnt
from evaluator.policy.selection import (
    choose_policy,
    file_of,
    find_policy,
    is_any_sensitive,
    list_policies,
    policy_of,
)
from evaluator.records import Learnt, Release, Run, Service
from evaluator.store import Store


@pytest.fixture
def folder(tmp_path):
    """Write policies into a folder by their names."""

    def write(**texts):
        policies = tmp_path / "evaluator.policies"
        policies.mkdir(exist_ok=True)
        for name, text in texts.items():
            (policies / f"{name}.yaml").write_text(text)
        return policies

    return write


def choose(path, *services):
    return choose_policy(path, lambda: services)


def alpha(path, *services):
    return choose(path, *services).rulebook.alpha


def test_a_file_applies_whatever_the_service_is(tmp_path):
    path = tmp_path / "evaluator.yaml"
    path.write_text("service: cart\nalpha: 0.1\n")
    policy = choose_policy(path, lambda: pytest.fail("the services are not asked for"))
    assert policy == replace(load_policy(path), path=str(path))
    built_in = choose_policy(None)
    assert (built_in.origin, built_in.command("shop@1")) == ("built-in", "evaluator verdict shop@1")


def test_a_command_names_the_policy_unless_it_finds_that_itself(tmp_path, monkeypatch):
    path, deep = tmp_path / "evaluator.yaml", tmp_path / "a"
    path.write_text("alpha: 0.1\n")
    deep.mkdir()
    monkeypatch.chdir(deep)
    for named in (path, find_policy(deep)):
        assert choose_policy(named).command("r@1") == "evaluator verdict r@1"
    named = f"evaluator verdict r@1 --policy {tmp_path}/"
    (deep / "loose.yaml").write_text("")
    assert choose_policy(Path("loose.yaml")).command("r@1") == f"{named}a/loose.yaml"
    monkeypatch.setenv("EVALUATOR_POLICY", "loose.yaml")
    assert choose_policy(find_policy(deep)).command("r@1") == f"{named}a/loose.yaml"
    (deep / "evaluator.yaml").write_text("")
    assert choose_policy(path).command("r@1", "--dry-run") == f"evaluator verdict r@1 --dry-run --policy {path}"
    learnt = with_learnt(choose_policy(path), Learnt(0.2, 0.001, 9, 9, df=9.0))
    assert learnt.path == str(path)


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
    with pytest.raises(
        PolicyError, match=r"the service is not known, and each service has its own policy \(cart, shop\)"
    ):
        choose(path)


def test_the_services_that_a_file_names_count_before_its_name(folder):
    path = folder(first="service: team/cart\nalpha: 0.1\n", both="services: [{name: a}, {name: b}]\nalpha: 0.2\n")
    assert alpha(path, "team/cart") == 0.1
    assert alpha(path, "a", "b") == alpha(path, "a") == alpha(path, "b") == 0.2
    with pytest.raises(UnknownName, match="'first'"):
        choose(path, "first")


def test_services_that_are_released_together_need_a_policy_that_names_them(folder):
    path = folder(a="alpha: 0.1\n", b="alpha: 0.2\n", default="")
    with pytest.raises(
        PolicyError, match=r"a and b are released together, but have separate policies: a\.yaml, b\.yaml"
    ) as error:
        choose(path, "b", "a")
    assert 'services: ["a", "b"]' in error.value.hint
    with pytest.raises(PolicyError, match=r"a\.yaml, default\.yaml"):
        choose(path, "a", "c")
    folder(both="services: [{name: a}, {name: b}]\nalpha: 0.3\n")
    assert [alpha(path, "a", "b"), alpha(path, "a"), alpha(path, "b")] == [0.3, 0.1, 0.2]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"cart": "", "other": "service: cart\n"}, r"other\.yaml:1: the policy of cart is already .*cart\.yaml"),
        ({"default": "alpha: 0.1\nservice: cart\n"}, r"default\.yaml:2: default is for services that have no policy"),
        ({"cart": "", "broken": "a: [\n"}, r"broken\.yaml:2: "),
        ({}, "there is no policy in this folder"),
        ({"default": "", "x1": "services: [a, 5]\n"}, r"x1\.yaml:1: services\[1\]: must be a mapping"),
        ({"default": "", "x1": "alpha: 0.1\nService: a\n"}, r"x1\.yaml:2: Service: .* did you mean 'service'"),
        ({"default": "", "x1": "servcie: a\n"}, r"there is no key 'servcie'"),
        (
            {"x": "services: [{name: a}, {name: b}]\n", "y": "services: [{name: a}, {name: c}]\n"},
            r"a is named by several",
        ),
    ],
)
def test_an_ambiguous_choice_is_an_error(folder, texts, says):
    with pytest.raises(PolicyError, match=says):
        choose(folder(**texts), "a" if "x" in texts else "cart")


@pytest.mark.parametrize("listed", ["[a, b]", "[{name: a}, {name: b}]", "[a, {name: b}]"])
def test_services_are_listed_with_or_without_the_word_name(folder, listed):
    path = folder(default="", both=f"services: {listed}\nalpha: 0.2\n")
    assert [alpha(path, "a", "b"), alpha(path, "a"), alpha(path, "c")] == [0.2, 0.2, 0.05]
    assert choose(path, "a").effective["services"] == [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize(
    "name", ["cart.YAML", "cart.Yml", "cart.yaml.bak", "cart.yaml.orig", "sub/cart.yaml", "a.yaml/x"]
)
def test_what_looks_like_a_policy_is_read_or_an_error(folder, name):
    path = folder(default="alpha: 0.3\n")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("alpha: 0.1\n")
    with pytest.raises(PolicyError, match="not read") as error:
        choose(path, "cart")
    assert str(path / name.split("/")[0]) in error.value.message
    with pytest.raises(PolicyError, match="not read"):
        list_policies(path)


def test_what_editors_leave_and_other_files_are_passed_over(folder):
    path = folder(default="alpha: 0.3\n")
    for name in ("cart.yaml~", "#cart.yaml#", ".cart.yaml", ".cart.yaml.swp", "README.md", ".git/x.yaml", "notes/a.md"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("alpha: 0.1\n")
    (path / ".#cart.yaml").symlink_to("ann@host.123")
    assert alpha(path, "cart") == alpha(path, ".cart") == 0.3


@pytest.mark.parametrize(
    ("known", "service"), [("Cart", "cart"), ("cart ", "cart"), ("cart", "CART"), ("cafe\u0301", "caf\u00e9")]
)
def test_a_service_that_is_almost_that_of_a_policy_has_not_the_default(folder, known, service):
    path = folder(**{known: "alpha: 0.1\n", "default": "alpha: 0.3\n"})
    with pytest.raises(PolicyError, match="differ only in case, spaces or Unicode form") as error:
        choose(path, service)
    assert f"'{known}'" in error.value.message
    assert f"'{service}'" in error.value.message
    assert alpha(path, known) == 0.1


def test_a_service_that_is_no_name_of_a_file(folder):
    path = folder(cart="")
    with pytest.raises(UnknownName) as error:
        choose(path, "team/mail")
    assert f"write a file in {path} with `service: team/mail`" in error.value.hint
    folder(mail="service: team/mail\nalpha: 0.1\n")
    assert alpha(path, "team/mail") == 0.1
    assert [file_of(name) for name in ("cart", "a/b", ".cart", "..")] == ["cart.yaml", "", "", ""]


def test_a_file_that_may_be_of_any_service_stops_all_and_says_why(folder):
    path = folder(cart="", broken="a: [\n")
    with pytest.raises(PolicyError, match=r"broken\.yaml:2") as error:
        choose(path, "cart")
    assert f"its services are unknown, and no policy in {path} applies" in error.value.hint
    assert f"--policy {path}/NAME.yaml" in error.value.hint


def test_a_mistake_in_the_policy_that_applies_has_its_line(folder):
    path = folder(cart="alpha: 0.1\nalpa: 1\n", shop="")
    assert choose(path, "shop").path == str(path / "shop.yaml")
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


@pytest.mark.parametrize("name", ["evaluator.yaml", "evaluator.policies"])
def test_a_link_to_nowhere_is_a_policy_that_cannot_be_read(tmp_path, name):
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(PolicyError, match="cannot be read"):
        choose_policy(find_policy(tmp_path))


def test_policies_are_listed_by_whose_they_are(folder, tmp_path):
    path = folder(cart="", both="services: [a, b]\n", default="")
    assert list(list_policies(path)) == ["a and b", "cart", "all other services"]
    assert list(list_policies(path / "cart.yaml")) == [""]


def test_of_stored_releases(tmp_path, folder):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    for name, service in (("cart@1", "cart"), ("cart@2", "cart"), ("shop@1", "shop"), ("loose", "")):
        release = Release(name, (Service(service, "1", "2"),))
        store.data.register_run(release, Run(f"run-{name}", name, f"run-{name}", "import"))
    path = folder(cart="alpha: 0.1\n", shop="alpha: 0.2\n")
    assert policy_of(path, store, ["cart@1", "cart@2"]).rulebook.alpha == 0.1
    with pytest.raises(PolicyError, match=r"different policies: .*cart\.yaml, .*shop\.yaml"):
        policy_of(path, store, ["cart@1", "shop@1"])
    with pytest.raises(PolicyError, match="the service is not known"):
        policy_of(path, store, ["loose"])
    with pytest.raises(UnknownName, match="'cart@3'"):
        policy_of(path, store, ["cart@3"])
    assert policy_of(path / "shop.yaml", store, ["cart@1"]).rulebook.alpha == 0.2
    folder(default="alpha: 0.3\n")
    assert policy_of(path, store, ["loose"]).rulebook.alpha == 0.3


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("evaluator.yml", "evaluator.yaml"),
        ("Evaluator.yaml", "evaluator.yaml"),
        ("evaluator.Policies", "evaluator.policies"),
    ],
)
def test_a_slip_in_the_name_of_the_only_policy_is_an_error(tmp_path, name, right):
    deep = tmp_path / "a"
    deep.mkdir()
    (tmp_path / name).touch()
    with pytest.raises(PolicyError, match=f"{name} is not read as a policy") as caught:
        find_policy(deep)
    assert caught.value.hint == f"call it {right}, or name it with --policy"
    (deep / "evaluator.yaml").touch()
    assert find_policy(deep) == deep / "evaluator.yaml"


def test_a_slip_below_a_policy_is_an_error_and_one_next_to_it_is_not(tmp_path):
    deep = tmp_path / "a"
    deep.mkdir()
    (tmp_path / "evaluator.yaml").touch()
    (tmp_path / "evaluator.yml").touch()
    assert find_policy(deep) == tmp_path / "evaluator.yaml"
    (deep / "evaluator.yml").touch()
    with pytest.raises(PolicyError, match="is not read as a policy"):
        find_policy(deep)


def test_a_mistake_in_one_policy_does_not_hide_a_sensitive_one(folder):
    policies = folder(cart="metrics: [", shop="sensitive: true\n")
    assert is_any_sensitive(policies)
    (policies / "shop.yaml").write_text("sensitive: false\n")
    with pytest.raises(PolicyError):
        is_any_sensitive(policies)
