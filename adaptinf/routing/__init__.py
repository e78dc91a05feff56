"""Which adapter answers a request: routers, and one model that serves many adapters."""

from __future__ import annotations

from adaptinf.routing.anchors import AnchorRouter
from adaptinf.routing.autoencoder import AutoencoderRouter
from adaptinf.routing.centroid import NearestCentroidRouter
from adaptinf.routing.encoders import HiddenEncoder, PictureEncoder, RequestEncoder, SketchEncoder
from adaptinf.routing.model import Answer, RoutedModel
from adaptinf.routing.oracle import OracleRouter
from adaptinf.routing.router import Router, Routes
from adaptinf.routing.saving import load_router, save_router
from adaptinf.routing.switch import SwitchNetwork

__all__ = [
    "AnchorRouter",
    "Answer",
    "AutoencoderRouter",
    "HiddenEncoder",
    "NearestCentroidRouter",
    "OracleRouter",
    "PictureEncoder",
    "RequestEncoder",
    "RoutedModel",
    "Router",
    "Routes",
    "SketchEncoder",
    "SwitchNetwork",
    "load_router",
    "save_router",
]
