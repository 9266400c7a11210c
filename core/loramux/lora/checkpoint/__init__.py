"""Reading a PEFT checkpoint: exactly what PEFT computes, or a refusal."""
