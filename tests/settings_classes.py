"""All classes of settings and of results, and what their annotations say."""

import inspect
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from toylab import tasks
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.runs import registry
from toylab.survey import Recipe
from toylab.tasks import ConceptGrammar, PromptsOfKind, Styles
from toylab.training.loop import TrainConfig
from toylab.training.losses import Unlearning

STUDIES = [registry.load_study(name).STUDY for name in registry.study_names()]
SETTINGS = [
    *tasks.TASKS,
    ConceptGrammar,
    PromptsOfKind,
    Styles,
    ModelConfig,
    EncoderDecoderConfig,
    TrainConfig,
    Unlearning,
    Recipe,
    *STUDIES,
]
RESULTS = list(
    dict.fromkeys(job.result_type for study in STUDIES for job in study().jobs() if is_dataclass(job.result_type))
)


def made(kind: type, /, **changes: Any) -> Any:
    """An object of settings made without the run-time type checks of the tests, which would come first."""
    settings = object.__new__(kind)
    inspect.unwrap(kind.__init__)(settings, **changes)
    return settings


def hints(kind: type) -> dict[str, Any]:
    held = get_type_hints(kind)
    return {one.name: held[one.name] for one in fields(kind)}


def words(hint: Any) -> list[Any]:
    """All words that an annotation allows, also inside tuples and unions."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in words(part)]
