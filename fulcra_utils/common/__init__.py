"""What every folder needs: where files lie, how they are written and told apart, labels, workers."""

__all__: list[str] = []
