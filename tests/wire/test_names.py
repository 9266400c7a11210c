"""Names as attacks, sent to a real server that has something worth stealing next to every store.

The client's library would repair some of them, so the bodies go out as they are written here.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import cycle
from urllib.parse import quote

import httpx
import pytest

from tests.wire.world import PROMPT, REPOSITORIES, World, until_told

OTHER_TENANT = "tenant2/adapters"
"""Lies beside the prefix of the S3 resolver, and begins as it does."""

SECRET = "treasure"
"""An adapter outside of every resolver's reach: beside the directory, the prefix, the list."""

STEPS_UP = [
    "..", ".", "...", "..;", "%2e%2e", "%2E%2e", "%252e%252e", "..%00", "..%2f..", "..\\..",
    "\u2024\u2024", "\uff0e\uff0e", "\u2025", "\ufe52\ufe52", "\u3002\u3002", "..\u200b",
    "\u202e..", "%c0%ae%c0%ae", "%u002e%u002e", "&#46;&#46;", "\\u002e\\u002e", "~",
]  # fmt: skip

SLASHES = [
    "/", "//", "\\", "%2f", "%2F", "%252f", "%5c", "\u2215", "\u2044", "\uff0f", "\u29f8",
    "\uff3c", "%c0%af", "/./", "/\u200b/",
]  # fmt: skip

TARGETS = [
    SECRET,
    f"elsewhere/{SECRET}",
    f"adapters/elsewhere/{SECRET}",
    f"tenant2/adapters/{SECRET}",
]

ROUNDABOUT = [
    f"/{SECRET}", f"//{SECRET}", f"file:///{SECRET}", f"s3://adapters/{OTHER_TENANT}/{SECRET}",
    f"hf://org/{SECRET}", f"org/{SECRET}", f"org/{SECRET}@main", f"{REPOSITORIES[0]}/../{SECRET}",
    f"{REPOSITORIES[0]}@../../{SECRET}", f"{REPOSITORIES[0]}@refs/pr/1", f"C:\\{SECRET}",
    f"known/../../elsewhere/{SECRET}", "known/..", "known/.", "known/", "known//", "./known",
    " known", "known ", "known\n", "known\t", "\tknown", "known\u00a0", "known\x00",
    "known\x00.x", "known\u200b", "known\u2028", "\ufeffknown", "known?versionId=1", "known#x",
    "known;x", "known%00", "known%20", "KNOWN", "Known", "\uff4bnown", "\u212aNOWN",
    "kno\u0301wn", "known\u0300", "\u043anown", "$HOME", "`id`", "$(id)", "%s%s%s%n", "{0}",
    "{base_model_name}", "known*", "k?own", "[k]nown", "*", "..", ".", "/", "\\", "-", "--help",
    "NUL", "con", "\x1b[31mknown", "\x7f", "\x85", "\u0000", "a" * 513, "a" * 10_000,
    "a/" * 5_000, "/" * 10_000, "../" * 3_400, "\u00e9" * 10_000, "a" * 1_000_000,
    "\U000e0001known", "\ufffd",
]  # fmt: skip

WAYS_UP = [
    *((step, slash) for step in STEPS_UP for slash in ("/", "%2f")),
    *(("..", slash) for slash in SLASHES),
]

CLIMBING = [
    f"{(step + slash) * depth}{target}"
    for (step, slash), depth, target in zip(WAYS_UP, cycle((1, 2, 3)), cycle(TARGETS))
]


@pytest.fixture(scope="module")
def treasure(shared_world: World) -> None:
    """Adapters beside the directory, the prefix and the list."""
    shared_world.on_disk("known")
    for name in (SECRET, f"adapters/{SECRET}"):
        shared_world.in_bucket(name, prefix="tenant2")
    for prefix in (OTHER_TENANT, "tenant"):
        shared_world.in_bucket(SECRET, prefix=prefix)
    shared_world.on_hub(f"org/{SECRET}")


@pytest.fixture
def guarded(wire: World, treasure: None) -> World:
    assert wire.ask_until_told("known").status_code == 200
    return wire


def post(client: httpx.Client, name: object) -> httpx.Response:
    """JSON with escapes alone, so that lone surrogates get through."""
    body = json.dumps({"model": name, "prompt": PROMPT, "max_tokens": 1})
    headers = {"Content-Type": "application/json"}
    content = body.encode("ascii")
    return until_told(lambda: client.post("/v1/completions", content=content, headers=headers))


@pytest.mark.parametrize("name", ["\ud800", "known\udfff", 1, 1.5, True, ["known"], [None], {}])
def test_what_is_no_text_is_no_name(guarded, name):
    assert post(guarded.client, name).status_code == 400


def assert_unknown(response: httpx.Response, name: str) -> None:
    assert response.status_code == 404, (name[:80], response.text[:300])
    error = response.json()["error"]
    assert error["param"] == "model"
    assert len(error["message"]) < 400
    assert "\n" not in error["message"] or "\n" in name


def assert_asked_only_inside(wire: World) -> None:
    """No store was asked for anything but what lies below the operator's own address."""
    for request in wire.s3.requests:
        path = httpx.URL(request.path).path
        assert path.startswith("/adapters/tenant/adapters/"), request.path
    allowed = tuple(f"{name}/" for name in REPOSITORIES)
    for line in wire.hub.log():
        _, _, path = line.partition(" ")
        assert path.removeprefix("/api/models/").lstrip("/").startswith(allowed), line


def test_no_name_climbs_out(guarded):
    for name in CLIMBING:
        assert_unknown(post(guarded.client, name), name)
    assert_asked_only_inside(guarded)


def test_no_name_goes_round_about(guarded):
    for name in ROUNDABOUT:
        assert_unknown(post(guarded.client, name), name)
    assert_asked_only_inside(guarded)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_name_is_one_sequence_of_characters(guarded, form):
    """No form of a name stands for another: neither for the server nor for its files."""
    names = ["caf\u00e9", "\ufb01n", "\u00c5ngstr\u00f6m", "\u1e9b\u0323"]
    for name in map(unicodedata.normalize, [form] * len(names), names):
        for other in {unicodedata.normalize(f, name) for f in ("NFC", "NFD", "NFKC", "NFKD")}:
            assert_unknown(post(guarded.client, other), other)
        if not unicodedata.is_normalized("NFC", name):
            continue
        text = guarded.on_disk(name)
        answer = guarded.ask_until_told(name)
        assert answer.json()["choices"][0]["text"] == text
        for other in {unicodedata.normalize(f, name) for f in ("NFD", "NFKC", "NFKD")} - {name}:
            assert_unknown(post(guarded.client, other), other)
        guarded.population.remove(f"shelf/{name}")


def test_names_in_addresses_are_no_better(guarded):
    for name in (*STEPS_UP, "known/../known", "\ud800", "a" * 5000, "\x00"):
        raw = quote(f"{name}/{SECRET}".encode("utf-8", "surrogatepass"), safe="")
        for path in (f"/v1/models/{raw}", f"/v1/models/{raw.replace('%2F', '/')}"):
            response = guarded.client.get(path)
            assert response.status_code in (400, 404), (path[:100], response.text)


def test_the_server_is_as_well_as_before(guarded):
    assert guarded.ask_until_told("known").status_code == 200
    assert guarded.client.get("/health").status_code == 200
    assert guarded.unfinished() == []
