"""A resolver of one's own, registered from code: adapters are found under an alias.

python examples/custom_resolver.py
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from loramux.lora.request import LoRARequest
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import LoRAResolver, LoRAResolverRegistry, stable_lora_int_id

DEMO = Path(__file__).parent / "demo"


ALIASES = {"sailor": "pirate", "diplomat": "formal"}


class AliasResolver(LoRAResolver):
    """Knows adapters by what people call them."""

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        if lora_name not in ALIASES:
            return None  # somebody else's: the next resolver is asked
        return LoRARequest(
            lora_name=lora_name,
            lora_path=str(DEMO / "adapters" / ALIASES[lora_name]),
            lora_int_id=stable_lora_int_id(lora_name),
        )


# Register the resolver: from now on every server in this process asks it
LoRAResolverRegistry.register_resolver("alias_resolver", AliasResolver())


def main() -> None:
    # What a server does with each new name; loramux.cli.main(["serve", ...]) here would be one
    chain = ResolverChain([])
    found = asyncio.run(chain.resolve("loramux-demo", "sailor"))
    print(f"{found.lora_request.lora_name}: {found.lora_request.lora_path}")
    print(f"found by {found.resolver_name}")
    chain.close()


if __name__ == "__main__":
    main()
