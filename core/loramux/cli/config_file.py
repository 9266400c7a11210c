"""``--config FILE.yaml``: flags from a file, over which those of the command line win."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

FLAG = "--config"


def add_config_argument(parser: Any) -> None:
    """Add the flag to a parser that has, or will have, all others."""
    parser.add_argument(
        FLAG, action=_ReadConfig, metavar="FILE", default=None,
        help="YAML file whose keys are flags without their dashes in front, such as "
        "max-loras: 8; what the command line says wins",
    )  # fmt: skip


def with_config_first(words: Sequence[str]) -> list[str]:
    """The words with ``--config FILE`` right behind the command, so that all others win over it."""
    for place, word in enumerate(words):
        if word == FLAG or word.startswith(f"{FLAG}="):
            length = 2 if word == FLAG else 1
            rest = [*words[1:place], *words[place + length :]]
            return [*words[:1], *words[place : place + length], *rest]
    return list(words)


class _ReadConfig(argparse.Action):
    """Puts what the file says where the command line's values will go."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{FLAG} may be given once")
        setattr(namespace, self.dest, values)
        for key, value in _read(parser, Path(values)).items():
            _apply(parser, namespace, str(key), value)


def _read(parser: argparse.ArgumentParser, path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(
            f"{FLAG} {path} cannot be read ({error.strerror}); give the path of a YAML file."
        )
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        parser.error(f"{FLAG} {path} is no YAML ({reason}); correct it.")
    if not isinstance(content, dict):
        parser.error(f"{FLAG} {path} must hold keys and values, such as max-loras: 8")
    return content


def _apply(
    parser: argparse.ArgumentParser, namespace: argparse.Namespace, key: str, value: Any
) -> None:
    flag = f"--{key.replace('_', '-')}"
    action = parser._option_string_actions.get(flag)
    if flag == FLAG:
        parser.error(
            f"{FLAG} has the key {key!r}, and names the one file that is read; leave it out."
        )
    if action is None:
        others = [option for option in parser._option_string_actions if option != FLAG]
        nearest = get_close_matches(flag, others, 1)
        meant = f" (did you mean {nearest[0].removeprefix('--')}?)" if nearest else ""
        parser.error(f"{FLAG} has the unknown key {key!r}{meant}")
    if value is None:
        return
    if key == "model":  # MODEL on the command line is another argument, and wins
        namespace.configured_model = str(value)
        return
    scratch = parser.parse_args(_words(parser, action, flag, value), argparse.Namespace())
    setattr(namespace, action.dest, getattr(scratch, action.dest))


def _words(
    parser: argparse.ArgumentParser, action: argparse.Action, flag: str, value: Any
) -> list[str]:
    """The key and its value as the command line would say them."""
    if action.nargs == 0:
        return _switch(parser, flag, value)
    if action.nargs == "+":
        return [flag, *map(_text, value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        parser.error(f"{FLAG} gives {flag.removeprefix('--')} a list, and it takes one value")
    return [f"{flag}={_text(value)}"]


def _switch(parser: argparse.ArgumentParser, flag: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        parser.error(f"{FLAG} gives {flag.removeprefix('--')} {value!r}; it is true or false")
    if value:
        return [flag]
    opposite = f"--no-{flag.removeprefix('--')}"
    return [opposite] if opposite in parser._option_string_actions else []


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
