"""The tiny LLaVA: generated scenes, questions about them, the model, its training and its shipped weights."""
