"""Value theories, targets, the distance between them, and surveys of people."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "distance": ["value_distance"],
    "targets": ["Target", "average_countries", "build_target", "choose_targets", "list_targets", "load_target",
        "save_target", "uniform_target", "write_system_prompt"],
    "theory": ["Theory", "check_theory", "list_theories", "load_theory"],
})
