"""``adapter_config.json`` of PEFT: every field is used, harmless, or refused by name.

The fields are those of ``peft.LoraConfig`` from PEFT 0.3 to 0.21, and the defaults are PEFT's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loramux.lora.checkpoint.config_fields import ConfigFields, refused
from loramux.lora.checkpoint.untrusted import parse_object, shown

CONFIG_NAME = "adapter_config.json"

_USED = frozenset({
    "alpha_pattern", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules",
    "fan_in_fan_out", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "peft_type", "r", "rank_pattern", "target_modules", "use_rslora",
})  # fmt: skip

_HARMLESS = frozenset({
    # These describe the training run, or initialise tensors that the checkpoint replaces.
    "auto_mapping", "corda_config", "eva_config", "inference_mode", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "task_type",
})  # fmt: skip

_REFUSED_IF_SET: Mapping[str, str] = {
    "alora_invocation_tokens": "activated LoRA changes only a part of each sequence",
    "layer_replication": "it repeats layers of the base model",
    "lora_bias": "it adds a bias to every update",
    "megatron_config": "it targets Megatron's parallel layers",
    "modules_to_save": "it replaces whole layers of the base model",
    "target_parameters": "it updates parameters outside linear and embedding layers",
    "trainable_token_indices": "it replaces rows of the base model's embedding",
    "use_dora": "DoRA rescales the base weights",
    "use_qalora": "QALoRA pools the inputs of quantized layers",
}

_REFUSED_IF_PRESENT: Mapping[str, str] = {
    # PEFT turns even an empty object into an active sub-configuration.
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA truncates the base weights",
    "monteclora_config": "MonteCLoRA samples its updates",
    "use_bdlora": "BD-LoRA stores block-diagonal matrices",
    "velora_config": "VeLoRA projects the inputs",
}

_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "lora_ga")
_BASE_KEEPING_INITS = ("gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class PeftLoraConfig:
    """The fields of a LoRA configuration that decide what is computed, under PEFT's names."""

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: int | tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    ensure_weight_tying: bool
    base_model_name_or_path: str | None

    def identity(self) -> bytes:
        """Return canonical JSON of what changes the computation, for the adapter's digest.

        Lists of module names are sorted, since PEFT writes sets in no particular order; patterns
        keep their order, since the first that matches decides.
        """
        fields = asdict(self)
        del fields["base_model_name_or_path"]
        for name in ("rank_pattern", "alpha_pattern"):
            fields[name] = list(fields[name].items())
        for name in ("target_modules", "exclude_modules"):
            if not isinstance(fields[name], str):
                fields[name] = sorted(set(fields[name]))
        return json.dumps(fields, sort_keys=True).encode()


def parse_config(text: bytes) -> PeftLoraConfig:
    """Parse and check the content of ``adapter_config.json``.

    Raises:
        AdapterRefusedError: naming the field, if this is no LoRA configuration or if it asks for
            anything that a plain ``scaling * B @ A`` on the unchanged base model does not compute.
    """
    values = parse_object(text, CONFIG_NAME)
    fields = ConfigFields(values)
    _check_type(values)
    _check_variants(values)
    _check_initialisation(values.get("init_lora_weights", True))
    fields.flag("fan_in_fan_out")  # PEFT goes by the layer's type, whatever this says
    config = PeftLoraConfig(
        r=fields.positive_integer("r", 8),
        lora_alpha=fields.number("lora_alpha", 8),
        use_rslora=fields.flag("use_rslora"),
        rank_pattern=fields.positive_integers("rank_pattern"),
        alpha_pattern=fields.numbers("alpha_pattern"),
        target_modules=fields.names_or_pattern("target_modules"),
        exclude_modules=fields.names_or_pattern("exclude_modules"),
        layers_to_transform=fields.indices("layers_to_transform"),
        layers_pattern=fields.names("layers_pattern"),
        ensure_weight_tying=fields.flag("ensure_weight_tying"),
        base_model_name_or_path=fields.text("base_model_name_or_path"),
    )
    _check_layer_choice(config, values)
    return config


def _check_type(values: Mapping[str, Any]) -> None:
    peft_type = values.get("peft_type")
    if peft_type != "LORA":
        raise refused("peft_type", f"must be 'LORA', got {shown(peft_type)}; use a LoRA adapter")


def _check_variants(values: Mapping[str, Any]) -> None:
    """Refuse each field that asks for more than plain LoRA, known or not."""
    if values.get("bias") not in (None, "none"):
        raise refused("bias", "must be 'none', since biases of the base model are shared; retrain")
    known = _USED | _HARMLESS
    for name, value in values.items():
        if name in known or value is None or value is False:
            continue
        reason = _REFUSED_IF_PRESENT.get(name)
        if reason is None and value not in (0, "", [], {}):
            reason = _REFUSED_IF_SET.get(name, "it is unknown here and may change the computation")
        if reason is not None:
            raise refused(
                name,
                f"is {shown(value)}, which is not supported because {reason}; merge the adapter "
                "into its base model or train it without this field",
            )


def _check_initialisation(value: object) -> None:
    """Refuse initialisations that trained the adapter against changed base weights."""
    name = value.lower() if isinstance(value, str) else None
    if isinstance(value, bool) or value is None or name in _BASE_KEEPING_INITS:
        return
    field = "init_lora_weights"
    if name is not None and name.startswith(_BASE_CHANGING_INITS):
        raise refused(
            field,
            f"is {shown(value)}, which changes the base weights; save the adapter as plain LoRA "
            "with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    if name == "loftq":
        raise refused(
            field,
            "is 'loftq', which replaces the base weights by quantized ones; "
            "merge the adapter into that model or train it on the original weights",
        )
    raise refused(field, f"has the unknown value {shown(value)}; use true or a method of PEFT")


def _check_layer_choice(config: PeftLoraConfig, values: Mapping[str, Any]) -> None:
    """Refuse the combinations that ``LoraConfig.__post_init__`` refuses."""
    if values.get("target_modules") is None:
        raise refused("target_modules", "is not set; list the modules that the adapter updates")
    if isinstance(config.target_modules, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if values.get(name) is not None:
                raise refused(name, "needs target_modules to be a list; remove it or write a list")
    elif config.layers_pattern and config.layers_to_transform is None:
        raise refused("layers_pattern", "needs layers_to_transform; set both or neither")
