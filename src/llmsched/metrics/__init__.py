"""What results mean: comparisons, what users feel, energy, capacity, and their figures."""
