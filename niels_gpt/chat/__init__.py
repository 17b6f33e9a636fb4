"""The chat app: the only place that knows the engine, the model and the store."""
