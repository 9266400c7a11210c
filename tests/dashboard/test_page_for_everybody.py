"""The page with many adapters and hostile names: accessible, contained, and whole on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loramux.lora.adapter import AdapterInfo
from loramux.server.dashboard.snapshot import MAX_ROWS
from tests.dashboard.browser import Page
from tests.dashboard.engine import engine_of, info
from tests.server.running_server import RunningServer

AXE = Path(__file__).parent / "axe/axe.min.js"

HOSTILE = [
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    '"><svg onload=window.broken=1>',
    "javascript:window.broken=1",
    "متعدد-اللغات/محول",
    "\u202egnp.exe\u2066",
    "{{7*7}}${7*7}",
    "__proto__",
    "a" * 400,
]


def many() -> list[AdapterInfo]:
    teams = ("support", "legal-and-compliance", "research/evaluations/2026-10")
    plain = [f"{teams[n % 3]}/customer-{n:03}-summaries-v{n % 5}" for n in range(21)]
    return [info(name, number) for number, name in enumerate([*HOSTILE, *plain], 1)]


@pytest.fixture
def busy(shelf_server: RunningServer, page: Page) -> Page:
    engine_of(shelf_server).infos = many()
    page.goto(shelf_server.url)
    page.until("document.querySelectorAll('#adapter-rows tr').length > 0")
    page.until("document.getElementById('connection').dataset.state === 'live'")
    return page


def violations(page: Page) -> list[dict[str, Any]]:
    page.evaluate(AXE.read_text(encoding="utf-8") + ";undefined")
    passes, found = page.evaluate(
        "axe.run().then((r) => [r.passes.map((rule) => rule.id), r.violations])"
    )
    assert {"color-contrast", "label", "region", "button-name"} <= set(passes)
    return [
        {"rule": violation["id"], "nodes": [node["html"][:200] for node in violation["nodes"]]}
        for violation in found
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280), ("light", 1280)])
def test_axe_finds_nothing(busy: Page, scheme: str, width: int) -> None:
    busy.prefer(prefers_color_scheme=scheme)
    busy.resize(width, 900)
    busy.click("#show-all")
    assert violations(busy) == []


def test_axe_finds_nothing_in_an_empty_server(page: Page, shelf_server: RunningServer) -> None:
    engine_of(shelf_server).infos = []
    page.goto(shelf_server.url)
    page.until("document.getElementById('adapters-empty').innerText.startsWith('No adapter yet')")
    assert violations(page) == []


def test_hostile_names_are_text(busy: Page) -> None:
    busy.click("#show-all")
    names = "[...document.querySelectorAll('#adapter-rows bdi')].map((name) => name.textContent)"
    spelled_out = {"\u202egnp.exe\u2066": "‹U+202E›gnp.exe‹U+2066›"}  # noqa: RUF001
    assert {spelled_out.get(name, name) for name in HOSTILE} <= set(busy.evaluate(names))
    assert busy.evaluate("window.broken === undefined")
    assert busy.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert busy.complaints == []


def test_a_hostile_name_can_be_asked(busy: Page) -> None:
    busy.type("#filter", "<script>")
    busy.until("document.querySelectorAll('#adapter-rows tr').length === 1")
    busy.click("#adapter-rows button")
    busy.type("#prompt", "hello")
    busy.click("#send")
    busy.until("document.querySelectorAll('.answer[data-state=failed]').length === 1")
    assert HOSTILE[0] in busy.text("#answers")
    assert busy.evaluate("window.broken === undefined")


def test_nothing_sticks_out(busy: Page) -> None:
    for width in (320, 360, 768, 1024, 1280, 2560):
        busy.resize(width, 800)
        assert busy.evaluate("document.documentElement.scrollWidth") <= width, width


def test_a_filter_says_what_it_has_not_looked_at(page: Page, shelf_server: RunningServer) -> None:
    engine_of(shelf_server).infos = [info(f"customer-{n}", n) for n in range(MAX_ROWS + 1)]
    page.goto(shelf_server.url)
    page.until("document.querySelectorAll('#adapter-rows tr').length > 0")
    page.type("#filter", "nobody")
    note = page.text("#adapters-empty")
    assert note.startswith("None of the 500 adapters used last has that in its name;")
    assert note.endswith("of the 501.")


def test_sorting_tells_its_direction(busy: Page) -> None:
    busy.click("#head-rank button")
    assert busy.evaluate("document.getElementById('head-rank').ariaSort") == "ascending"
    busy.click("#head-rank button")
    assert busy.evaluate("document.getElementById('head-rank').ariaSort") == "descending"
    assert busy.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_keyboard_reaches_everything_in_order(busy: Page) -> None:
    busy.evaluate("document.body.focus()")
    reached = []
    for _ in range(14):
        busy.press("Tab", 9)
        reached.append(
            busy.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert reached[:7] == [
        "Skip to content", "Now", "Adapters", "Playground", "theme", "filter", "Name",
    ]  # fmt: skip


def test_a_refresh_leaves_the_focus_where_it_is(
    busy: Page, shelf_server: RunningServer, folder: Path
) -> None:
    busy.evaluate("document.querySelector('#adapter-rows tr:nth-child(3) button').focus()")
    name = busy.evaluate("document.activeElement.ariaLabel")
    engine_of(shelf_server).infos = [info("newcomer", 50), *many()]
    (folder / "newcomer").mkdir()
    with shelf_server.http() as http:
        http.post("/v1/completions", json={"model": "newcomer", "prompt": "a", "max_tokens": 1})
    busy.until("document.getElementById('show-all').textContent.includes('31')")
    assert busy.evaluate("document.activeElement.ariaLabel") == name


def test_no_row_moves_from_under_the_pointer(
    busy: Page, shelf_server: RunningServer, folder: Path
) -> None:
    names = "[...document.querySelectorAll('#adapter-rows bdi.name')].map((it) => it.textContent)"
    before = busy.evaluate(names)

    def load(*newcomers: str) -> None:
        engine_of(shelf_server).infos = [*map(info, newcomers), *many()]
        (folder / newcomers[0]).mkdir()
        with shelf_server.http() as http:
            body = {"model": newcomers[0], "prompt": "a", "max_tokens": 1}
            assert http.post("/v1/completions", json=body).status_code == 200
        busy.until(
            f"document.getElementById('show-all').textContent.includes({30 + len(newcomers)})"
        )

    x, y = busy.evaluate(
        "(() => { const row = document.querySelector('#adapter-rows tr:nth-child(2)');"
        "row.scrollIntoView({ behavior: 'instant', block: 'center' });"
        "const box = row.getBoundingClientRect(); return [box.x + 40, box.y + 10]; })()"
    )
    busy.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    load("first")
    assert busy.evaluate(names) == before
    busy.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    load("second", "first")
    assert {"first", "second"} <= set(busy.evaluate(names))


def test_the_playground_sends_what_the_model_takes(page: Page, shelf_server: RunningServer) -> None:
    tokenizer = engine_of(shelf_server).tokenizer
    for template, expected in ((tokenizer.chat_template, "chat"), (None, "completion")):
        tokenizer.chat_template = template
        page.goto(shelf_server.url)
        page.until("document.getElementById('connection').dataset.state === 'live'")
        assert page.evaluate("document.getElementById('endpoint').value") == expected
    page.type("#prompt", "ab")
    page.send("Input.dispatchKeyEvent", type="keyDown", modifiers=2, key="Enter",
              code="Enter", windowsVirtualKeyCode=13)  # fmt: skip
    page.until("document.querySelectorAll('.answer[data-state=done]').length === 1")


def test_the_theme_can_be_chosen_and_is_kept(busy: Page, shelf_server: RunningServer) -> None:
    busy.prefer(prefers_color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = busy.evaluate(ground)
    busy.click("#theme")
    assert busy.evaluate(ground) == light
    busy.click("#theme")
    dark = busy.evaluate(ground)
    assert dark != light
    busy.goto(shelf_server.url)
    busy.until("document.getElementById('theme').textContent === 'Theme: dark'")
    assert busy.evaluate(ground) == dark


def test_no_motion_for_those_who_want_none(busy: Page) -> None:
    busy.prefer(prefers_reduced_motion="reduce")
    assert busy.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    blocks = "getComputedStyle(document.querySelector('.tier-block')).transitionDuration"
    assert busy.evaluate(blocks) == "0s"
