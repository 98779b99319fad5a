"""Social value orientation: the slider measure, its protocol for language models, players."""
