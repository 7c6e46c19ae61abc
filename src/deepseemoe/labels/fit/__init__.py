"""Fit rules to features: for each kind, the best one of every feature, found by counting.

`best.best_rules` is the way in.
"""
