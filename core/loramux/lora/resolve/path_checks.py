"""Looks at paths that may be on a file system which does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loramux.errors import AdapterUnavailableError
from loramux.lora.local_path import is_directory

Answer = TypeVar("Answer")

SECONDS = 3.0
"""How long a file system may take to tell about one path."""


class PathChecks:
    """Checks paths on threads of their own, and waits for none for long.

    A hung file system holds a thread until it answers again. In asyncio's shared executor these
    would use up the threads that every other request needs, those for the base model included.
    """

    def __init__(self, threads: int = 4, timeout: float = SECONDS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loramux-path-check")
        self._timeout = timeout

    async def is_directory(self, path: str) -> bool:
        """Whether there is a directory of that path on this machine.

        Raises:
            AdapterUnavailableError: the file system does not answer.
        """
        return await self.ask(is_directory, path)

    async def ask(self, question: Callable[[str], Answer], path: str) -> Answer:
        """What ``question`` answers about a path.

        Raises:
            AdapterUnavailableError: the file system does not answer.
        """
        look = asyncio.get_running_loop().run_in_executor(self._pool, question, path)
        try:
            return await asyncio.wait_for(look, self._timeout)
        except TimeoutError as error:
            raise AdapterUnavailableError(
                f"The file system of an adapter did not answer within {self._timeout:g} s; "
                "try again later."
            ) from error
