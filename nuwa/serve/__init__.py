"""Serving a pruned model with vLLM: what is told to it (`settings`), the vision side, and the plugin (`vllm`)."""
