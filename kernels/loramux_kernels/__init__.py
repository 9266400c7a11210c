"""Tensors in, tensors out: the kernels of loramux and the torch references they are held to."""
