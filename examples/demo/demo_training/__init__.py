"""How the demo's tokenizer, base model and adapters are trained."""
