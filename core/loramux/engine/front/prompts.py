"""What a prompt may be, and how it becomes token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from loramux.engine.front.text_limit import TextLimit
from loramux.errors import InvalidRequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


class TextPrompt(TypedDict):
    """A prompt as text; ``cache_salt`` as in ``TokensPrompt``."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A prompt as token ids; ``prompt`` is its text, for the record, where it is known.

    Requests share cached prefixes only with those of the same ``cache_salt``, as in vLLM.
    """

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


class ChatPrompt(TypedDict):
    """A conversation, rendered by the model's chat template with a generation prompt."""

    messages: list[dict[str, Any]]
    cache_salt: NotRequired[str]


Prompt = str | list[int] | TextPrompt | TokensPrompt | ChatPrompt

KNOWN_KEYS = {"prompt", "prompt_token_ids", "messages", "cache_salt"}


@dataclass(frozen=True)
class TokenizedPrompt:
    """``text`` is None for a prompt that came as token ids."""

    text: str | None
    token_ids: list[int]
    cache_salt: bytes = b""


@dataclass(frozen=True)
class PromptProcessor:
    """Tokenizes and checks prompts for one model.

    ``least_output`` is the number of tokens that have to fit behind a prompt.
    """

    tokenizer: Tokenizer | None
    max_model_len: int
    vocab_size: int
    least_output: int = 1

    @cached_property
    def _text_limit(self) -> TextLimit:
        return TextLimit.of(self._require_tokenizer("a text prompt"), self.max_model_len)

    def process(self, prompt: Prompt, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        """Turn a prompt into token ids the model can take.

        Raises:
            InvalidRequestError: it is malformed, empty or too long.
        """
        tokenized = self._tokenize(prompt, add_special_tokens)
        self._check(tokenized.token_ids)
        return tokenized

    def _tokenize(self, prompt: Prompt, add_special_tokens: bool) -> TokenizedPrompt:
        if isinstance(prompt, str):
            return TokenizedPrompt(prompt, self._encode(prompt, add_special_tokens))
        if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
            return TokenizedPrompt(None, _token_ids(prompt))
        if not isinstance(prompt, Mapping):
            raise InvalidRequestError(
                f"A prompt must be text, token ids or a dict, got {type(prompt).__name__}.",
                "prompt",
            )
        return self._tokenize_mapping(prompt, add_special_tokens)

    def _tokenize_mapping(
        self, prompt: Mapping[str, Any], add_special_tokens: bool
    ) -> TokenizedPrompt:
        prompt = {key: value for key, value in prompt.items() if value is not None}
        unknown = prompt.keys() - KNOWN_KEYS
        if unknown:
            raise InvalidRequestError(
                f"{', '.join(sorted(map(str, unknown)))} in a prompt is not supported; "
                f"give one of {', '.join(sorted(KNOWN_KEYS))}.",
                "prompt",
            )
        salt = _salt(prompt.get("cache_salt", ""))
        if "messages" in prompt:
            prompt = self.encode_rendered(self.render_chat(prompt["messages"]))
        text = prompt.get("prompt")
        if "prompt_token_ids" in prompt:
            return TokenizedPrompt(text, _token_ids(prompt["prompt_token_ids"]), salt)
        if not isinstance(text, str):
            raise InvalidRequestError("A dict prompt needs a text under 'prompt'.", "prompt")
        return TokenizedPrompt(text, self._encode(text, add_special_tokens), salt)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The text of a conversation by the chat template; ``options`` are transformers'.

        Raises:
            InvalidRequestError: there is no template, or it refuses the messages.
        """
        tokenizer = self._require_tokenizer("a chat")
        _check_messages(messages)
        options = {"add_generation_prompt": True, **options}
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        except Exception as error:  # a template is code of the model's, and may raise anything
            raise InvalidRequestError(
                f"The model's chat template does not take these messages ({error}); "
                "check their roles and contents.",
                "messages",
            ) from error
        assert isinstance(text, str)
        return text

    def encode_rendered(self, text: str) -> TokensPrompt:
        """A prompt of rendered chat text, whose template has put the special tokens in."""
        return {"prompt": text, "prompt_token_ids": self._encode(text, add_special_tokens=False)}

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        tokenizer = self._require_tokenizer("a text prompt")
        self._text_limit.check(text)
        try:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeError) as error:
            raise InvalidRequestError(
                "The prompt is no valid Unicode text, it holds half a surrogate pair; "
                "send whole characters.",
                "prompt",
            ) from error
        return ids

    def _require_tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidRequestError(
                f"{what.capitalize()} needs a tokenizer, and this engine was started without one "
                "(skip_tokenizer_init); give prompt_token_ids.",
                "prompt",
            )
        return self.tokenizer

    def _check(self, token_ids: list[int]) -> None:
        if not token_ids:
            raise InvalidRequestError("The prompt is empty; give at least one token.", "prompt")
        if len(token_ids) + self.least_output > self.max_model_len:
            together = " for prompt and output together" if self.least_output else ""
            raise InvalidRequestError(
                f"The prompt has {len(token_ids)} tokens, and this model takes at most "
                f"{self.max_model_len}{together}; shorten the prompt.",
                "prompt",
            )
        largest = max(token_ids)
        if largest >= self.vocab_size or min(token_ids) < 0:
            wrong = largest if largest >= self.vocab_size else min(token_ids)
            raise InvalidRequestError(
                f"Token id {wrong} is outside the vocabulary of {self.vocab_size} tokens; "
                "tokenize the prompt with this model's tokenizer.",
                "prompt",
            )


def _check_messages(messages: Any) -> None:
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str | bytes)
    if not is_list or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidRequestError(
            "messages must be a list of dicts, each with a role and a content.", "messages"
        )
    if not messages:
        raise InvalidRequestError("messages is empty; give at least one message.", "messages")


def _salt(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequestError("cache_salt must be a string.", "cache_salt")
    return value.encode("utf-8", "surrogatepass")


def _token_ids(value: Any) -> list[int]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidRequestError("prompt_token_ids must be a list of integers.", "prompt")
    if any(type(token_id) is not int for token_id in value):
        raise InvalidRequestError("prompt_token_ids must hold integers only.", "prompt")
    return list(value)
