"""Which adapter answers a request: routers, and one model that serves many adapters."""

from __future__ import annotations

from adaptinf.routing.anchors import AnchorRouter
from adaptinf.routing.arrow import ArrowRouter, ModuleInputs
from adaptinf.routing.autoencoder import AutoencoderRouter
from adaptinf.routing.centroid import NearestCentroidRouter
from adaptinf.routing.encoders import HiddenEncoder, PictureEncoder, RequestEncoder, SketchEncoder
from adaptinf.routing.merging import Fused, Merged, Merging, add_to_base, fuse, merge
from adaptinf.routing.model import Answer, RoutedModel
from adaptinf.routing.oracle import OracleRouter
from adaptinf.routing.router import Router, Routes
from adaptinf.routing.saving import load_router, save_router
from adaptinf.routing.serving import vllm_problems
from adaptinf.routing.switch import SwitchNetwork

__all__ = [
    "AnchorRouter",
    "Answer",
    "ArrowRouter",
    "AutoencoderRouter",
    "Fused",
    "HiddenEncoder",
    "Merged",
    "Merging",
    "ModuleInputs",
    "NearestCentroidRouter",
    "OracleRouter",
    "PictureEncoder",
    "RequestEncoder",
    "RoutedModel",
    "Router",
    "Routes",
    "SketchEncoder",
    "SwitchNetwork",
    "add_to_base",
    "fuse",
    "load_router",
    "merge",
    "save_router",
    "vllm_problems",
]
