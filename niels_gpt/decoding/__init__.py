"""Inference: decode states and the decoders that drive them."""
