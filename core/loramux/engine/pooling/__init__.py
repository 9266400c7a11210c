"""Embeddings instead of text: what a model's hidden states are made into."""
