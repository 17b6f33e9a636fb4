"""Recorded conversations, made again: exactly, or with the difference named."""
