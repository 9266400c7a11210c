"""The fields of a chat that offer tools."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from loramux.errors import InvalidRequestError

MAX_TOOLS = 1024
"""Eight times as many as OpenAI's API takes; a chat template writes each of them out."""


class Function(BaseModel):
    """A function as OpenAI's API describes it; ``parameters`` is a JSON schema."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """``parameters``, or the schema of a call without any."""
        return self.parameters or {"type": "object", "properties": {}}


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """Which function is to be called."""

    name: str


class NamedToolChoice(BaseModel):
    """``tool_choice`` of one function."""

    type: Literal["function"]
    function: NamedFunction


class ToolFields(BaseModel):
    """Which tools there are, and whether the model may, must or must not call them."""

    tools: list[Tool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool = True

    @field_validator("tool_choice", mode="wrap")
    @classmethod
    def _read_choice(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        """One sentence for all forms; pydantic has one for each, and names them by our types."""
        try:
            return read(value)
        except ValidationError:
            raise ValueError(
                "must be 'none', 'auto', 'required', or a function's name as "
                '{"type": "function", "function": {"name": "..."}}'
            ) from None

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        names = Counter(tool.function.name for tool in self.tools)
        if twice := [name for name, times in names.items() if times > 1]:
            raise InvalidRequestError(
                f"tools has two functions named {twice[0]!r}; rename one.", "tools"
            )
        choice = self.tool_choice
        if choice == "required" and not names:
            raise InvalidRequestError(
                "tool_choice is 'required', and there are no tools; give some.", "tool_choice"
            )
        if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
            raise InvalidRequestError(
                f"tool_choice names {choice.function.name!r}, which is not among the tools.",
                "tool_choice",
            )
        return self

    @property
    def may_call(self) -> bool:
        """Whether the answer may hold calls."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def must_call(self) -> bool:
        """Whether the answer is nothing but calls."""
        return self.tool_choice == "required" or self.named_tool is not None

    @property
    def named_tool(self) -> Tool | None:
        """The tool that ``tool_choice`` names."""
        if not isinstance(self.tool_choice, NamedToolChoice):
            return None
        name = self.tool_choice.function.name
        return next(tool for tool in self.tools if tool.function.name == name)

    @property
    def tools_for_template(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates expect them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools] or None
