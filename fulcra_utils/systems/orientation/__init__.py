"""Social value orientation: the slider measure, its protocol for language models, players."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "slider": ["classify_angle", "svo_angle"],
    "protocol": ["run_protocol", "summarise_protocol"],
    "players": ["endpoint_player", "local_player"]})
