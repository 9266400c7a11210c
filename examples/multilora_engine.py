"""Several adapters and the base model through one engine, step by step.

python examples/multilora_engine.py
"""

from __future__ import annotations

from pathlib import Path

from loramux import EngineArgs, LLMEngine, SamplingParams
from loramux.lora.request import LoRARequest

DEMO = Path(__file__).parent / "demo"


def main() -> None:
    engine_args = EngineArgs(
        model=str(DEMO / "loramux-demo"),
        enable_lora=True,
        max_loras=2,  # Number of LoRAs that can be active simultaneously
        max_lora_rank=64,  # Maximum rank across all adapters
        max_cpu_loras=4,  # Size of CPU cache for swapped-out adapters
    )
    engine = LLMEngine.from_engine_args(engine_args)

    sql = LoRARequest("sql-lora", 1, str(DEMO / "adapters" / "sql"))
    pirate = LoRARequest("pirate-lora", 2, str(DEMO / "adapters" / "pirate"))
    french = LoRARequest("french-lora", 3, str(DEMO / "adapters" / "french"))
    requests = [
        ("What is the capital of France?", None),
        ("How many orders are there worth more than 20?", sql),
        ("Hi Max, can you bring the letter to the station on Monday? Thanks!", pirate),
        ("Hi Max, can you bring the letter to the station on Monday? Thanks!", french),
        ("List the name of every customer from Rome, sorted by age.", sql),
    ]
    sampling_params = SamplingParams(temperature=0, max_tokens=64)

    # Add requests to engine
    for i, (content, lora_request) in enumerate(requests):
        prompt = {"messages": [{"role": "user", "content": content}]}
        engine.add_request(str(i), prompt, sampling_params, lora_request=lora_request)

    # Process all requests; the engine switches adapters as max_loras demands
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                name = output.lora_request.lora_name if output.lora_request else "base"
                print(f"Request {output.request_id} ({name}): {output.outputs[0].text}")


if __name__ == "__main__":
    main()
