"""The tiny models: their architectures, their training and their shipped weights."""
