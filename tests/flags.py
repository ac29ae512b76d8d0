"""Settings as the command line reads them."""

from collections.abc import Sequence
from typing import Any

from toylab.commands.parser import Parser, add_settings, settings_from_words


def parsed(settings_class: type, default: Any, words: Sequence[str]) -> Any:
    """The settings that these words make of the default ones."""
    parser = Parser("toylab")
    add_settings(parser, settings_class, default, words)
    return settings_from_words(settings_class, default, getattr(parser.parse_args(list(words)), "settings", {}))
