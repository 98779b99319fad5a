"""Bridges to what others use: harnesses, registries of results, data set formats, annotation tools."""
