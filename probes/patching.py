"""Activation patching and path patching: through which of its readers does a change of the residual stream act?

The stream is a sum, so a change made at one point arrives at every later reader as itself. A reader that is *blind* to
it reads the stream without it; all that others make of the change goes on as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.probes.hooks import Edit, edit, hooks_at, match_points, tap_at


def patch_activation(kept: Tensor, positions: slice | Sequence[int] = slice(None)) -> Edit:
    """Activation patching: at these positions (the second axis), what was recorded in another run.

    with watch(model, point) as seen:
        model(clean)
    with edit(model, {point: put_back(seen[point], [8])}):
        model(corrupted)
    """

    def replace(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, positions] = kept[:, positions]
        return x

    return replace


class PathPatched(nn.Module):
    """A model with a change at one point that chosen readers do not see; called like the model itself, `generate`
    included.

    Every row is run twice in one batch, with the change and without it; the output is that of the rows with it.

    Args:
        model: any module from a batch of rows to a batch of rows.
        change: from what passes the point to what should pass instead.
        point: the name of the module whose output is changed, a place in the residual stream.
        blind: names of modules behind the point that read the stream (in a pre-norm model the norms: `blocks.3.ln1` for
            the attention, `blocks.3.ln2` for the MLP, `ln_final` for the unembedding): their input lacks the change.
        clean: names of points that pass on what they would without the change (`blocks.3.attn.q` for the queries):
            whatever reaches them, directly or through others, is undone.
        clean_scale: the name of a LayerNorm that divides by the standard deviation of the stream without the change.

    Raises:
        ValueError: for a name that the model does not have; while the model runs, for `queries=` together with `blind`,
            and for a reader that does not run behind the point.
    """

    def __init__(
        self,
        model: nn.Module,
        change: Edit,
        point: str,
        *,
        blind: Iterable[str] = (),
        clean: Iterable[str] = (),
        clean_scale: str | None = None,
    ) -> None:
        super().__init__()
        self.model, self.change, self.point = model, change, point
        self.blind = [found for name in _names(blind) for found in match_points(model, name)]
        self.clean, self.clean_scale = _names(clean), clean_scale
        for name in (point, *self.clean, *([clean_scale] if clean_scale else [])):
            match_points(model, name)

    def forward(self, tokens: Tensor, **options: object) -> Tensor:
        if self.blind and options.get("queries") is not None:
            raise ToylabError("queries: a blind reader needs the stream at all positions; call the model without it")
        rows = len(tokens)
        twice = {
            name: torch.cat([value, value]) if isinstance(value, Tensor) and len(value) == rows else value
            for name, value in options.items()
        }
        made: dict[str, Tensor] = {}
        read: set[str] = set()

        def change(x: Tensor) -> Tensor:
            changed = self.change(x[:rows])
            made["change"] = changed - x[:rows]
            return torch.cat([changed, x[rows:]])

        def without(name: str) -> Callable[[Tensor], Tensor]:
            def read_without(x: Tensor) -> Tensor:
                if "change" not in made:
                    raise ToylabError(f"blind={name!r}: runs before the change at {self.point!r}; name a later reader")
                read.add(name)
                return self._without(x, made["change"], name)

            return read_without

        edits: dict[str, Edit] = {self.point: change}
        for name in self.clean:
            edits[name] = lambda x: torch.cat([x[rows:], x[rows:]])
        with ExitStack() as stack:
            stack.enter_context(edit(self.model, edits))
            stack.enter_context(hooks_at(self.model, {name: without(name) for name in self.blind}, inputs=True))
            if self.clean_scale is not None:
                stack.enter_context(_scaled(self.model, self.clean_scale, rows, read))
            out = self.model(torch.cat([tokens, tokens]), **twice)[:rows]
        if missed := [name for name in self.blind if name not in read]:
            raise ToylabError(f"blind={missed[0]!r}: is never run; name a module that reads the residual stream")
        if self.clean_scale is not None and self.clean_scale not in read:
            raise ToylabError(f"clean_scale={self.clean_scale!r}: is never run; name a LayerNorm that the model uses")
        return out

    def _without(self, x: Tensor, change: Tensor, name: str) -> Tensor:
        rows = len(change)
        if x[:rows].shape != change.shape:
            raise ToylabError(
                f"blind={name!r}: reads {tuple(x[:rows].shape)} where the change at {self.point!r} is "
                f"{tuple(change.shape)}; name a module that reads the residual stream"
            )
        return torch.cat([x[:rows] - change, x[rows:]])


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _submodule(model: nn.Module, name: str) -> Any:
    return model.get_submodule(tap_at(model, name).module)


@contextmanager
def _scaled(model: nn.Module, name: str, rows: int, read: set[str]) -> Iterator[None]:
    """Let a LayerNorm divide the first rows by the standard deviation of the others."""
    norm: Any = _submodule(model, name)
    bias = 0 if norm.bias is None else norm.bias
    ratio: list[Tensor] = []

    def deviation(x: Tensor) -> Tensor:
        return (x.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()

    def measure(x: Tensor) -> None:
        ratio[:] = [deviation(x[:rows]) / deviation(x[rows:])]

    def rescale(output: Tensor) -> Tensor:
        read.add(name)
        return torch.cat([(output[:rows] - bias) * ratio[0] + bias, output[rows:]])

    with hooks_at(model, {name: measure}, inputs=True), hooks_at(model, {name: rescale}):
        yield
