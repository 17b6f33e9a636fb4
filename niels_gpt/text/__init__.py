"""Tokenizers, chat templates, the transcript format and the detokenizer."""
