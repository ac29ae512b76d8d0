"""The libraries of other models, which are large and may be missing."""

import warnings

import pytest


@pytest.fixture(scope="module")
def lens():
    """TransformerLens, whose import warns of this and that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformer_lens", reason="needs the extra [interop]")


@pytest.fixture(scope="module")
def hugging():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="needs the extra [interop]")


@pytest.fixture
def _quiet():
    """Their warnings of what will change are not ours to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
