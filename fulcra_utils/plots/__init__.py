"""Figures: one module a notebook; data in, Figure out, computes nothing."""
