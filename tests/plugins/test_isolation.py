"""What a broken plugin does to the others: nothing."""

from __future__ import annotations

import logging
import types

import pluggy
import pytest

from loramux_plugins import PluginHost, PluginSelectionError
from tests.plugins.conftest import GREETER, GROUP, FakeHooks, Site, greetings, python, states

hookimpl = pluggy.HookimplMarker("fake")

MARK = "import pluggy\nhookimpl = pluggy.HookimplMarker('fake')\n"

BROKEN = {
    "import error": ("import no_such_module_anywhere", "ModuleNotFoundError"),
    "error at import": ("raise RuntimeError('no\\nway')", "RuntimeError: no way"),
    "syntax error": ("def", "SyntaxError"),
    "sys.exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "foreign panic": ("class Panic(BaseException): pass\nraise Panic('gone')", "Panic: gone"),
    "unknown argument": (
        MARK + "@hookimpl\ndef greet(nmae): pass\n@hookimpl\ndef missing_configuration(): pass",
        "nmae",
    ),
    "raises when questioned": (
        MARK + "@hookimpl\ndef missing_configuration(): raise OSError('disk')",
        "OSError: disk",
    ),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, site: Site) -> str:
    source, complaint = BROKEN[request.param]
    site.install_greeter("before")
    site.install_greeter("broken", source)
    site.install_greeter("later")
    return complaint


def test_a_broken_plugin_leaves_the_others_alone(broken, host, caplog):
    host.load({})
    assert host.implementing("greet") == ["before", "later"]
    assert states(host) == {"before": "active", "broken": "broken", "later": "active"}
    (info,) = (info for info in host.describe() if info.name == "broken")
    assert broken in str(info.error)
    assert "\n" not in str(info.error)
    assert any("'broken' of broken-package 1.0 is left out" in text for text in caplog.messages)


def test_a_broken_plugin_asked_for_by_name_is_refused(broken, host):
    with pytest.raises(PluginSelectionError) as refusal:
        host.load({"FAKE_PLUGINS": "before,broken,later"})
    assert str(refusal.value).startswith("plugin 'broken' of broken-package 1.0 is broken (")
    assert str(refusal.value).endswith("; repair it or take it out of FAKE_PLUGINS.")
    assert broken in str(refusal.value)
    assert refusal.value.__cause__ is not None
    assert states(host)["later"] == "active"


def test_strict_raises_the_plugins_own_error(site, host):
    site.install_greeter("broken", "raise RuntimeError('here')")
    with pytest.raises(RuntimeError, match="here") as raised:
        host.load({"FAKE_STRICT_PLUGINS": "1"})
    assert "module_of_broken" in str(raised.traceback[-1].path)


def test_strict_does_not_let_a_plugin_end_the_process(site, host):
    site.install_greeter("broken", "raise SystemExit(0)")
    with pytest.raises(PluginSelectionError, match="SystemExit: 0"):
        host.load({"FAKE_STRICT_PLUGINS": "yes"})


def test_strict_leaves_what_is_not_selected_alone(site, host):
    site.install_greeter("broken", "1 / 0")
    host.load({"FAKE_STRICT_PLUGINS": "1", "FAKE_PLUGINS": ""})
    assert states(host) == {"broken": "not selected"}


def test_an_interrupt_is_not_taken_for_a_fault(site, host):
    site.install_greeter("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        host.load({})


MISSPELT = GREETER + "\n@hookimpl\ndef missing_configurations(): pass\n"


def test_a_misspelt_hook_is_reported_and_the_plugin_used(site, host, caplog):
    site.install_greeter("clumsy", MISSPELT)
    host.load({})
    (info,) = host.describe()
    assert info.state == "active"
    assert info.error == (
        "it implements the unknown hook 'missing_configurations' "
        "(did you mean 'missing_configuration'?)"
    )
    assert info.error in caplog.text
    assert greetings(host) == ["module_of_clumsy greets you"]


@pytest.mark.parametrize("environ", [{"FAKE_PLUGINS": "clumsy"}, {"FAKE_STRICT_PLUGINS": "1"}])
def test_a_misspelt_hook_breaks_a_plugin_on_which_somebody_counts(site, host, environ):
    site.install_greeter("clumsy", MISSPELT)
    with pytest.raises(Exception, match="did you mean 'missing_configuration'"):
        host.load(environ)
    assert states(host) == {"clumsy": "broken"}


def test_an_unknown_hook_like_no_other_lists_the_hooks(site, host):
    site.install_greeter("odd", MARK + "@hookimpl\ndef xyzzy(): pass")
    host.load({})
    assert "(the hooks are greet, missing_configuration)" in str(host.describe()[0].error)


def test_an_optional_hook_may_be_unknown(site, host):
    site.install_greeter("new", MARK + "@hookimpl(optionalhook=True)\ndef of_tomorrow(): pass")
    host.load({"FAKE_PLUGINS": "new"})
    assert states(host) == {"new": "active"}


def test_a_plugin_without_any_hook_is_pointed_out(site, host, caplog):
    site.install_greeter("silent", "def greet(name): return 'unmarked'")
    host.load({})
    assert "'silent' of silent-package 1.0 implements no hook" in caplog.text


@pytest.mark.parametrize("environ", [{"FAKE_PLUGINS": "silent"}, {"FAKE_STRICT_PLUGINS": "1"}])
def test_a_plugin_without_any_hook_on_which_somebody_counts_is_refused(site, host, environ):
    site.install_greeter("silent", "def greet(name): return 'unmarked'")
    site.install_greeter("ant")
    with pytest.raises(Exception, match=r"implements no hook \(is a hookimpl marker missing"):
        host.load(environ)
    assert states(host)["silent"] == "broken"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("module_of_hole:missing", "AttributeError"),
        ("module_of_hole:nothing", "entry point module_of_hole:nothing is None"),
        ("no_such_module_anywhere", "ModuleNotFoundError"),
        ("not a module", "entry point 'not a module' is no module[:attribute]"),
        (":::", "entry point ':::' is no module[:attribute]"),
    ],
)
def test_an_entry_point_that_leads_nowhere(site, host, value, complaint):
    site.install("hole-package", {"hole": value}, {"module_of_hole": "nothing = None"})
    site.install_greeter("good")
    host.load({})
    assert states(host) == {"good": "active", "hole": "broken"}
    assert complaint in str(next(i.error for i in host.describe() if i.name == "hole"))


