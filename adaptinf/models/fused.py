"""What a decoder layer does between its matrix products, by one native pass each: norms, gates and attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from adaptinf_kernels import attention, rms_norm, rotary, swiglu
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.activations import SiLUActivation

from adaptinf.models.norms import rms_norm_epsilon


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """For the context, RMSNorm, SwiGLU and attention modules of ``model``, with the rotary embedding inside the last,
    run natively wherever they are float32 and on the CPU, and norms frozen.

    Their results differ from torch's by rounding. Hooks see what they always saw.
    """
    with ExitStack() as stack:
        for module in model.modules() if next(model.parameters()).device.type == "cpu" else ():
            forward = (_gate(module) or _norm(module) or _attends(module)) if "forward" not in vars(module) else None
            if forward is not None:
                module.forward = forward
                stack.callback(delattr, module, "forward")
        yield


def _fits(*tensors: Tensor) -> bool:
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    return plain and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def _norm(module: nn.Module) -> Callable[..., Tensor] | None:
    epsilon = rms_norm_epsilon(module)
    return None if epsilon is None else partial(_norm_forward, module, epsilon)


def _norm_forward(module: nn.Module, epsilon: float, x: Tensor) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if not _fits(x, weight) or weight.requires_grad:
        return type(module).forward(module, x)
    return rms_norm(x, weight, epsilon)


def _gate(module: nn.Module) -> Callable[..., Tensor] | None:
    """A module that runs ``down_proj(act_fn(gate_proj(x)) * up_proj(x))`` and nothing else, with SiLU."""
    code = getattr(type(module).forward, "__code__", None)
    known = isinstance(code, CodeType) and any(_same(code, form.__code__) for form in (_named, _direct))
    silu = isinstance(getattr(module, "act_fn", None), (nn.SiLU, SiLUActivation))
    return partial(_gate_forward, module) if known and silu else None


def _named(self: Any, x: Any) -> Any:
    """The forward of transformers' Llama and of most that came after it."""
    down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return down_proj  # noqa: RET504 - what is compared


def _direct(self: Any, x: Any) -> Any:
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def _same(ours: CodeType, theirs: CodeType) -> bool:
    """Whether two functions do the same: their instructions, and the names and constants that these refer to."""

    def known(code: CodeType) -> tuple[Any, ...]:
        documented = code.co_consts[:1] and (code.co_consts[0] is None or isinstance(code.co_consts[0], str))
        return code.co_code, code.co_names, code.co_argcount, code.co_consts[1:] if documented else code.co_consts

    return known(ours) == known(theirs)


def _gate_forward(module: Any, x: Tensor) -> Tensor:
    gate = module.gate_proj(x)
    activation = module.act_fn
    watched = activation._forward_hooks or activation._forward_pre_hooks  # noqa: SLF001
    if watched or not _fits(gate):
        return module.down_proj(activation(gate) * module.up_proj(x))
    return module.down_proj(swiglu(gate, module.up_proj(x)))


def _attends(module: nn.Module) -> Callable[..., Any] | None:
    """A module whose own forward comes to torch's attention, by itself or by transformers' choice of one."""
    forward = type(module).forward
    code = getattr(unwrap(forward), "__code__", None)
    calls = {"ALL_ATTENTION_FUNCTIONS", "scaled_dot_product_attention"}
    if code is None or not calls.intersection(code.co_names):
        return None
    return partial(_attention_forward, module, _rotating(forward))


def _attention_forward(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():
        return type(module).forward(module, *args, **kwargs)
    with _NativeAttention():
        return forward(module, *args, **kwargs)


def _rotating(forward: Any) -> Callable[..., Any]:
    """A copy of the forward for which ``apply_rotary_pos_emb`` is ours, where it is Llama's, as it is for most."""
    theirs = getattr(forward, "__globals__", {}).get("apply_rotary_pos_emb")
    if not isinstance(forward, FunctionType) or not isinstance(theirs, FunctionType) or hasattr(forward, "__wrapped__"):
        return forward
    turn = theirs.__globals__.get("rotate_half")
    if not isinstance(turn, FunctionType) or not _same(theirs.__code__, _apply_rotary.__code__):
        return forward
    if not _same(turn.__code__, rotate_half.__code__) or theirs.__defaults__ != _apply_rotary.__defaults__:
        return forward
    known = {**forward.__globals__, "apply_rotary_pos_emb": partial(_rotate, theirs)}
    ours = FunctionType(forward.__code__, known, forward.__name__, forward.__defaults__, forward.__closure__)
    ours.__kwdefaults__ = forward.__kwdefaults__
    return ours


def rotate_half(x: Any) -> Any:
    """What is compared with that of transformers."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def _apply_rotary(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
    """What is compared with that of transformers."""
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return q_embed, k_embed


def _rotate(
    theirs: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    plain = unsqueeze_dim == 1 and q.dim() == 4 and cos.dim() == 3 and not (cos.requires_grad or sin.requires_grad)
    if plain and q.shape[2:] == k.shape[2:] == cos.shape[1:] and _fits(q, k, cos, sin):
        return rotary(q, cos, sin), rotary(k, cos, sin)
    return theirs(q, k, cos, sin, unsqueeze_dim)


class _NativeAttention(TorchFunctionMode):
    """``scaled_dot_product_attention`` by our kernel, wherever it does the same."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    masked = attn_mask is None or (attn_mask.dtype == torch.bool and attn_mask.dim() == 4 and not is_causal)
    alike = query.dim() == 4 and (enable_gqa or query.shape[1] == key.shape[1]) and len(query) == len(key)
    if masked and alike and not dropout_p and _fits(query, key, value):
        return attention(query, key, value, mask=attn_mask, causal=is_causal, scale=scale)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
