"""Where an adapter's bytes are, when they are not in a directory of this machine yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

FetchProgress = Callable[[int, int], None]
"""``progress(bytes_done, bytes_total)``: call it often, at least once a megabyte.

It raises when nobody waits for the adapter any more or its time is over; let that through.
"""


class AdapterSource(ABC):
    """An adapter at one immutable revision, to be fetched when somebody needs it.

    A resolver returns one in ``LoRARequest.source``. Sources are compared and hashed: two that
    are equal must always fetch the same bytes, so a branch, a tag or "latest" is no revision, and
    a commit, an ETag or a version id is. A frozen dataclass fits.
    """

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where it is, for logs and people; free of secrets."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """What pins its bytes, for logs and people."""

    @abstractmethod
    def fetch(self, directory: Path, progress: FetchProgress) -> Path:
        """Bring the checkpoint's files here; blocking, on a thread of the materializer's.

        Args:
            directory: an empty directory to write to.
            progress: see ``FetchProgress``.

        Returns:
            The directory that holds ``adapter_config.json`` and ``adapter_model.safetensors``:
            ``directory``, or another one that this source keeps itself (such as a shared cache).

        Raises:
            AdapterUnavailableError: the storage could not answer; asking again may help.
            AdapterRefusedError: what is there is no adapter; asking again will not help.
        """

    def held(self, records: Path, max_bytes: int) -> AbstractContextManager[None]:
        """Entered before ``fetch``, left when the checkpoint has been read.

        Only for a source whose ``fetch`` returns a directory that it keeps itself: meanwhile the
        files stay there, and what it fetched for loramux stays within a size.

        Args:
            records: a directory of the disk cache in which to note what was fetched.
            max_bytes: size of the disk cache.
        """
        return nullcontext()
