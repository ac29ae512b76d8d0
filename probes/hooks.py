"""Record and edit activations of any `torch.nn.Module` inside a `with` block.

A *hook point* is a submodule that returns one tensor. toylab's models have an `nn.Identity` at every activation of
interest; any other such submodule works too. Points are named by their module path, or matched by a pattern with `*`:
`blocks.*.attn.pattern`.

Models of other libraries map point names to submodules in an attribute `taps` (name to `Tap`), and list unavailable
activations in `hidden` (name to reason); `toylab.model.interop.adopt` sets both.

An edit acts or raises: a matched point that the forward pass does not visit is an error. Modules with an optimised
path that skips a point call `has_hooks` and fall back to the full computation.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from toylab.console import ToylabError
from toylab.settings import check_settings

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tap:
    """The location of a hook point in a model of another library.

    Attributes:
        module: path of the submodule.
        part: the submodule's output, its (first) input, or the index of one output if it returns several.
        columns: slice (start, stop) of the last axis; the whole axis if None.
        heads: if given, the last axis is reshaped to (head, feature).
        read_only: reason why an edit at this point would not have the expected effect; "" if it can be edited.
    """

    module: str
    part: Literal["output", "input"] | int = "output"
    columns: tuple[int, int] | None = None
    heads: int | None = None
    read_only: str = ""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def is_whole_output(self) -> bool:
        """Whether the activation is the output of the module as it is."""
        return (self.part, self.columns, self.heads, self.read_only) == ("output", None, None, "")

    def extract(self, x: Tensor) -> Tensor:
        """The activation of the point: the slice `columns`, split into heads."""
        if self.columns is not None:
            x = x[..., self.columns[0] : self.columns[1]]
        return x if self.heads is None else x.unflatten(-1, (self.heads, -1))

    def insert(self, x: Tensor, activation: Tensor) -> Tensor:
        """The inverse of `extract`: the full tensor `x` with the edited activation written back."""
        if self.heads is not None:
            activation = activation.flatten(-2)
        if self.columns is None:
            return activation
        start, stop = self.columns
        return torch.cat([x[..., :start], activation, x[..., stop:]], dim=-1)


def points(model: nn.Module) -> tuple[str, ...]:
    """Names of all hook points in module order: the model's taps, or its `nn.Identity` modules and the `HookPoint`s of
    TransformerLens."""
    if taps := _taps(model):
        return tuple(taps)
    return tuple(name for name, module in model.named_modules() if name and _is_point(module))


_Recorded = TypeVar("_Recorded", Tensor, list[Tensor])


class ActivationCache(dict[str, _Recorded]):
    """Activations recorded by `watch`: from a point to the tensor of the latest call, or to the list of all calls.

    Attributes:
        matched: every point matched by the given names, visited or not.
    """

    def __init__(self, matched: Iterable[str]) -> None:
        super().__init__()
        self.matched = tuple(matched)

    @property
    def unvisited(self) -> tuple[str, ...]:
        """Matched points that the forward pass did not visit."""
        return tuple(name for name in self.matched if name not in self)

    def __missing__(self, name: str) -> NoReturn:
        why = "was watched but not visited by the forward pass" if name in self.matched else "was not watched"
        raise ToylabError(f"{name!r} {why}; recorded: {', '.join(self) or 'no points'}")


@overload
def watch(
    model: nn.Module, *names: str, every_call: Literal[False] = False
) -> AbstractContextManager[ActivationCache[Tensor]]: ...


@overload
def watch(
    model: nn.Module, *names: str, every_call: Literal[True]
) -> AbstractContextManager[ActivationCache[list[Tensor]]]: ...


@contextmanager
def watch(model: nn.Module, *names: str, every_call: bool = False) -> Iterator[ActivationCache[Any]]:
    """Record the activations at the named points; yields a dict from name to the tensor of the latest call.

        with watch(model, "blocks.*.attn.pattern") as cache:
            model(tokens)
        cache["blocks.1.attn.pattern"]  # (batch, head, query, key)

    Tensors are neither copied nor detached: outputs are bit-identical, and gradients flow through the recorded tensors.
    With `every_call`, each entry is the list of all calls (`generate` makes one per token). The attribute `unvisited`
    lists the points that were not visited. Only the hooks registered here are removed.

    Raises:
        ToylabError: for a name without a match (the message lists the nearest points); for a compiled model.
        TypeError: if a watched module does not return a single tensor.
    """
    cache: ActivationCache[Any] = ActivationCache(
        dict.fromkeys(name for pattern in names for name in match_points(model, pattern))
    )

    def record(name: str) -> HookFunction:
        def store(value: Tensor) -> None:
            if every_call:
                cache.setdefault(name, []).append(value)
            else:
                cache[name] = value

        return store

    with hooks_at(model, {name: record(name) for name in cache.matched}):
        yield cache


@contextmanager
def edit(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Replace the activations at the named points by `function(tensor)`.

        with edit(model, {"blocks.0.mlp_out": torch.zeros_like}):
            model(tokens)

    A name may contain `*`; the function is then applied at every match. Edits nest: an inner edit receives the output
    of an outer one at the same point. The function receives a copy and may modify it in place. Only the hooks
    registered here are removed, also if the block raises.

    Raises:
        ToylabError: for a name without a match (the message lists the nearest points); for two names that match the
            same point, since their order would be ambiguous; for a read-only point; for a compiled model; during the
            forward pass, for an edit that changes the shape; at the end of the block, for a point that the forward
            pass did not visit.
        TypeError: if an edited module, or the edit, does not return a single tensor.
    """
    visited: set[str] = set()

    def replace(name: str, function: Edit) -> HookFunction:
        def apply(value: Tensor) -> Tensor:
            visited.add(name)
            edited = function(value.clone())  # in-place edits must not change recorded tensors
            _check_tensor(f"edit of {name}", edited)
            if edited.shape != value.shape:
                raise ToylabError(
                    f"the edit at {name!r} changes the shape from {tuple(value.shape)} to {tuple(edited.shape)}; "
                    "an edit must keep it"
                )
            return edited

        return apply

    hooks: dict[str, HookFunction] = {}
    for pattern, function in edits.items():
        for name in match_points(model, pattern):
            if name in hooks:
                raise ToylabError(f"two edits match {name!r}; compose them into one function, or nest two `edit`s")
            if why := tap_at(model, name).read_only:
                raise ToylabError(f"{name!r} can be watched here but not edited: {why}")
            hooks[name] = replace(name, function)
    if not hooks:
        yield
        return
    runs: list[bool] = []
    handle = model.register_forward_hook(_Hook(lambda *_: runs.append(True)))
    try:
        with hooks_at(model, hooks):
            yield
    finally:
        handle.remove()
    if runs and (missed := [name for name in hooks if name not in visited]):
        raise ToylabError(
            f"edit of {', '.join(missed)}: not visited by the forward pass, so the edit had no effect; "
            "watch(...).unvisited lists such points"
        )


