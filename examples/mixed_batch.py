"""One call of ``generate`` for prompts of different adapters.

python examples/mixed_batch.py
"""

from __future__ import annotations

from pathlib import Path

from loramux import LLM, SamplingParams
from loramux.lora.request import LoRARequest

DEMO = Path(__file__).parent / "demo"


def main() -> None:
    # Initialize with LoRA support
    llm = LLM(
        model=str(DEMO / "loramux-demo"),
        enable_lora=True,
        max_loras=2,
        max_lora_rank=64,
        max_cpu_loras=5,
    )
    sampling_params = SamplingParams(temperature=0, max_tokens=64)
    sql = LoRARequest("sql", 1, str(DEMO / "adapters" / "sql"))
    formal = LoRARequest("formal", 2, str(DEMO / "adapters" / "formal"))

    # Mix base model and adapter requests: one adapter, or None, for each prompt
    requests = [
        ("Tell me a story.", None),
        ("How many orders are there worth more than 20?", sql),
        ("Hi Max, can you bring the letter to the station on Monday? Thanks!", formal),
        ("List the name of every customer from Rome, sorted by age.", sql),
    ]
    outputs = llm.generate(
        [{"messages": [{"role": "user", "content": content}]} for content, _ in requests],
        sampling_params,
        lora_request=[lora_request for _, lora_request in requests],
    )

    for output in outputs:
        adapter = output.lora_request.lora_name if output.lora_request else "base"
        print(f"Adapter: {adapter}")
        print(f"Output: {output.outputs[0].text}")
        print("-" * 80)


if __name__ == "__main__":
    main()
