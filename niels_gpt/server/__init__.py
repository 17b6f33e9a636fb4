"""The HTTP server: OpenAI's surface, a native one for sessions and trees, and a page, over one engine."""
