"""Blocks of a layer that add the updates of the product they read, instead of a kernel before them.

Each computes all rows of a step, those of the base model to the same bits as the block without
updates.
"""
