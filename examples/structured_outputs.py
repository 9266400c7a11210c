"""Text of a form that is given: the shipped model picks a word, writes a date, and fills a schema.

    python examples/structured_outputs.py

Needs ``pip install 'loramux[structured]'``. No training is involved: at each step, only tokens that
fit the form can come.
"""

from __future__ import annotations

from pathlib import Path

from loramux import LLM, LoRARequest, SamplingParams, StructuredOutputsParams

DEMO = Path(__file__).parent / "demo"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMS = {
    "choice": StructuredOutputsParams(choice=["positive", "negative"]),
    "regex": StructuredOutputsParams(regex=r"20\d\d-(0[1-9]|1[0-2])"),
    "json": StructuredOutputsParams(json=PERSON),
}
MESSAGES = [{"role": "user", "content": "Mia Keller is 29 years old and lives in Lisbon."}]


def main() -> None:
    llm = LLM(str(DEMO / "loramux-demo"), enable_lora=True)
    adapter = LoRARequest("json", 1, str(DEMO / "adapters" / "json"))
    for name, form in FORMS.items():
        params = SamplingParams(temperature=0, max_tokens=64, structured_outputs=form)
        (output,) = llm.chat(MESSAGES, params, lora_request=adapter, use_tqdm=False)
        print(f"{name}: {output.outputs[0].text}")
    llm.shutdown()


if __name__ == "__main__":
    main()
