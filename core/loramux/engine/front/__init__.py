"""The half of the engine that knows text: prompts in, outputs out."""
