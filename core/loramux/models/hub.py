"""Whether the Hugging Face Hub can be asked for a model: found out once, with one question.

transformers asks for each of a dozen files, those that a model does not have among them, and
huggingface_hub repeats a question that nobody answers for 23 s.
"""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from transformers.utils import CONFIG_NAME

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.logger import get_logger

log = get_logger(__name__)


def reachable(args: EngineArgs) -> EngineArgs:
    """The arguments, with ``local_files_only`` where the Hub is needed and does not answer.

    Raises:
        InvalidRequestError: and the model is not in the local cache either.
    """
    silence = None if args.local_files_only else _silence(args)
    if silence is None:
        return args
    if not _is_here(args.model, args.revision):
        raise InvalidRequestError(
            f"The model {args.model!r} is not in the local Hugging Face cache, and {silence}; "
            "check its name and the network, try again later, or give the path of a directory.",
            "model",
        )
    if not is_offline_mode():
        log.warning("Models are taken from the local cache as they are: %s.", silence)
    return replace(args, local_files_only=True)


def _silence(args: EngineArgs) -> str | None:
    """Why the Hub does not tell of a repository that is needed; None if it does."""
    needed = {args.model: args.revision}
    if args.tokenizer is not None and not args.skip_tokenizer_init:
        needed.setdefault(args.tokenizer)
    reasons = (_ask(name, revision) for name, revision in needed.items())
    return next(filter(None, reasons), None)


def _ask(name: str, revision: str | None) -> str | None:
    """Why the Hub does not tell of it; None if it says anything, or need not be asked."""
    if os.path.exists(name):
        return None
    # Without the rest of the endpoint, which may hold a password.
    hub = f"the Hugging Face Hub ({urlsplit(constants.ENDPOINT).hostname})"
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_NAME, revision=revision))
    except HFValidationError:
        return None
    except HfHubHTTPError as error:
        status = error.response.status_code
        # Other refusals transformers will be told as well, and has its sentences for them.
        return f"{hub} answers with status {status}" if status == 429 or status >= 500 else None
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    except Exception as error:  # a transport's, which is another library in each major version
        return f"{hub} does not answer ({type(error).__name__})"
    return None


def _is_here(name: str, revision: str | None) -> bool:
    if os.path.exists(name):
        return True
    try:
        return isinstance(try_to_load_from_cache(name, CONFIG_NAME, revision=revision), str)
    except HFValidationError:  # no name of a repository
        return False
