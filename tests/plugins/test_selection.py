"""Which plugins are loaded, and in which order."""

from __future__ import annotations

import pytest

from loramux_plugins import PluginHost, PluginSelectionError
from tests.plugins.conftest import GREETER, FakeHooks, Site, greetings, states


@pytest.fixture
def three(site: Site) -> Site:
    for name in ("bee", "ant", "cat"):
        site.install_greeter(name)
    return site


def test_unset_loads_everything_in_the_order_of_names(three, host):
    host.load({})
    assert host.implementing("greet") == ["ant", "bee", "cat"]
    assert greetings(host)[0] == "module_of_ant greets you"


@pytest.mark.parametrize("nothing", ["", "  ", ",", " , "])
def test_an_empty_value_loads_nothing(three, host, nothing):
    host.load({"FAKE_PLUGINS": nothing})
    assert set(states(host).values()) == {"not selected"}
    assert host.implementing("greet") == []


def test_a_list_loads_those_alone_in_its_order(three, host):
    host.load({"FAKE_PLUGINS": " cat, ant ,"})
    assert host.implementing("greet") == ["cat", "ant"]
    assert states(host)["bee"] == "not selected"


def test_what_is_not_selected_is_not_imported(site, host):
    site.install_greeter("good")
    site.install_greeter("costly", "raise AssertionError('imported')")
    host.load({"FAKE_PLUGINS": "good"})
    assert states(host) == {"good": "active", "costly": "not selected"}


def test_the_short_variable_is_read(three, host):
    host.load({"PLUGINS": "bee"})
    assert host.implementing("greet") == ["bee"]


@pytest.mark.parametrize(("long", "expected"), [("ant", ["ant"]), ("", [])])
def test_the_long_variable_wins(three, host, long, expected):
    host.load({"FAKE_PLUGINS": long, "PLUGINS": "bee"})
    assert host.implementing("greet") == expected


def test_the_environment_of_the_process_is_read_when_loading(three, host, monkeypatch):
    monkeypatch.setenv("FAKE_PLUGINS", "cat")
    host.load()
    assert host.implementing("greet") == ["cat"]


@pytest.mark.parametrize("spelling", ["zoo-of_plugins", "Zoo.Of-Plugins"])
def test_a_distribution_stands_for_its_plugins(site, host, spelling):
    modules = {"zoo_lion": GREETER, "zoo_tiger": GREETER}
    site.install("zoo-of-plugins", {"lion": "zoo_lion", "tiger": "zoo_tiger"}, modules)
    site.install_greeter("bee")
    host.load({"FAKE_PLUGINS": spelling})
    assert host.implementing("greet") == ["lion", "tiger"]


def test_a_plugin_named_like_a_distribution_comes_before_it(site, host):
    site.install("zoo", {"zoo": "zoo_a", "other": "zoo_b"}, {"zoo_a": GREETER, "zoo_b": GREETER})
    host.load({"FAKE_PLUGINS": "zoo"})
    assert host.implementing("greet") == ["zoo"]


def test_naming_a_plugin_twice_loads_it_once(three, host):
    host.load({"FAKE_PLUGINS": "ant,ant-package,ant"})
    assert host.implementing("greet") == ["ant"]


def test_an_unknown_name_is_refused_and_the_rest_is_still_listed(three, host):
    with pytest.raises(PluginSelectionError) as refusal:
        host.load({"PLUGINS": "cat,unicorn"})
    message = str(refusal.value)
    assert message.startswith("PLUGINS asks for the plugin 'unicorn', which is not installed")
    assert "ant, bee, cat" in message
    assert states(host)["cat"] == "active"


def test_the_first_of_several_faults_is_raised(site, host):
    site.install_greeter("bad", "1 / 0")
    site.install_greeter("worse", "1 / 0")
    with pytest.raises(PluginSelectionError, match="'worse'"):
        host.load({"FAKE_PLUGINS": "worse,bad"})


CONFIGURABLE = (
    GREETER
    + """
import os

@hookimpl
def missing_configuration():
    return None if "GREETER_HOME" in os.environ else "GREETER_HOME is not set; set it to a place."
"""
)


