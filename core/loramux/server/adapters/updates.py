"""Loading and unloading adapters by request: routes that exist only where operators allow it.

Sentences and statuses are vLLM's, except that an adapter which cannot be served is the client's
error (400) here.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict

from loramux.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    InvalidRequestError,
    ModelNotFoundError,
)
from loramux.lora.resolve.catalog import AdapterModule
from loramux.lora.resolve.path_checks import PathChecks
from loramux.lora.resolve.registry import MAX_NAME_LENGTH
from loramux.server.access.caller import access_of
from loramux.server.access.roles import require_admin
from loramux.server.adapters.allowed_paths import PathNotAllowedError
from loramux.server.adapters.described import RemovedAdapter
from loramux.server.http.body import read_json, validate
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers, documented
from loramux.server.http.errors import ApiError, bad_request
from loramux.server.http.json_types import Integer, within
from loramux.server.state import Server, ServerState

router = APIRouter(dependencies=[Depends(require_admin)])

_paths = PathChecks(threads=2)


_Text = Annotated[str, within(minLength=1)]
"""The routes say themselves, in vLLM's words, that it is missing."""

_NewName = Annotated[str, within(minLength=1, maxLength=MAX_NAME_LENGTH)]
"""Told wherever adapters are listed, so no longer than those that resolvers are asked for."""


class LoadAdapterRequest(BaseModel):
    """Body of ``/v1/load_lora_adapter``."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"required": ["lora_name", "lora_path"]}
    )

    lora_name: _NewName = ""
    lora_path: _Text = ""
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class UnloadAdapterRequest(BaseModel):
    """Body of ``/v1/unload_lora_adapter``; ``lora_int_id`` is taken and ignored, as in vLLM."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"required": ["lora_name"]})

    lora_name: _Text = ""
    lora_int_id: Integer | None = None


@router.post(
    "/v1/load_lora_adapter",
    openapi_extra=documented(LoadAdapterRequest),
    **answers(text=("text/plain",), errors=MODEL_ERRORS),
)
async def load_lora_adapter(request: Request, server: Server) -> PlainTextResponse:
    """Read an adapter and serve it under a name."""
    body = await read_json(request, partial(validate, LoadAdapterRequest))
    name, path = body.lora_name, body.lora_path
    if not name or not path:
        raise _invalid("Both 'lora_name' and 'lora_path' must be provided.")
    if len(name) > MAX_NAME_LENGTH:
        raise _invalid(
            f"A name has at most {MAX_NAME_LENGTH} characters, and this one {len(name)}; shorten "
            "'lora_name'.",
            "lora_name",
        )
    if body.is_3d_lora_weight:
        raise bad_request("'is_3d_lora_weight' is not supported; leave it out.")
    if not server.engine.args.enable_lora:
        raise _failed("this server was started without --enable-lora.")
    if not access_of(request).may_use(name):
        raise _invalid(f"This key may not load an adapter called '{name}'.", "lora_name")
    try:
        module = AdapterModule(name, path)
        await while_connected(request.receive, _load(request, server, module, body.load_inplace))
    except InvalidRequestError as error:
        raise _invalid(str(error), error.param) from error
    except AdapterRefusedError as error:
        raise _refusal(name, path, error) from error
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter",
    openapi_extra=documented(UnloadAdapterRequest),
    **answers(text=("text/plain",), errors=(404,)),
)
async def unload_lora_adapter(request: Request, server: Server) -> PlainTextResponse:
    """Serve an adapter no more; requests that run with it finish."""
    body = await read_json(request, partial(validate, UnloadAdapterRequest))
    if not body.lora_name:
        raise _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
    name = body.lora_name
    await _unload(request, server, name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


@router.delete("/v1/adapters/{name:path}", **answers(RemovedAdapter, errors=(404,)))
async def delete_adapter(request: Request, server: Server, name: str) -> JSONResponse:
    """The same, answered as the other routes below ``/v1/adapters`` are."""
    await _unload(request, server, name)
    return JSONResponse({"name": name, "removed": True})


async def _load(
    request: Request, server: ServerState, module: AdapterModule, load_inplace: bool
) -> None:
    caller = access_of(request)
    if server.addresses is not None and (found := await server.addresses.find(module.path, caller)):
        module = AdapterModule(
            module.name,
            found.path,
            found.base_model_name,
            found.source,
            found.allowed_directories,
        )
    else:
        check = partial(server.allowed_paths.check, caller=caller)
        allowed = await _paths.ask(check, module.path)
        module = AdapterModule(module.name, allowed.path, allowed_directories=allowed.directories)
    await server.catalog.register(module, load_inplace=load_inplace)


async def _unload(request: Request, server: ServerState, name: str) -> None:
    try:
        if not access_of(request).may_use(name):
            raise server.catalog.not_loaded(name)
        server.catalog.unregister(name)
    except ModelNotFoundError as error:
        raise ApiError(404, "NotFoundError", str(error), "lora_name") from error
    await server.engine.unload_lora(name)


def _invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "InvalidUserInput", message, param)


def _failed(reason: Any) -> ApiError:
    return bad_request(f"Call to add_lora method failed: {reason}", "lora_path")


def _refusal(name: str, path: str, error: AdapterRefusedError) -> ApiError:
    if not isinstance(error, AdapterNotFoundError):
        return _failed(error)
    message = f"Loading lora {name} failed: No adapter found for {path}"
    if isinstance(error, PathNotAllowedError):
        message = f"{message}: {error}"
    return ApiError(404, "NotFoundError", message, "lora_path")
