"""The router: one event loop that splices OpenAI requests to experts first and to fallbacks when needed."""
