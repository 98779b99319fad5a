"""What values say: prevalence, risks, models, probes, the value space and its circle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "circle": ["examine_circle"], "replies": ["Replies", "make_example", "make_replies"],
    "space": ["find_unknown_risks", "load_risks", "project_replies"],
    "tables": ["average_models", "compare_models", "correlate_risks", "probe_replies", "tabulate_prevalence"]})
