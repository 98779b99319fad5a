"""Running the paper: profiles, parameters, the pipeline, claims next to ours, the report."""

__all__: list[str] = []
