"""Look into any `torch.nn.Module`, or change what it computes, for the length of a `with` block.

A *point* is a submodule through which one tensor passes; toylab's models have an `nn.Identity` at each interesting
place, and any other submodule that returns one tensor will do. A name is the module's path, as PyTorch gives it, or
a pattern with `*` over the points: `blocks.*.attn.pattern`.

A model that was not written to be looked into may say where its points lie: in an attribute `taps`, from names to
`Tap`, and in `hidden`, from names to the reason why there is none (`toylab.model.interop.adopt` writes both).

An edit acts or raises: a point that an edit matches and that the model then does not visit is an error. Modules with a
faster route around a point ask `has_hooks` and take the route that visits it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NoReturn, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from toylab.console import ToylabError
from toylab.settings import check_settings

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tap:
    """Where a point lies in a module that was not written to be looked into.

    Attributes:
        module: its path.
        part: what passes it, what enters it, or, if it returns several things, which of them.
        columns: the part of the last axis, from and to; all of it if not given.
        heads: if given, the last axis is shown as (head, feature).
        read_only: why an edit here would not have the effect that its name promises; "" where it has.
    """

    module: str
    part: Literal["output", "input"] | int = "output"
    columns: tuple[int, int] | None = None
    heads: int | None = None
    read_only: str = ""

    def __post_init__(self) -> None:
        check_settings(self)

    def extract(self, x: Tensor) -> Tensor:
        """The point as its name promises it."""
        if self.columns is not None:
            x = x[..., self.columns[0] : self.columns[1]]
        return x if self.heads is None else x.unflatten(-1, (self.heads, -1))

    def insert(self, x: Tensor, shown: Tensor) -> Tensor:
        """The whole of which an edited point is a part."""
        if self.heads is not None:
            shown = shown.flatten(-2)
        if self.columns is None:
            return shown
        start, stop = self.columns
        return torch.cat([x[..., :start], shown, x[..., stop:]], dim=-1)


def points(model: nn.Module) -> tuple[str, ...]:
    """The names of all points, in the order in which the model holds them: its taps, or its identity modules (a
    `HookPoint` of TransformerLens is one as well)."""
    if taps := _taps(model):
        return tuple(taps)
    return tuple(name for name, module in model.named_modules() if name and _is_point(module))


_Recorded = TypeVar("_Recorded", Tensor, list[Tensor])


class ActivationCache(dict[str, _Recorded]):
    """What `watch` recorded: from the name of a point to the tensor of the latest call, or to the list of all calls.

    Attributes:
        matched: every point that the names stand for, visited or not.
    """

    def __init__(self, matched: Iterable[str]) -> None:
        super().__init__()
        self.matched = tuple(matched)

    @property
    def unvisited(self) -> tuple[str, ...]:
        """The points that were matched and not visited."""
        return tuple(name for name in self.matched if name not in self)

    def __missing__(self, name: str) -> NoReturn:
        why = "was watched and not visited by what ran" if name in self.matched else "was not watched"
        raise ToylabError(f"{name!r} {why}; recorded are {', '.join(self) or 'no points'}")


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
    """Record what passes the named points: yields a dict from name to the tensor of the latest call.

        with watch(model, "blocks.*.attn.pattern") as seen:
            model(tokens)
        seen["blocks.1.attn.pattern"]  # (batch, head, query, key)

    Nothing is copied or detached: no bit of the output changes, and gradients flow through what was recorded. With
    `every_call` each entry is the list of all calls, as `generate` makes them. Points that were matched and not visited
    are in `seen.unvisited`. Only the handles set here are removed.

    Raises:
        ValueError: for a name that matches nothing, with the nearest points; for a compiled model.
        TypeError: where a watched module returns something other than one tensor.
    """
    seen: ActivationCache[Any] = ActivationCache(
        dict.fromkeys(name for pattern in names for name in match_points(model, pattern))
    )

    def record(name: str) -> HookFunction:
        def visit(value: Tensor) -> None:
            if every_call:
                seen.setdefault(name, []).append(value)
            else:
                seen[name] = value

        return visit

    with hooks_at(model, {name: record(name) for name in seen.matched}):
        yield seen


@contextmanager
def edit(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Replace what passes the named points by `function(tensor)`.

        with edit(model, {"blocks.0.mlp_out": torch.zeros_like}):
            model(tokens)

    A name may hold `*`; the function is then applied at every match. Edits nest: an inner one sees what an outer one
    made at the same point. The function is given a copy, into which it may write. Only the handles set here are
    removed, also when the block raises.

    Raises:
        ValueError: for a name that matches nothing, with the nearest points; for two that match one point, since
            their order would be unclear; for a point that can only be watched; for a compiled model; while the model
            runs, for an edit that changes the shape, with both shapes; at the end of a block in which the model ran,
            for a point that it did not visit.
        TypeError: where an edited module, or the edit, returns something other than one tensor.
    """
    visited: set[str] = set()

    def replace(name: str, function: Edit) -> HookFunction:
        def visit(value: Tensor) -> Tensor:
            visited.add(name)
            edited = function(value.clone())  # an edit in place must not reach what was recorded before this point
            _check_tensor(f"edit of {name}", edited)
            if edited.shape != value.shape:
                raise ToylabError(
                    f"the edit at {name!r} changes the shape from {tuple(value.shape)} to {tuple(edited.shape)}; "
                    "an edit must keep it"
                )
            return edited

        return visit

    hooks: dict[str, HookFunction] = {}
    for pattern, function in edits.items():
        for name in match_points(model, pattern):
            if name in hooks:
                raise ToylabError(f"two edits meet at {name!r}; join them into one function, or nest two `edit`s")
            if why := tap_at(model, name).read_only:
                raise ToylabError(f"{name!r} can be watched here and not edited: {why}")
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
            f"edit of {', '.join(missed)}: the model ran and did not visit this point, so nothing was edited there; "
            "watch(...).unvisited lists such points"
        )


