"""The file of API keys: what it may say, what is refused in one sentence, and reading it again."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from loramux.errors import InvalidRequestError
from loramux.server.access.caller import Quota, Role
from loramux.server.access.keyring import Keyring, fingerprint
from loramux.server.access.keys_file import read_keys_file

SECRET = "sk-of-team-a"
HASHED = hashlib.sha256(b"sk-hashed").hexdigest()

EVERYTHING = f"""
[[keys]]
name = "team-a"
key = ["{SECRET}", "sk-next"]
adapters = ["team-a/*", "shared"]
quota = {{ requests_per_second = 2.5, concurrent_loads = 2, resident_adapters = 8 }}

[[keys]]
name = "ops"
sha256 = "{HASHED}"
role = "admin"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(EVERYTHING)
    path.chmod(0o600)
    return path


def test_what_a_file_says(path: Path) -> None:
    ring = Keyring(file=path)
    team, ops = ring.caller(SECRET.encode()), ring.caller(b"sk-hashed")
    assert ring.caller(b"sk-next") == team
    assert (team.name, team.role, team.quota) == ("team-a", Role.INFER, Quota(2.5, 2, 8))
    assert team.may_use("team-a/x")
    assert not team.may_use("team-b/x")
    assert (ops.name, ops.role, ops.quota) == ("ops", Role.ADMIN, Quota())
    assert ops.may_use("anything")
    assert not ring.is_open


@pytest.mark.parametrize("key", [b"", b"team-a", HASHED.encode(), SECRET.upper().encode(), b"\xff"])
def test_whose_key_is_nobodys(path: Path, key: bytes) -> None:
    assert Keyring(file=path).caller(key) is None


def test_plain_keys_may_do_everything_and_are_called_by_their_fingerprint() -> None:
    caller = Keyring(["plain"]).caller(b"plain")
    assert caller.name == fingerprint("plain")
    assert caller.is_admin
    assert caller.may_use("anything")


ONE = f'[[keys]]\nname = "a"\nkey = "{SECRET}"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "keys"),
        ("keys = []", "keys"),
        ("[[keys]", "no TOML"),
        ('[[keys]]\nname = "a"', "neither a key nor a sha256"),
        ('[[keys]]\nname = "a"\nkey = ""', "keys.0.key.0"),
        ('[[keys]]\nname = "a"\nsha256 = "12"', "keys.0.sha256.0"),
        ('[[keys]]\nname = "a b"\nkey = "x"', "keys.0.name"),
        (f'[[keys]]\nname = "{SECRET}\\n"\nkey = "x"', "keys.0.name"),
        (ONE + 'role = "root"', "keys.0.role"),
        (ONE + 'rolle = "admin"', "keys.0.rolle"),
        (ONE + 'adapters = "team-a"', "keys.0.adapters"),
        (ONE + 'adapters = ["team-a/../*"]', "fits no name"),
        (ONE + "quota = { requests_per_second = 0 }", "requests_per_second"),
        (ONE + "quota = { requests_per_second = nan }", "requests_per_second"),
        (ONE + "quota = { resident_adapters = 0 }", "resident_adapters"),
        (ONE + "quota = { concurrent_loads = 1.5 }", "concurrent_loads"),
        (ONE + ONE, "'a' is there twice"),
        (ONE + f'[[keys]]\nname = "b"\nkey = "{SECRET}"', "both 'a' and 'b'"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence_without_a_key(
    path: Path, text: str, reason: str
) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequestError) as refusal:
        read_keys_file(path)
    sentence = str(refusal.value)
    assert reason in sentence
    assert str(path) in sentence
    assert SECRET not in sentence
    assert "\n" not in sentence
    assert refusal.value.__cause__ is None  # which a traceback would show


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match="cannot be used"):
        read_keys_file(path)


def test_a_key_that_is_given_twice(path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"'team-a'.*--api-key"):
        Keyring([SECRET], path)


def test_others_who_can_read_it_are_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_keys_file(path)
    assert not caplog.records
    path.chmod(0o644)
    read_keys_file(path)
    assert "chmod" in caplog.text


def test_reading_it_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ring = Keyring(["sk-plain"], path)
    path.write_text('[[keys]]\nname = "b"\nkey = "sk-b"')
    ring.reload()
    assert ring.caller(SECRET.encode()) is None
    assert ring.caller(b"sk-b").name == "b"
    path.write_text(f'{ONE}key = "{SECRET}"')
    ring.reload()
    assert ring.caller(b"sk-b").name == "b"
    assert "stay as they are" in caplog.text
    assert not any(secret in caplog.text for secret in (SECRET, "sk-b", "sk-plain"))


def test_no_key_is_in_what_is_shown_of_them(path: Path) -> None:
    ring = Keyring(["sk-plain"], path)
    shown = f"{ring!r} {vars(ring)!r} {ring.caller(SECRET.encode())!r}"
    assert not any(secret in shown for secret in (SECRET, "sk-next", "sk-plain"))
