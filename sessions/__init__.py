"""The session store: conversations as immutable message trees. Knows no model, event loop or terminal."""
