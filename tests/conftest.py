"""Stands here so that pytest puts `tests` on the path and tests can import the planted worlds."""
