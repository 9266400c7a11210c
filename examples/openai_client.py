"""The official OpenAI client against a running loramux server.

    make serve                              # in one terminal
    python examples/openai_client.py        # in another

Needs ``pip install openai``. The adapter is the request's model.
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(base_url: str = "http://localhost:8000/v1") -> None:
    client = OpenAI(base_url=base_url, api_key="none")
    for model in ("loramux-demo", "pirate", "french"):
        stream = client.chat.completions.create(
            model=model,
            messages=[
                {
                    "role": "user",
                    "content": "Hi Max, can you bring the letter to the station on Monday?",
                },
            ],
            temperature=0,
            stream=True,
        )
        print(f"{model}: ", end="")
        for event in stream:
            print(event.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
