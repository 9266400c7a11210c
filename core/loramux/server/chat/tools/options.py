"""How a server reads the calls of its model."""

from __future__ import annotations

from dataclasses import dataclass

from loramux.errors import InvalidRequestError
from loramux.server.chat.tools.parsers import PARSERS, ToolParser
from loramux.server.chat.tools.reader import CallReader
from loramux.server.chat.tools.request import ToolFields
from loramux.server.http.errors import bad_request


@dataclass(frozen=True, kw_only=True)
class ToolOptions:
    """What ``--enable-auto-tool-choice`` and ``--tool-call-parser`` say.

    Raises:
        InvalidRequestError: the first is on without the second, or there is no such parser.
    """

    enable_auto_tool_choice: bool = False
    tool_call_parser: str | None = None

    def __post_init__(self) -> None:
        known = ", ".join(PARSERS)
        if self.tool_call_parser is not None and self.tool_call_parser not in PARSERS:
            raise InvalidRequestError(
                f"--tool-call-parser must be one of {known}, got {self.tool_call_parser!r}.",
                "tool_call_parser",
            )
        if self.enable_auto_tool_choice and self.tool_call_parser is None:
            raise InvalidRequestError(
                f"--enable-auto-tool-choice needs --tool-call-parser, one of {known}.",
                "tool_call_parser",
            )

    def check(self, fields: ToolFields) -> None:
        """See that the model's calls could be read.

        Raises:
            ApiError: the model may choose to call, and nobody has said how it does that.
        """
        if fields.may_call and not fields.must_call and not self.enable_auto_tool_choice:
            raise bad_request(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to '
                "be set; start the server with them, or set tool_choice to required, to one "
                "function, or to none.",
                "tool_choice",
            )

    def reader(self, fields: ToolFields) -> CallReader:
        """For one choice of a request that ``check`` let through."""
        return CallReader.of(fields, self._parser)

    @property
    def shows_special_tokens(self) -> bool:
        """Some tokenizers count Hermes's tags among the special tokens, which texts leave out."""
        return self.tool_call_parser == "hermes"

    def _parser(self) -> ToolParser:
        assert self.tool_call_parser is not None, "check() has seen to it"
        return PARSERS[self.tool_call_parser]()
