"""Activation patching and path patching: which direct readers of the residual stream mediate the effect of an edit?

The residual stream is a sum, so a change of the stream at one hook point reaches every later module that reads the
stream. A *blind* module receives the stream minus the change; indirect effects through other modules remain.
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
    """Activation patching: an edit that inserts activations of another run at the given positions (second axis).

    with watch(model, point) as cache:
        model(clean)
    with edit(model, {point: patch_activation(cache[point], [8])}):
        model(corrupted)
    """

    def replace(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, positions] = kept[:, positions]
        return x

    return replace


class PathPatched(nn.Module):
    """Path patching: a model with an edit at one point of the residual stream that some later modules do not receive.

    Call an instance like the model itself, also in `generate`. Each row runs twice in one batch, with and without the
    edit; the output is the output of the edited rows.

    Args:
        model: any module from a batch of rows to a batch of rows.
        change: the edit, from activation to activation.
        point: name of the edited point, in the residual stream.
        blind: names of later modules that read the stream (in a pre-norm model the norms: `blocks.3.ln1` for
            attention, `blocks.3.ln2` for the MLP, `ln_final` for the unembedding); the edit is subtracted from
            their input. This removes the direct effect only.
        clean: names of points that keep the activation of the unedited run (`blocks.3.attn.q` for the queries). This
            removes direct and indirect effects.
        clean_scale: name of a LayerNorm that divides by the standard deviation of the unedited stream.

    Raises:
        ToylabError: for an unknown name; during the forward pass, for `queries=` together with `blind`, and for a
            reader that runs before the point or not at all.
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
        self.blind = [reader for name in _names(blind) for reader in match_points(model, name)]
        self.clean, self.clean_scale = _names(clean), clean_scale
        for name in (point, *self.clean, *([clean_scale] if clean_scale else [])):
            match_points(model, name)

    def forward(self, tokens: Tensor, **options: object) -> Tensor:
        if self.blind and options.get("queries") is not None:
            raise ToylabError("queries: a blind reader needs the stream at all positions; leave queries= out")
        rows = len(tokens)
        doubled_options = {
            name: torch.cat([value, value]) if isinstance(value, Tensor) and len(value) == rows else value
            for name, value in options.items()
        }
        recorded: dict[str, Tensor] = {}
        visited: set[str] = set()

        def change(x: Tensor) -> Tensor:
            changed = self.change(x[:rows])
            recorded["change"] = changed - x[:rows]
            return torch.cat([changed, x[rows:]])

        def without(name: str) -> Callable[[Tensor], Tensor]:
            def read_without(x: Tensor) -> Tensor:
                if "change" not in recorded:
                    raise ToylabError(f"blind={name!r}: runs before the change at {self.point!r}; name a later reader")
                visited.add(name)
                return self._without(x, recorded["change"], name)

            return read_without

        edits: dict[str, Edit] = {self.point: change}
        for name in self.clean:
            edits[name] = lambda x: torch.cat([x[rows:], x[rows:]])
        with ExitStack() as stack:
            stack.enter_context(edit(self.model, edits))
            stack.enter_context(hooks_at(self.model, {name: without(name) for name in self.blind}, inputs=True))
            if self.clean_scale is not None:
                stack.enter_context(_with_clean_scale(self.model, self.clean_scale, rows, visited))
            out = self.model(torch.cat([tokens, tokens]), **doubled_options)[:rows]
        if missed := [name for name in self.blind if name not in visited]:
            raise ToylabError(f"blind={missed[0]!r}: is never run; name a module that reads the residual stream")
        if self.clean_scale is not None and self.clean_scale not in visited:
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
def _with_clean_scale(model: nn.Module, name: str, rows: int, visited: set[str]) -> Iterator[None]:
    """Make a LayerNorm divide the first `rows` rows by the standard deviation of the remaining (unedited) rows."""
    norm: Any = _submodule(model, name)
    bias = 0 if norm.bias is None else norm.bias
    ratio: list[Tensor] = []

    def deviation(x: Tensor) -> Tensor:
        return (x.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()

    def measure(x: Tensor) -> None:
        ratio[:] = [deviation(x[:rows]) / deviation(x[rows:])]

    def rescale(output: Tensor) -> Tensor:
        visited.add(name)
        return torch.cat([(output[:rows] - bias) * ratio[0] + bias, output[rows:]])

    with hooks_at(model, {name: measure}, inputs=True), hooks_at(model, {name: rescale}):
        yield
