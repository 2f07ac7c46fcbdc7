"""A bundle behind OpenAI's API: typed and bounded requests, hand-over to the LLM, metrics, graceful stop."""
