"""Nüwa: a workbench for pruning vision tokens in vision-language models."""

__version__ = "0.1.0"
