"""Ways to get from a step's layout to its logits."""
