"""What values say: prevalence, risks, models, probes, the value space and its circle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "replies": ["make_replies"], "space": ["load_risks"],
    "tables": ["compare_models", "probe_replies", "tabulate_prevalence"]})
