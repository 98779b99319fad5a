"""Figures: one module a notebook; data in, Figure out, computes nothing."""

__all__: list[str] = []