def match_points(model: nn.Module, pattern: str) -> list[str]:
    """The points, or other submodules, matched by a name or pattern."""
    taps = _taps(model)
    if pattern in taps:
        return [pattern]
    if pattern and not taps:
        with suppress(AttributeError):  # no such module: a pattern or a typo
            module = model
            for step in pattern.split("."):
                module = _child(module, step)
            if isinstance(module, nn.Module):
                return [pattern]
    names = points(model) or tuple(name for name, _ in model.named_modules() if name)
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        for name, why in _table(model, "hidden", str).items():
            if fnmatchcase(name, pattern):
                raise ToylabError(f"{name!r} is not available in this model: {why}")
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        nearest = ", ".join(near)
        raise ToylabError(f"no hook point is named {pattern!r}; nearest: {nearest}; toylab.probes.points lists all")
    return matches


def tap_at(model: nn.Module, name: str) -> Tap:
    """The location of a point: the model's tap of that name, or the submodule itself."""
    return _taps(model).get(name) or _output_of(name)


_output_of = lru_cache(maxsize=4096)(Tap)  # checking its settings costs more than registering its hook


HookFunction = Callable[[Tensor], Tensor | None]
"""A hook: returns the tensor that replaces its argument, or None to leave it unchanged."""


@contextmanager
def hooks_at(model: nn.Module, functions: Mapping[str, HookFunction], inputs: bool = False) -> Iterator[None]:
    """Call a function on the activation of each named point or, with `inputs`, on the input of each named module.

    Raises:
        ToylabError: for a compiled model, whose graph bypasses hooks.
    """
    handles, taps = [], _taps(model)
    try:
        for name, function in functions.items():
            tap = taps.get(name) or _output_of(name)
            tap = Tap(tap.module, "input") if inputs else tap
            module = _uncompiled_module(model, tap.module)
            if tap.part == "input":
                handles.append(module.register_forward_pre_hook(_Hook(_input_hook(name, tap, function))))
            else:
                handles.append(module.register_forward_hook(_Hook(_output_hook(name, tap, function))))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    """A hook that is dropped when its module is copied by `deepcopy` or pickle."""

    def __init__(self, call: Callable) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __deepcopy__(self, memo: object) -> Callable:
        return _no_hook

    def __reduce__(self) -> tuple:
        return _make_no_hook, ()


