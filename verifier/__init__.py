"""Re-execute stored replies bit for bit, written from docs/spec alone.

It shares no code with the program that made them: numpy, the standard library and, for models with a learned
vocabulary, `tokenizers`. It is slow and short on purpose.
"""
