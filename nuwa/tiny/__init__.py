"""The two tiny models: their architectures, their training and their shipped weights."""