def match_points(model: nn.Module, pattern: str) -> list[str]:
    """The points or other modules that a name or pattern stands for."""
    taps = _taps(model)
    if pattern in taps:
        return [pattern]
    if pattern and not taps:
        with suppress(AttributeError):  # there is no such module: a pattern, or a mistake
            model.get_submodule(pattern)
            return [pattern]
    known = points(model) or tuple(name for name, _ in model.named_modules() if name)
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        for name, why in _table(model, "hidden", str).items():
            if fnmatchcase(name, pattern):
                raise ToylabError(f"{name!r} cannot be seen here: {why}")
        near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
        nearest = ", ".join(near)
        raise ToylabError(f"no point is named {pattern!r}; the nearest are {nearest}; toylab.probes.points lists all")
    return found


def tap_at(model: nn.Module, name: str) -> Tap:
    """Where a point of this name lies: in the module of that name, unless the model says otherwise."""
    return _taps(model).get(name) or Tap(name)


HookFunction = Callable[[Tensor], Tensor | None]
"""What is done with a tensor that passes: returns what should pass instead, or None."""


@contextmanager
def hooks_at(model: nn.Module, visits: Mapping[str, HookFunction], inputs: bool = False) -> Iterator[None]:
    """Visit what passes the named points, or with `inputs` what enters these modules, for the length of a block.

    Raises:
        ValueError: for a compiled model, whose graph no hook reaches.
    """
    handles = []
    try:
        for name, visit in visits.items():
            place = Tap(tap_at(model, name).module, "input") if inputs else tap_at(model, name)
            module = _uncompiled(model, place.module)
            if place.part == "input":
                handles.append(module.register_forward_pre_hook(_Hook(_entering(name, place, visit))))
            else:
                handles.append(module.register_forward_hook(_Hook(_leaving(name, place, visit))))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    """A hook that copies of its module do not keep, be they made by `deepcopy` or by pickle."""

    def __init__(self, call: Callable) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __deepcopy__(self, memo: object) -> Callable:
        return _no_hook

    def __reduce__(self) -> tuple:
        return _unpickled, ()


def _no_hook(*_: object) -> None:
    return None


def _unpickled() -> Callable:
    return _no_hook


def has_hooks(*modules: nn.Module) -> bool:
    """Whether anything listens to one of these modules: a watch, an edit, or any other hook of PyTorch."""
    for module in modules:
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            if hooks and any(hook is not _no_hook for hook in hooks.values()):
                return True
    return bool(_has_any_global_hook())  # its own answer may be an empty dictionary


def _uncompiled(model: nn.Module, path: str) -> nn.Module:
    """The module at a path, none of whose parents is compiled."""
    module = model
    for step in ("", *path.split(".")):
        module = getattr(module, step) if step else module
        if module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
            raise ToylabError(
                f"model={type(module).__name__}: is compiled, and its graph passes hooks by; watch or edit the model "
                "that was not compiled"
            )
    return module


def _leaving(name: str, place: Tap, visit: HookFunction) -> Callable:
    if place == Tap(place.module):  # one tensor as it is

        def plain(module: nn.Module, inputs: tuple, output: object) -> Tensor | None:
            return visit(_check_tensor(name, output))

        return plain

    def hook(module: nn.Module, inputs: tuple, output: Any) -> Any:
        if not isinstance(place.part, int):
            return _visited(name, place, visit, output)
        edited = _visited(name, place, visit, output[place.part])
        return None if edited is None else (*output[: place.part], edited, *output[place.part + 1 :])

    return hook


def _entering(name: str, place: Tap, visit: HookFunction) -> Callable:
    def hook(module: nn.Module, inputs: tuple) -> tuple | None:
        edited = _visited(name, place, visit, inputs[0] if inputs else None)
        return None if edited is None else (edited, *inputs[1:])

    return hook


def _visited(name: str, place: Tap, visit: HookFunction, value: object) -> Tensor | None:
    if value is None:
        raise ToylabError(
            f"{name}: there is nothing to see, as a fused attention kernel keeps no pattern; call the model without "
            "one: toylab.model.interop.adopt(model, patterns=True)"
        )
    whole = _check_tensor(name, value)
    edited = visit(place.extract(whole))
    return None if edited is None else place.insert(whole, edited)


def _taps(model: nn.Module) -> Mapping[str, Tap]:
    return _table(model, "taps", Tap)


def _table(model: nn.Module, attribute: str, kind: type) -> Mapping[str, Any]:
    """What a model says of its points; an attribute of that name that holds something else is its own affair."""
    held = getattr(model, attribute, None)
    return held if isinstance(held, Mapping) and all(isinstance(one, kind) for one in held.values()) else {}


def _is_point(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or type(module).__name__ == "HookPoint"


def _check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected one tensor, got {type(value).__name__}; name a module inside it, or see "
            "toylab.model.interop.adopt for models of other libraries"
        )
    return value
