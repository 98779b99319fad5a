"""Language models: endpoints and their cache, questions asked once, local models, replies to prompts."""
