"""Damaged files, as disks and interruptions leave them."""

from hypothesis import Phase
from hypothesis import strategies as st

NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""There is no simplest bit to look for."""


class Content(bytes):
    """Of a file; pytest need not print all of it."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def cut_short(intact: Content, data: st.DataObject) -> Content:
    """Without its end, of any size."""
    return Content(intact[: data.draw(st.integers(0, len(intact) - 1))])


def with_a_bit_flipped(intact: Content, part: str, data: st.DataObject) -> Content:
    """A file of safetensors with one bit flipped in its header or in its weights."""
    header = 8 + int.from_bytes(intact[:8], "little")
    at = data.draw(st.integers(0, header - 1) if part == "header" else st.integers(header, len(intact) - 1))
    changed = bytearray(intact)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    return Content(changed)