def _no_hook(*_: object) -> None:
    return None


def _make_no_hook() -> Callable:
    return _no_hook


def has_hooks(*modules: nn.Module) -> bool:
    """Whether any of these modules has a hook: of `watch`, of `edit`, or another PyTorch hook."""
    for module in modules:
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            if hooks and any(hook is not _no_hook for hook in hooks.values()):
                return True
    return bool(_has_any_global_hook())  # PyTorch may return an empty dict


def _uncompiled_module(model: nn.Module, path: str) -> nn.Module:
    """The module at a path. Raises `ToylabError` if it or one of its parents is compiled."""
    module = model
    for step in ("", *path.split(".")):
        module = _child(module, step) if step else module
        if module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
            raise ToylabError(
                f"model={type(module).__name__}: is compiled, and its graph bypasses hooks; watch or edit the "
                "uncompiled model"
            )
    return module


def _child(module: nn.Module, name: str) -> Any:
    """The submodule, without the search for a parameter of that name that `getattr` begins with; or an attribute."""
    return module._modules[name] if name in module._modules else getattr(module, name)


def _output_hook(name: str, tap: Tap, function: HookFunction) -> Callable:
    if tap.is_whole_output:

        def plain(module: nn.Module, inputs: tuple, output: object) -> Tensor | None:
            return function(_check_tensor(name, output))

        return plain

    def hook(module: nn.Module, inputs: tuple, output: Any) -> Any:
        if not isinstance(tap.part, int):
            return _apply_function(name, tap, function, output)
        edited = _apply_function(name, tap, function, output[tap.part])
        return None if edited is None else (*output[: tap.part], edited, *output[tap.part + 1 :])

    return hook


def _input_hook(name: str, tap: Tap, function: HookFunction) -> Callable:
    def hook(module: nn.Module, inputs: tuple) -> tuple | None:
        edited = _apply_function(name, tap, function, inputs[0] if inputs else None)
        return None if edited is None else (edited, *inputs[1:])

    return hook


def _apply_function(name: str, tap: Tap, function: HookFunction, value: object) -> Tensor | None:
    if value is None:
        raise ToylabError(
            f"{name}: is None, since a fused attention kernel keeps no pattern; use eager attention: "
            "toylab.model.interop.adopt(model, patterns=True)"
        )
    tensor = _check_tensor(name, value)
    edited = function(tap.extract(tensor))
    return None if edited is None else tap.insert(tensor, edited)


def _taps(model: nn.Module) -> Mapping[str, Tap]:
    return _table(model, "taps", Tap)


def _table(model: nn.Module, attribute: str, value_type: type) -> Mapping[str, Any]:
    """The mapping `taps` or `hidden` of a model; an unrelated attribute of the same name is ignored."""
    table = getattr(model, attribute, None)
    return (
        table if isinstance(table, Mapping) and all(isinstance(value, value_type) for value in table.values()) else {}
    )


def _is_point(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or type(module).__name__ == "HookPoint"


def _check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected one tensor, got {type(value).__name__}; name a module inside it, or see "
            "toylab.model.interop.adopt for models of other libraries"
        )
    return value
