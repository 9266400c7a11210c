"""Requests that schemathesis makes up from ``/openapi.json``.

None gets a 5xx, a status that is not described or an answer of another form, and none is served
whose body breaks the description.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.chat.tools.options import ToolOptions
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 20
"""For each route: the same ones in every run. ``schemathesis run URL`` makes thousands."""


@pytest.fixture(scope="module")
def schema(folder: Path, resolver: FolderResolver) -> Iterator[schemathesis.openapi.OpenApiSchema]:
    (folder / "0").mkdir()
    state = state_around(
        FakeEngine(),
        resolver,
        allow_runtime_updates=True,
        allowed_paths=AllowedPaths.of([str(folder)]),
        tools=ToolOptions(enable_auto_tool_choice=True, tool_call_parser="hermes"),
        access_log=False,
    )
    with running(state) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_every_route(schema: schemathesis.openapi.OpenApiSchema) -> None:
    num_routes = 0
    with requests.Session() as session:
        for result in schema.get_all_operations():
            check_route(result.ok(), session)
            num_routes += 1
    assert num_routes >= 18


def check_route(operation: schemathesis.APIOperation, session: requests.Session) -> None:
    takes_nothing = not operation.body and not operation.path_parameters
    modes = [GenerationMode.POSITIVE] if takes_nothing else list(GenerationMode)
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(
        max_examples=1 if takes_nothing else EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case: schemathesis.Case) -> None:
        case.validate_response(case.call(session=session, timeout=60), checks=CHECKS)

    check()
