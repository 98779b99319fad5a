"""Running the paper: profiles, parameters, the pipeline, claims next to ours, the report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "pipeline": ["open_run", "reproduce", "run_notebook"]})
