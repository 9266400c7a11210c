"""The application: which routes there are, and what stands around them."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from loramux import __version__
from loramux.errors import LoramuxError
from loramux.server import health, tokenization
from loramux.server.access.rules import OPEN_PATHS
from loramux.server.adapters import models, placement
from loramux.server.adapters import routes as adapters
from loramux.server.adapters import updates as adapter_updates
from loramux.server.application import Application
from loramux.server.chat import routes as chat
from loramux.server.completions import plain_generate
from loramux.server.completions import routes as completions
from loramux.server.dashboard import routes as dashboard
from loramux.server.dashboard.page import PageMiddleware
from loramux.server.embeddings import routes as embeddings
from loramux.server.generation.admission import AdmissionMiddleware
from loramux.server.http.authentication import AuthenticationMiddleware
from loramux.server.http.body_limit import BodyLimitMiddleware
from loramux.server.http.errors import (
    ApiError,
    answer_api_error,
    answer_loramux_error,
    answer_routing_error,
)
from loramux.server.http.foreign_pages import let_pages_ask
from loramux.server.http.header_limit import HeaderLimitMiddleware
from loramux.server.http.request_id import RequestIdMiddleware
from loramux.server.metrics import routes as metrics
from loramux.server.metrics.middleware import ObservationMiddleware
from loramux.server.state import ServerState

ROUTERS = [
    completions.router,
    chat.router,
    embeddings.router,
    plain_generate.router,
    health.router,
    models.router,
    tokenization.router,
    adapters.router,
    metrics.router,
]
"""In the order in which they are asked whether a path is theirs: the busiest first."""


def build_app(server: ServerState) -> Application:
    """The ASGI application around an engine that runs; whoever made the state closes it."""
    app = Application(title="loramux", version=__version__, has_keys=not server.keyring.is_open)
    app.state.server = server
    for router in ROUTERS:
        app.include_router(router)
    updates, has_keys = server.allow_runtime_updates, not server.keyring.is_open
    for router, is_there in [
        (placement.router, updates or has_keys),  # first, or its paths were names to the others
        (adapter_updates.router, updates),
    ]:
        (app.include_router if is_there else app.leave_out)(router)
    if server.activity is not None:
        app.include_router(dashboard.router)
    app.add_exception_handler(ApiError, answer_api_error)
    app.add_exception_handler(LoramuxError, answer_loramux_error)
    app.add_exception_handler(HTTPException, answer_routing_error)
    _add_middleware(app, server)
    return app


def _add_middleware(app: Application, server: ServerState) -> None:
    """What each request goes through; the one added last stands outermost."""
    connections = server.connections
    app.add_middleware(AdmissionMiddleware, queue=server.queue, quotas=server.quotas)
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=server.max_body_bytes,
        seconds=connections.slow_client_seconds,
    )
    app.add_middleware(
        AuthenticationMiddleware,
        keyring=server.keyring,
        quotas=server.quotas,
        open_paths=OPEN_PATHS | ({"/metrics"} if server.metrics_without_key else set()),
        is_local=server.is_local,
        allowed_origins=server.allowed_origins,
    )
    if server.allowed_origins:  # outside of the keys, which no browser sends when it asks for leave
        let_pages_ask(app, server.allowed_origins)
    if server.activity is not None:
        app.add_middleware(PageMiddleware)
    app.add_middleware(HeaderLimitMiddleware, max_bytes=connections.max_header_bytes)
    app.add_middleware(RequestIdMiddleware)
    app.add_middleware(ObservationMiddleware, server=server)
