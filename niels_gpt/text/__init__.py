"""Tokenizers, chat templates and the detokenizer."""
