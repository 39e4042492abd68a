"""Pruning methods, one per file."""

from nuwa.pruners.fastv import FastV
from nuwa.pruners.none import KeepAll
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease
from nuwa.pruners.pooling import Pooling
from nuwa.pruners.random import RandomPruner
from nuwa.pruners.visionzip import VisionZip

__all__ = ["FastV", "KeepAll", "Nuwa", "NuwaRelease", "Pooling", "RandomPruner", "VisionZip"]
