"""The other libraries, each built the way its documentation says. All are optional: what is missing is reported."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import UnavailableError


def module(name: str, distribution: str) -> ModuleType:
    """Raises UnavailableError with the reason where it does not import."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a half-installed package may raise anything
        raise UnavailableError(
            f"{distribution} does not import here ({type(error).__name__}: {error}); "
            f"`pip install --no-deps {distribution}`"
        ) from error


def _needs_cuda(what: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise UnavailableError(f"{what} has no implementation for {device.type}")


def trak_basic(columns: int, k: int, device: torch.device, gradients: Tensor) -> Callable[[], Tensor]:
    """TRAK's projector without its CUDA kernels: it draws every sign again at each call."""
    projectors = module("trak.projectors", "traker")
    projector = projectors.BasicProjector(
        grad_dim=columns,
        proj_dim=k,
        seed=0,
        proj_type=projectors.ProjectionType.rademacher,
        device=device,
        block_size=128,
        dtype=gradients.dtype,
    )
    return lambda: projector.project(gradients, model_id=0)


def dattri_basic(columns: int, k: int, device: torch.device, gradients: Tensor) -> Callable[[], Tensor]:
    """dattri's projector for machines without its CUDA kernels."""
    projection = module("dattri.func.projection", "dattri")
    projector = projection.BasicProjector(
        feature_dim=columns,
        proj_dim=k,
        seed=0,
        proj_type=projection.ProjectionType.rademacher,
        device=device,
        block_size=128,
        dtype=gradients.dtype,
    )
    return lambda: projector.project(gradients, ensemble_id=0)


def fast_jl(k: int, gradients: Tensor) -> Callable[[], Tensor]:
    """TRAK's CUDA kernel; float32 and float16 alone, so bfloat16 gradients are handed over as float16."""
    _needs_cuda("fast_jl", gradients.device)
    kernels = module("fast_jl", "fast_jl")
    blocks = torch.cuda.get_device_properties(gradients.device).multi_processor_count
    inputs = gradients.half() if gradients.dtype == torch.bfloat16 else gradients
    return lambda: kernels.project_rademacher_8(inputs, k, 0, blocks)


def trak(columns: int, k: int, device: torch.device, gradients: Tensor) -> Callable[[], Tensor]:
    """What TRAK itself would take: its CUDA kernel on a GPU, its plain projector elsewhere."""
    return fast_jl(k, gradients) if device.type == "cuda" else trak_basic(columns, k, device, gradients)


def sjlt(columns: int, k: int, gradients: Tensor) -> Callable[[], Tensor]:
    """dattri's CUDA kernel."""
    _needs_cuda("the sjlt package", gradients.device)
    package = module("sjlt", "sjlt")
    projection = package.SJLTProjection(columns, k, c=1)
    return lambda: projection(gradients)


def opacus(model: torch.nn.Module) -> Any:
    """The model wrapped so that a backward leaves ``grad_sample`` on every trainable parameter."""
    package = module("opacus.grad_sample", "opacus")
    return package.GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=False)


def bergson(model: torch.nn.Module, modules: list[str], samples: int, side: int) -> Any:
    """bergson's collector: double-sided projections ``L G R^T`` of side x side numbers a module, kept in memory.

    A context around forward and backward; afterwards ``mod_grads`` holds [samples, side^2] by module name.
    """
    package = module("bergson", "bergson")
    collectors = module("bergson.collector.in_memory_collector", "bergson")
    return collectors.InMemoryCollector(
        model=model,
        data=range(samples),
        cfg=package.IndexConfig(run_path="unused"),
        processor=package.GradientProcessor(projection_dim=side),
        target_modules=set(modules),
        builder=lambda indices, gradients: None,  # it would copy them into a buffer
    )


def liger_cross_entropy(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Liger's fused linear cross-entropy, ``(weight, hidden, labels) -> loss``, summed over tokens."""
    _needs_cuda("Liger", device)
    package = module("liger_kernel.transformers", "liger-kernel")
    return package.LigerFusedLinearCrossEntropyLoss(reduction="sum")


def flash_kmeans(device: torch.device) -> Callable[..., Any]:
    """flash-kmeans' batched fit, ``(x [B, N, d], k, max_iters, tol, init_centroids) -> (ids, centroids, n_iter)``."""
    _needs_cuda("flash-kmeans", device)
    return module("flash_kmeans", "flash-kmeans").batch_kmeans_Euclid


def cuml_kmeans(device: torch.device) -> Any:
    """cuML's ``KMeans``, with scikit-learn's interface."""
    _needs_cuda("cuML", device)
    return module("cuml.cluster", "cuml-cu13").KMeans


def faiss_gpu(device: torch.device) -> ModuleType:
    """faiss where it sees a GPU."""
    _needs_cuda("faiss-gpu", device)
    faiss = module("faiss", "faiss-gpu")
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        raise UnavailableError("faiss sees no GPU here: it is faiss-cpu, or built for another CUDA")
    return faiss
