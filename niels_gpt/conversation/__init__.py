"""One conversation over an engine, a model and a store: open, turn, retry, edit, fork, settings."""
