"""Adapters that clients name by address, such as ``s3://bucket/prefix/name``.

An address leads to an adapter only where it lies below one that the operator gave a resolver: the
resolver, whose attribute ``uri`` says so, is then asked for the rest of it as a name.
"""

from __future__ import annotations

from collections.abc import Sequence

from loramux.errors import AdapterNotFoundError, ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolveContext, ResolverRegistry
from loramux.server.access.caller import Caller


class AddressedAdapters:
    """Finds adapters by address in the stores that resolvers were given.

    Args:
        base_model_name: the base model, as resolvers know it.
        resolvers: those without a ``uri``, or with places to fill in it, are never asked here.
    """

    def __init__(self, base_model_name: str, resolvers: Sequence[NamedResolver] = ()) -> None:
        self._base_model_name = base_model_name
        self._chains: dict[str, ResolverChain] = {}
        for named in resolvers:
            uri = getattr(named.resolver, "uri", None)
            if isinstance(uri, str) and "://" in uri and "{" not in uri:
                self._chains[f"{uri.rstrip('/')}/"] = ResolverChain([named], ResolverRegistry())

    async def find(self, address: str, caller: Caller) -> LoRARequest | None:
        """The adapter at an address; None if the address is in none of the stores.

        Raises:
            AdapterNotFoundError: it is in one, and there is no adapter whose name there this caller
                may use.
            AdapterUnavailableError: the store does not answer.
        """
        for prefix, chain in self._chains.items():
            if address.startswith(prefix):
                name = address.removeprefix(prefix)
                if not caller.may_use(name):
                    raise _nothing_at(address)
                context = ResolveContext(caller.name)
                try:
                    found = await chain.resolve(self._base_model_name, name, context=context)
                except ModelNotFoundError as error:
                    raise _nothing_at(address) from error
                return found.lora_request
        return None

    def close(self) -> None:
        """End the resolvers' threads."""
        for chain in self._chains.values():
            chain.close()


def _nothing_at(address: str) -> AdapterNotFoundError:
    return AdapterNotFoundError(f"There is no adapter at {address}.")
