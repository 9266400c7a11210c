"""Reading adapters in processes of their own, whose Python holds up no engine."""
