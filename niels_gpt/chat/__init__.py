"""The chat program: REPL, pipe and commands over a workspace."""
