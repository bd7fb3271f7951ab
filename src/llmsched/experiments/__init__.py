"""Experiments: the paper's, a search for the worst instances of a policy, and what a predictor is worth."""