def test_entry_points_that_cannot_be_parsed_break_that_distribution_alone(site, host):
    site.install("torn-package", f"[{GROUP}]\nthis line has no equals sign\n")
    site.install_greeter("good")
    host.load({})
    assert states(host) == {"good": "active", "torn-package": "broken"}
    with pytest.raises(PluginSelectionError, match=r"entry_points\.txt cannot be parsed"):
        PluginHost("fake", GROUP, [FakeHooks]).load({"FAKE_PLUGINS": "torn-package"})


def test_leftovers_of_an_uninstalled_distribution_are_passed_over(site, host, caplog):
    (site.install("gone", {"gone": "module_of_gone"}) / "METADATA").unlink()
    (site.install("garbled", {"garbled": "x"}) / "METADATA").write_bytes(b"\xff\xfe\x00Name")
    site.install_greeter("good")
    host.load({})
    assert states(host) == {"good": "active"}
    assert "METADATA of an installed distribution cannot be read" in caplog.text


def test_one_object_under_two_names_counts_once(site, host):
    site.install("twin", {"castor": "twin_mod", "pollux": "twin_mod"}, {"twin_mod": GREETER})
    host.load({})
    castor, pollux = host.describe()
    assert castor.error == "the same object is already the plugin 'pollux'"
    assert pollux.error is None
    assert greetings(host) == ["twin_mod greets you"]


def test_two_packages_with_a_module_of_one_name(site, host):
    for name in ("ours", "theirs"):
        site.install(f"{name}-package", {name: "resolver"}, {"resolver": GREETER})
    host.load({})
    ours, theirs = host.describe()
    assert ours.error == (
        "its entry point and that of plugin 'theirs' of theirs-package 1.0 both name the module "
        "'resolver', so one package hides the other; uninstall one, or rename the module of one"
    )
    assert theirs.error is None
    assert greetings(host) == ["resolver greets you"]


class Greeter:
    """A plugin made in code."""

    @hookimpl
    def greet(self, name: str) -> str:
        return f"hello {name}"


def test_a_plugin_from_code_is_asked_first(site, host):
    site.install_greeter("ant")
    host.load({})
    host.register(Greeter(), "mine")
    assert greetings(host) == ["hello you", "module_of_ant greets you"]
    info = next(info for info in host.describe() if info.name == "mine")
    assert (info.value, info.distribution, info.version) == ("Greeter", None, None)


def test_a_taken_name_leaves_its_owner_in_place(site, host):
    host.register(Greeter(), "mine")
    with pytest.raises(PluginSelectionError, match="the name 'mine' is taken by another plugin"):
        host.register(Greeter(), "mine")
    assert greetings(host) == ["hello you"]


def test_an_error_while_working_with_a_plugin_breaks_that_one(site, host, caplog):
    site.install_greeter("ant", GREETER.replace("return", "raise ValueError(1) #"))
    site.install_greeter("bee")
    host.load({})
    heard = []
    for plugin in host.implementing("greet"):
        with host.isolated(plugin):
            heard.append(host.call(plugin, "greet", name="you"))
    assert heard == ["module_of_bee greets you"]
    assert states(host) == {"ant": "broken", "bee": "active"}
    assert host.implementing("greet") == ["bee"]
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"FAKE_PLUGINS": "ant"}, PluginSelectionError),
        ({"FAKE_STRICT_PLUGINS": "1"}, ValueError),
        ({}, LookupError),
    ],
)
def test_when_an_error_while_working_is_raised(site, environ, expected):
    site.install_greeter("ant")
    host = PluginHost("fake", GROUP, [FakeHooks], fatal=(LookupError,))
    host.load(environ)
    fault = LookupError if expected is LookupError else ValueError
    with pytest.raises(expected), host.isolated("ant"):
        raise fault("while working")
    assert states(host) == {"ant": "broken"}


def test_a_module_and_an_object_are_called_alike(host):
    plugin = types.ModuleType("plain")
    plugin.greet = hookimpl(lambda name: f"plain {name}")
    host.register(plugin, "plain")
    host.register(Greeter(), "class")
    assert host.call("plain", "greet", name="x") == "plain x"
    assert host.call("class", "greet", name="x") == "hello x"


def test_the_ground_floor_imports_nothing_of_ours():
    code = "import sys, loramux_plugins; print([m for m in sys.modules if m.startswith('loramux')])"
    names = python(code)
    assert "'loramux'" not in names
    assert "loramux_plugins" in names


def test_broken_plugins_can_be_followed_in_the_log(site, host, caplog):
    caplog.set_level(logging.DEBUG, logger="loramux_plugins")
    site.install_greeter("broken", "raise RuntimeError('deep inside')")
    host.load({})
    traces = [record for record in caplog.records if record.exc_info]
    assert traces
    assert "deep inside" in str(traces[0].exc_info[1])
