"""Offline inference with one LoRA adapter.

python examples/quick_start.py
"""

from __future__ import annotations

from pathlib import Path

from loramux import LLM, SamplingParams
from loramux.lora.request import LoRARequest

DEMO = Path(__file__).parent / "demo"


def main() -> None:
    # Initialize base model with LoRA support
    llm = LLM(model=str(DEMO / "loramux-demo"), enable_lora=True)
    sampling_params = SamplingParams(temperature=0, max_tokens=64)
    conversation = [
        {"role": "user", "content": "How many orders are there worth more than 20?"},
    ]

    # The base model talks; the adapter answers in SQL
    sql = LoRARequest("sql_adapter", 1, str(DEMO / "adapters" / "sql"))
    for lora_request in (None, sql):
        outputs = llm.chat(conversation, sampling_params, lora_request=lora_request)
        name = lora_request.lora_name if lora_request else "base"
        print(f"{name}: {outputs[0].outputs[0].text}")


if __name__ == "__main__":
    main()
