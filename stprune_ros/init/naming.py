"""Camera names and topic templates from the topics of a rig: what varies between the cameras is their name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

CAMERA = '{camera}'


def find_template(topics: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The template with {camera} that most of ``topics`` fit, and the name of each that fits it, by topic.

    The name is one component of the topic, wherever it stands in it. A single topic has no template: its longest
    component that says something would be a guess.
    """
    found = list(topics)
    shapes: Counter[str] = Counter()
    names: dict[str, dict[str, str]] = {}
    for topic in found:
        for name in dict.fromkeys(_components(topic)):
            template = _replaced(topic, name)
            shapes[template] += 1
            names.setdefault(template, {})[topic] = name
    # Of templates that fit as many, the one with the longest fixed part: it says most about the topic.
    fitting = [(count, len(template), template) for template, count in shapes.items() if count > 1]
    if not fitting:
        return '', {}
    template = max(fitting)[2]
    return template, names[template]


def fits(template: str, topics: Mapping[str, str]) -> bool:
    """Whether a template gives the topic of every camera, by camera name."""
    return bool(template) and all(template.replace(CAMERA, name) == topic for name, topic in topics.items())


def template_for(topics: Mapping[str, str]) -> str:
    """The template that gives the topics of all cameras, by camera name; '' where there is none."""
    candidates = {_replaced(topic, name) for name, topic in topics.items()}
    template = candidates.pop() if len(candidates) == 1 else ''
    return template if fits(template, topics) else ''


def _components(topic: str) -> list[str]:
    return [part for part in topic.split('/') if part]


def _replaced(topic: str, name: str) -> str:
    return '/'.join(CAMERA if part == name else part for part in topic.split('/'))
