"""The chat engine: jobs, events, scheduling and cancellation over any model. Knows no torch, SQL or terminal."""
