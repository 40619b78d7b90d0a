"""What goes wrong in a way that a user can mend, and how it is put into one sentence."""

from __future__ import annotations

MAX_REASON = 200  # characters of a foreign error's text


class StpruneError(Exception):
    """Bad input or a wrong setting: the text is one sentence naming the thing and the remedy."""


class SettingsError(StpruneError):
    """A parameter, or a file that holds parameters, is wrong."""


class BagError(StpruneError):
    """A recording is missing, damaged, or lacks what is asked of it."""


class ModelError(StpruneError):
    """A model folder, a prompt file or a calibration file is missing, broken, unsupported or for another model."""


def one_line(error: BaseException) -> str:
    """An error's text in one line of at most 200 characters without a full stop; its type where it has no text."""
    text = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
    return text if len(text) <= MAX_REASON else f'{text[: MAX_REASON - 3]}...'
