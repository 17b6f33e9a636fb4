"""Decoding: decoders for the engine, sequences, the prefix cache, step threads, and the backend choice."""
