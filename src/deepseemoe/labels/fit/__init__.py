"""Fit rules to features: for each kind, the best one of every feature, found by counting.

`best.Search` is the way in.
"""
