"""From replies to labels: questions to annotators, votes, review by people, Label Studio."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "label_studio": ["export_label_studio", "import_label_studio"],
    "questions": ["predict_out_of_fold", "vote_labels"],
    "review": ["ReviewError", "append_decisions", "build_queue", "read_decisions", "review_widget", "write_review_csv"],
    "run": ["annotate_file"]})
