"""From an adapter somewhere to its tensors on the host."""
