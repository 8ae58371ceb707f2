"""A server of models in OpenAI's protocol: a scheduler that batches whatever is asked at the same time, and HTTP."""
