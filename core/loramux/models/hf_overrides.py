"""Fields of a model's configuration that are to be others than its files say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig as Config

from loramux import field_checks as check
from loramux.errors import InvalidRequestError
from loramux.models.refusals import reason_of

FIELD = "hf_overrides"


def override(config: Config, fields: Mapping[str, Any]) -> None:
    """Set fields of a configuration, and those of the configurations in it, in place.

    Raises:
        InvalidRequestError: one names a method, or has a value that the configuration refuses.
    """
    for name, value in fields.items():
        part = getattr(config, name, None)
        if isinstance(part, Config):
            override(part, check.mapping(f"{FIELD}[{name!r}]", value))
        elif callable(part):
            raise InvalidRequestError(
                f"{FIELD} names {name!r}, which is a method of the model's configuration; "
                "give the name of a field.",
                FIELD,
            )
        else:
            _set(config, name, value)


def _set(config: Config, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception as error:  # every configuration has checks of its own, which raise anything
        raise InvalidRequestError(
            f"{FIELD} cannot make {name} of the model's configuration {value!r} "
            f"({reason_of(error)}); give a value that it takes.",
            FIELD,
        ) from error
