"""What is logged once, and what is counted."""

from __future__ import annotations

import pytest

from stprune_ros.ros.journal import MAX_KNOWN, Episode, Journal


class Log:
    """Lines with their level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, text: str) -> None:
        self.lines.append(('warning', text))

    def error(self, text: str) -> None:
        self.lines.append(('error', text))

    def info(self, text: str) -> None:
        self.lines.append(('info', text))


def test_other_numbers_are_the_same_trouble_and_other_names_are_not():
    log = Log()
    journal = Journal(log)
    said = [
        "camera 'camera0' is silent for 2 s",
        "camera 'camera1' is silent for 3 s",
        'critical camera camera0 has no usable frame',
        'critical camera camera1 has no usable frame',
    ]
    for text in (*said, "camera 'camera0' is silent for 7 s", *said):
        journal.warn_once(text)
    assert [text for _, text in log.lines] == said
    journal.forget()
    journal.warn_once(said[0])
    assert len(log.lines) == len(said) + 1


def test_what_is_known_is_bounded():
    log = Log()
    journal = Journal(log)
    for number in range(3 * MAX_KNOWN):
        journal.warn_once(f"camera 'camera{number}' is silent")
    assert len(log.lines) == 3 * MAX_KNOWN
    assert len(journal._known) <= MAX_KNOWN


def test_an_episode_is_said_at_its_beginning_now_and_then_and_at_its_end():
    log = Log()
    episode = Episode(log)
    episode.over('inference')
    for number in range(35):
        episode.again(f'inference failed with RuntimeError: {number} bytes')
    episode.over('inference')
    episode.over('inference')
    assert log.lines == [
        ('error', 'inference failed with RuntimeError: 0 bytes'),
        ('error', 'inference failed with RuntimeError: 9 bytes (10 times in a row)'),
        ('info', 'inference works again after 35 failures'),
    ]
    episode.again('inference failed with RuntimeError: 1 bytes')
    assert log.lines[-1] == ('error', 'inference failed with RuntimeError: 1 bytes')


@pytest.mark.parametrize('before', [1, 5])
def test_another_kind_of_fault_is_said_at_once(before):
    log = Log()
    episode = Episode(log)
    for _ in range(before):
        episode.again('out of memory')
    episode.again('CUDA error')
    assert log.lines[-1] == ('error', f'CUDA error ({before + 1} times in a row)')
