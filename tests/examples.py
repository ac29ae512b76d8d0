"""How many examples hypothesis draws of what takes long."""

from hypothesis import settings


def fewer(share: float) -> settings:
    """A share of the examples that are drawn of other laws, and at least one: `make soak` draws more of these too."""
    return settings(max_examples=max(1, round(share * settings.default.max_examples)))
