"""The value compass: models ranked by their values, next to countries, on one page."""
