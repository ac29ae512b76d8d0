"""Look into any `torch.nn.Module`, or change what it computes, for the length of a `with` block.

A *point* is a submodule through which one tensor passes; toylab's models have an `nn.Identity` at each interesting
place, and any other submodule that returns one tensor will do. A name is the module's path, as PyTorch gives it, or
a pattern with `*` over the points: `blocks.*.attn.pattern`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


def points(model: nn.Module) -> tuple[str, ...]:
    """The names of all identity modules, in the order in which the model holds them."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Identity) and name)


@contextmanager
def watch(model: nn.Module, *names: str, every_call: bool = False) -> Iterator[dict[str, Tensor | list[Tensor]]]:
    """Record what passes the named points: yields a dict from name to the tensor of the latest call.

        with watch(model, "blocks.*.attn.pattern") as seen:
            model(tokens)
        seen["blocks.1.attn.pattern"]  # (batch, head, query, key)

    Nothing is copied or detached: no bit of the output changes, and gradients flow through what was recorded. With
    `every_call` each entry is the list of all calls, as `generate` makes them. Only the handles set here are removed.

    Raises:
        ValueError: for a name that matches nothing, with the nearest points.
        TypeError: where a watched module returns something other than one tensor.
    """
    seen: dict[str, Tensor | list[Tensor]] = {}

    def record(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            _check_tensor(name, output)
            if every_call:
                seen.setdefault(name, []).append(output)
            else:
                seen[name] = output

        return hook

    with _hooked(model, {name: record(name) for pattern in names for name in resolve(model, pattern)}):
        yield seen


@contextmanager
def edit(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Replace what passes the named points by `function(tensor)`.

        with edit(model, {"blocks.0.mlp_out": torch.zeros_like}):
            model(tokens)

    A name may hold `*`; the function is then applied at every match. Edits nest: an inner one sees what an outer one
    made at the same point. Only the handles set here are removed, also when the block raises.

    Raises:
        ValueError: for a name that matches nothing, with the nearest points; for two that match one point, since
            their order would be unclear; while the model runs, for an edit that
            changes the shape, with both shapes.
        TypeError: where an edited module, or the edit, returns something other than one tensor.
    """

    def replace(name: str, function: Edit) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> Tensor:
            _check_tensor(name, output)
            edited = function(output)
            _check_tensor(f"edit of {name}", edited)
            if edited.shape != output.shape:
                raise ValueError(
                    f"the edit at {name!r} changes the shape from {tuple(output.shape)} to {tuple(edited.shape)}; "
                    "an edit must keep it"
                )
            return edited

        return hook

    hooks = {}
    for pattern, function in edits.items():
        for name in resolve(model, pattern):
            if name in hooks:
                raise ValueError(f"two edits meet at {name!r}; join them into one function, or nest two `edit`s")
            hooks[name] = replace(name, function)
    with _hooked(model, hooks):
        yield


def resolve(model: nn.Module, pattern: str) -> list[str]:
    """The module names that a name or pattern stands for."""
    if pattern:
        with suppress(AttributeError):  # there is no such module: a pattern, or a mistake
            model.get_submodule(pattern)
            return [pattern]
    known = points(model) or tuple(name for name, _ in model.named_modules() if name)
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
        raise ValueError(f"no point is named {pattern!r}; the nearest are {', '.join(near)}; probes.points lists all")
    return found


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Callable]) -> Iterator[None]:
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected one tensor, got {type(value).__name__}")
