"""An explorer of runs: one static folder with every sample, answer and decision."""
