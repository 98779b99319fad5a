"""What every folder needs: where files lie, how they are written and told apart, labels, workers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "files": ["write_json", "write_table", "write_text"],
    "labels": ["scores_to_labels"],
})
