"""Language models: endpoints and their cache, questions asked once, local models, replies to prompts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "endpoints": ["AnswerCache", "Endpoint"],
    "local": ["load_policy", "sample_replies"],
    "replies": ["LocalModel", "load_writers", "write_replies", "write_reply_rows"],
})