def test_a_plugin_without_its_configuration_is_left_aside(site, host, monkeypatch):
    monkeypatch.delenv("GREETER_HOME", raising=False)
    site.install_greeter("homely", CONFIGURABLE)
    host.load({})
    (info,) = host.describe()
    assert info.state == "not configured"
    assert info.error == "GREETER_HOME is not set; set it to a place."
    assert info.hooks == ("greet", "missing_configuration")
    assert host.implementing("greet") == []


def test_a_plugin_with_its_configuration_is_active(site, host, monkeypatch):
    monkeypatch.setenv("GREETER_HOME", "here")
    site.install_greeter("homely", CONFIGURABLE)
    host.load({})
    assert states(host) == {"homely": "active"}


def test_asking_by_name_for_a_plugin_without_its_configuration_is_refused(site, host, monkeypatch):
    monkeypatch.delenv("GREETER_HOME", raising=False)
    site.install_greeter("homely", CONFIGURABLE)
    with pytest.raises(PluginSelectionError) as refusal:
        host.load({"FAKE_PLUGINS": "homely"})
    assert str(refusal.value) == (
        "plugin 'homely' of homely-package 1.0 is not configured (GREETER_HOME is not set; set it "
        "to a place); configure it or take it out of FAKE_PLUGINS."
    )


@pytest.mark.parametrize("value", ["maybe", "2"])
def test_strict_takes_yes_or_no(host, value):
    with pytest.raises(PluginSelectionError, match=f"FAKE_STRICT_PLUGINS is '{value}'"):
        host.load({"FAKE_STRICT_PLUGINS": value})


def clashing(site: Site) -> None:
    site.install("first-shop", {"toy": "toy_of_first"}, {"toy_of_first": GREETER})
    site.install("second-shop", {"toy": "toy_of_second"}, {"toy_of_second": GREETER})
    site.install_greeter("bee")


def test_one_name_from_two_distributions_is_refused_when_selected(site, host):
    clashing(site)
    with pytest.raises(
        PluginSelectionError, match="'toy' is offered by first-shop and second-shop"
    ):
        host.load({"FAKE_PLUGINS": "toy"})


def test_one_name_from_two_distributions_breaks_both_and_nobody_else(site, host):
    clashing(site)
    host.load({})
    assert host.implementing("greet") == ["bee"]
    toys = [info for info in host.describe() if info.name == "toy"]
    assert [(toy.distribution, toy.state) for toy in toys] == [
        ("first-shop", "broken"),
        ("second-shop", "broken"),
    ]
    assert all("first-shop and second-shop" in str(toy.error) for toy in toys)


def test_the_distribution_name_settles_a_clash(site, host):
    clashing(site)
    host.load({"FAKE_PLUGINS": "second-shop"})
    assert greetings(host) == ["toy_of_second greets you"]


def test_a_distribution_found_twice_counts_once_and_the_first_on_the_path_wins(site, host):
    site.install("shop", {"toy": "toy_of_old"}, {"toy_of_old": GREETER}, version="1.0")
    site.install("Shop", {"toy": "toy_of_new"}, {"toy_of_new": GREETER}, version="2.0")
    host.load({})
    assert greetings(host) == ["toy_of_new greets you"]
    assert [info.version for info in host.describe()] == ["2.0"]


def test_a_shadowing_distribution_without_the_plugin_hides_the_shadowed_one(site, host):
    site.install("shop", {"toy": "toy_of_old"}, {"toy_of_old": GREETER}, version="1.0")
    site.install("shop", {}, version="2.0")
    host.load({})
    assert host.describe() == []


def test_other_groups_are_not_ours(site, host):
    site.install("stranger", {"toy": "toy_stranger"}, {"toy_stranger": "1 / 0"}, group="fake")
    site.install("cousin", {"toy": "toy_cousin"}, {"toy_cousin": "1 / 0"}, group="not.fake.plugins")
    host.load({})
    assert host.describe() == []


def test_two_hosts_do_not_meet(three, host):
    other = PluginHost("fake", host.group, [FakeHooks])
    host.load({"FAKE_PLUGINS": "ant"})
    other.load({"FAKE_PLUGINS": "bee"})
    assert host.implementing("greet") == ["ant"]
    assert other.implementing("greet") == ["bee"]
    assert states(host)["bee"] == "not selected"
