"""Experiments on top of comparisons: those of the paper, bad instances, what a predictor is worth."""
