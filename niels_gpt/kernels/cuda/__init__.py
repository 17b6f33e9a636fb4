"""Inference on NVIDIA GPUs with the arithmetic of the CPU kernels: the same bits.

The `.cu` files compute every number by the operations of `niels_gpt.kernels`, in their order. `model` runs
the forward pass on packed weights, `slots` the sampler. Both reach a GPU through the interface in `driver`
alone. Importing this package imports nothing heavy.
"""
