"""A pretend accelerator: CPU tensors that say another device, and obey CUDA's rules for mixing.

    with Accelerator():
        model.to(DEVICE)(tokens.to(DEVICE))  # real numbers, real gradients
        model(tokens)                        # raises, as on CUDA

A tensor lies there if its storage is marked, so views, `p.data = view` and gradients stay where their memory is, and
autograd is torch's own. Outside the block the marks mean nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("privateuseone", 0)
"""The name that torch reserves for accelerators it does not know."""


def is_far(x: Tensor) -> bool:
    """Whether a tensor lies on the accelerator."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):  # as in `vmap`
        x = torch._C._functorch.get_unwrapped(x)
    return getattr(x.untyped_storage(), "far", False)


class Accelerator(TorchFunctionMode):
    """For the length of a `with` block, `DEVICE` is a device."""

    def __enter__(self) -> Accelerator:
        self._rules = _Rules()
        self._rules.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._rules.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _DESCRIBE:
            return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func == Tensor.device.__get__:
            return DEVICE if is_far(first) else torch.device("cpu")
        if func == Tensor.is_cpu.__get__:
            return not is_far(first)
        if func in _HOST_ONLY and is_far(first):
            raise TypeError("can't convert an accelerator's tensor to numpy; use Tensor.cpu() to copy it first")
        if func is Tensor.cpu:
            return _moved(first, False)
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if (device := kwargs.get("device")) is not None and func is not torch._C._nn._parse_to:
            return _made(func, args, kwargs, _names_it(device))
        # What torch makes for itself, to work on tensors of the accelerator, it makes there.
        before, self._rules.inside = self._rules.inside, any(map(is_far, _tensors((args, kwargs))))
        try:
            out = func(*args, **kwargs)
        finally:
            self._rules.inside = before
        if func in _UNSEEN and is_far(first):
            _mark(out, True)
        return out


_DESCRIBE = frozenset((Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim))
"""These say what a tensor is, wherever it lies; run-time type checks ask them at every call."""
_HOST_ONLY = (Tensor.numpy, Tensor.__array__)
_UNSEEN = (Tensor.__deepcopy__, Tensor.new_tensor)
"""These copy memory without an operation that the dispatcher sees."""
_COPIES = ("aten._to_copy", "aten.copy_", "aten.copy.")
_INDEXED = ("aten.index.", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")
"""Operations whose indices may lie on the CPU."""


class _Rules(TorchDispatchMode):
    """Refuses operations on tensors of two devices; what is made of the accelerator's tensors lies there."""

    inside = False
    """Whether torch is at work on tensors of the accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        leaves = _leaves((args, kwargs))
        held = [x for x in leaves if isinstance(x, Tensor)]
        far = any(map(is_far, held))
        if far and any(isinstance(x, torch.Generator) for x in leaves):
            raise RuntimeError(f"{name}: expected a generator of the accelerator, found one of the CPU")
        if far and not name.startswith(_COPIES):
            # As CUDA: numbers may come from the CPU, and so may indices of a tensor that lies here.
            checked = _tensors((args[0], *args[2:])) if name.startswith(_INDEXED) else held
            near = [tuple(x.shape) for x in checked if x.ndim and not is_far(x)]
            if near:
                raise RuntimeError(f"{name}: expected all tensors on one device, found the CPU's of shape {near[0]}")
        out = func(*args, **kwargs)
        if (far and not name.startswith("aten.copy_")) or (self.inside and not held):
            for x in _tensors(out):
                _mark(x, True)
        return out


class _Move(torch.autograd.Function):
    """A copy on the other device; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, far: bool) -> Tensor:
        ctx.was = is_far(x)
        return _mark(x.clone(), far)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _mark(gradient.clone(), ctx.was), None


def _moved(x: Tensor, far: bool) -> Tensor:
    return x if is_far(x) == far else _Move.apply(x, far)


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, whose device may stand anywhere: as itself, by name, or as that of another tensor."""
    target = None
    for given in (*args, *kwargs.values()):
        if isinstance(given, Tensor):
            target = is_far(given)
        elif isinstance(given, str | torch.device):
            target = _names_it(given)

    def on_cpu(given: Any) -> Any:
        return torch.device("cpu") if isinstance(given, str | torch.device) else given

    out = Tensor.to(x, *map(on_cpu, args), **{name: on_cpu(given) for name, given in kwargs.items()})
    return out if target is None else _moved(out, target)


def _made(func: Any, args: tuple, kwargs: dict[str, Any], far: bool) -> Any:
    """What a factory makes on a device that was asked for."""
    if far and kwargs.get("generator") is not None:
        raise RuntimeError("expected a generator of the accelerator, found one of the CPU")
    out = func(*args, **kwargs | {"device": torch.device("cpu")})
    if not isinstance(out, Tensor):
        return out
    return _moved(out, far) if func is torch.as_tensor else _mark(out, far)  # `as_tensor` may have made nothing


def _names_it(device: str | torch.device) -> bool:
    return torch.device(device).type == DEVICE.type


def _mark(x: Tensor, far: bool) -> Tensor:
    x.untyped_storage().far = far
    return x


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in _leaves(values) if isinstance(x, Tensor)]


def _leaves(values: Any) -> list[Any]:
    """What lies in lists, tuples and dictionaries, however deep; torch's own `tree_leaves` takes ten times as long."""
    found, held = [], [values]
    while held:
        x = held.pop()
        if isinstance(x, list | tuple):
            held.extend(reversed(x))
        elif isinstance(x, dict):
            held.extend(reversed(x.values()))
        else:
            found.append(x)
    return found
