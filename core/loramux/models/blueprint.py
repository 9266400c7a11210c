"""A model without its weights: what an adapter has to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from loramux.engine.args import EngineArgs
from loramux.engine.pooling.plan import PoolingPlan
from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.checkpoint.untrusted import shown
from loramux.lora.site import LoRASite
from loramux.lora.weights import AdapterWeights
from loramux.models.backbone import Backbone
from loramux.models.hub import reachable
from loramux.models.loader import base_names, load_config
from loramux.models.sites import find_sites


@dataclass(frozen=True, eq=False)
class Blueprint:
    """The layers of a base model, and the names it goes by."""

    args: EngineArgs
    module: nn.Module
    sites: Mapping[str, LoRASite]
    names: frozenset[str]

    @classmethod
    def read(cls, args: EngineArgs) -> Blueprint:
        """Build the model from its configuration; nothing of its weights is read or allocated.

        Raises:
            InvalidRequestError: there is no such model, or loramux cannot run it.
        """
        args = reachable(args)
        config = load_config(args)
        pools = PoolingPlan.of(args, config) is not None
        model_class = AutoModel if pools else AutoModelForCausalLM
        with torch.device("meta"):
            model: nn.Module = model_class.from_config(
                config, trust_remote_code=args.trust_remote_code
            )
        module = Backbone(model) if pools else model
        return cls(args, module, find_sites(module), base_names(args, config))

    def verify(self, path: Path) -> AdapterWeights:
        """Read an adapter as an engine with these arguments would.

        Args:
            path: directory of the checkpoint.

        Raises:
            AdapterRefusedError: if the engine would refuse it, or if only the model's weights can
                tell whether it would.
            AdapterUnavailableError: if the storage fails.
        """
        return read_adapter(
            path,
            self.sites,
            max_rank=self.args.max_lora_rank,
            base_names=self.names if self.args.verify_lora_base else None,
            base_parameter=self._weight,
        )

    def _weight(self, name: str) -> torch.Tensor:
        """Called for a copy of a base weight, which an engine compares with its own."""
        self.module.get_parameter(name)
        raise AdapterRefusedError(
            f"it holds a copy of the base model's {shown(name)}, which cannot be compared without "
            "the weights; save the adapter with save_embedding_layers=False, or serve it to see."
        )
