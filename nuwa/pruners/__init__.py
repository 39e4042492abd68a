"""Pruning methods, one per file. Methods are found by their files in ``conf/pruner``; this list is for importing."""

from nuwa.pruners.cdpruner import CDPruner
from nuwa.pruners.composed import Composed
from nuwa.pruners.dart import Dart
from nuwa.pruners.divprune import DivPrune
from nuwa.pruners.downsample import Downsample
from nuwa.pruners.fastv import FastV
from nuwa.pruners.feather import Feather
from nuwa.pruners.grid import StridedGrid
from nuwa.pruners.hiprune import HiPrune
from nuwa.pruners.holov import HoloV
from nuwa.pruners.none import KeepAll
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease
from nuwa.pruners.nuwa_release_qwen import NuwaReleaseQwen
from nuwa.pruners.pooling import Pooling
from nuwa.pruners.prumerge import PruMerge, PruMergePlus
from nuwa.pruners.pyramiddrop import PyramidDrop
from nuwa.pruners.random import RandomPruner
from nuwa.pruners.sparsevlm import SparseVLM
from nuwa.pruners.sparsevlm_plus import SparseVLMPlus
from nuwa.pruners.visionzip import VisionZip
from nuwa.pruners.vispruner import VisPruner

__all__ = [
    "CDPruner",
    "Composed",
    "Dart",
    "DivPrune",
    "Downsample",
    "FastV",
    "Feather",
    "HiPrune",
    "HoloV",
    "KeepAll",
    "Nuwa",
    "NuwaRelease",
    "NuwaReleaseQwen",
    "Pooling",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "RandomPruner",
    "SparseVLM",
    "SparseVLMPlus",
    "StridedGrid",
    "VisPruner",
    "VisionZip",
]
