"""What the log says of faults: when they begin, now and then, and when they are over; and that it stays short."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.errors import kind_of
from stprune_ros.ros import journal as bounds
from stprune_ros.ros.journal import EVENTS_LINGER_S, LINGER_S, MAX_ALIKE, MAX_KNOWN, MAX_LINES, Episode, Journal

CAMERAS = ('front', 'front_left', 'left', '0', '1')
FORGED = '\n[ERROR] [1.0] [brake.node]: brakes failed\x1b[31m\u202e\u2066\x9b\x00\r\u2028'


class Log:
    """Lines with their level, and the time that the journal sees."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.time = 100.0

    def warning(self, text: str) -> None:
        self.lines.append(('warning', text))

    def error(self, text: str) -> None:
        self.lines.append(('error', text))

    def info(self, text: str) -> None:
        self.lines.append(('info', text))

    def texts(self, level: str) -> list[str]:
        return [text for found, text in self.lines if found == level]


def made() -> tuple[Journal, Log]:
    log = Log()
    return Journal(log, lambda: log.time), log


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        ("camera 'camera0' is silent for 2 s", "camera 'camera0' is silent for 17 s"),
        ('odometry is 420 ms behind the images', 'odometry is 1.1 s behind the images'),
        ('image of 64x48 pixels, 1.5e-3 of 7', 'image of 30001x30001 pixels, 2.5 of 99'),
        (
            "images of '0' come 5 ms later than the anchor's, '1', at 3",
            "images of '0' come 9 ms later than the anchor's, '1', at 4",
        ),
    ],
)
def test_other_numbers_are_the_same_trouble(one, other):
    assert kind_of(one) == kind_of(other)


@pytest.mark.parametrize(
    'sentence',
    [
        "camera '{}' is silent for 2 s",
        "critical camera '{}' has no usable frame",
        "the cameras 'front', '{}' have the same position",
        "nobody publishes '/camera{}/image' as sensor_msgs/msg/Image",
        'of that type there are /camera{}/image: set topics.image',
        'set qos_overrides./camera{}/image.subscription.reliability to best_effort',
        "images come later than the anchor's, camera '{}', 100 ms late",
        'camera camera{} without quotes',
        "odometry gives its twist in 'base{}', which no transform joins",
    ],
)
@given(st.integers(0, 99), st.integers(0, 99))
def test_digits_in_names_are_no_numbers(sentence, one, other):
    assert (kind_of(sentence.format(one)) == kind_of(sentence.format(other))) is (one == other)


def test_what_happens_is_said_the_first_tenth_and_hundredth_time_and_counted_at_the_end():
    journal, log = made()
    for number in range(137):
        journal.warn(f'gap of {number} s')
        log.time += 1.0
        journal.look()
    assert log.lines == [
        ('warning', 'gap of 0 s'),
        ('warning', 'gap of 9 s (10 times)'),
        ('warning', 'gap of 99 s (100 times)'),
    ]
    log.time += EVENTS_LINGER_S - 1
    journal.look()
    assert len(log.lines) == 3
    log.time += 1
    journal.look()
    journal.look()
    assert log.lines[3:] == [('info', 'over after 137 times in 136 s: gap of 0 s')]
    journal.warn('gap of 5 s')
    assert log.lines[4:] == [('warning', 'gap of 5 s')]


def test_what_happened_once_has_no_end():
    journal, log = made()
    journal.warn('gap of 1 s')
    log.time += 2 * EVENTS_LINGER_S
    journal.look()
    assert log.lines == [('warning', 'gap of 1 s')]


def test_a_camera_that_dies_twice_is_said_twice_and_so_is_each_recovery():
    journal, log = made()
    for _ in range(2):
        for age in range(12):
            journal.holds('inputs', [f"camera 'camera0' is silent for {age + 2} s"])
            log.time += 1.0
        for _ in range(10):
            journal.holds('inputs', [])
            log.time += 1.0
    said, over = "camera 'camera0' is silent for 2 s", "over after 11 s: camera 'camera0' is silent for 2 s"
    assert log.lines == [('warning', said), ('info', over)] * 2


def test_what_comes_and_goes_quickly_is_one_episode():
    journal, log = made()
    for step in range(100):
        journal.holds('tick', ["camera 'left' has no frame in this set"] if step % 3 == 0 else [])
        log.time += LINGER_S / 3
    assert len(log.texts('warning')) == 2 and log.texts('warning')[1].endswith(' (for 60 s now)')
    assert log.texts('info') == []


def test_a_slow_source_ends_nothing_between_its_reports():
    journal, log = made()
    for _ in range(5):
        journal.holds('tick', ['degraded'])
        log.time += 10 * LINGER_S
        journal.holds('inputs', [])
        journal.look()
    assert log.texts('info') == []
    journal.holds('tick', [])
    assert log.texts('info') == ['over after 120 s: degraded']


def test_what_lasts_is_said_again_ever_more_seldom():
    journal, log = made()
    for _ in range(30_000):
        journal.holds('tick', ['random weights'])
        log.time += 1.0
    again = [f'random weights (for {seconds} s now)' for seconds in (60, 600, 6000, 12000, 18000, 24000)]
    assert log.texts('warning') == ['random weights', *again]


def test_what_happened_and_then_lasts_is_said_once():
    journal, log = made()
    journal.warn('odometry contradicts itself, 5 m/s')
    journal.holds('inputs', ['odometry contradicts itself, 6 m/s'])
    for _ in range(20):
        journal.warn('odometry contradicts itself, 7 m/s')
    journal.holds('inputs', ['odometry contradicts itself, 6 m/s', 'odometry contradicts itself, 9 m/s'])
    assert log.lines == [('warning', 'odometry contradicts itself, 5 m/s')]


def test_what_cameras_have_in_common_is_one_line_and_each_recovers_for_itself():
    journal, log = made()
    journal.cameras = CAMERAS
    silent = [f"camera '{camera}' has sent no image yet" for camera in CAMERAS]
    nobody = [f"nobody publishes '/car/{camera}/image' as sensor_msgs/msg/Image, nor any other" for camera in CAMERAS]
    journal.holds('inputs', [*silent, *nobody, 'no odometry'])
    others = "(the same of 'front_left', 'left', '0', '1')"
    assert log.texts('warning') == [f'{silent[0]} {others}', f'{nobody[0]} {others}', 'no odometry']
    log.time += LINGER_S + 1
    journal.holds('inputs', [*silent[2:], *nobody, 'no odometry'])
    assert log.texts('info') == [f"over after 0 s: {silent[0]} (the same of 'front_left')"]
    journal.holds('inputs', [silent[1]])
    assert log.texts('warning')[3:] == [silent[1]]


def test_sentences_about_different_things_are_never_put_together():
    journal, log = made()
    journal.cameras = CAMERAS
    said = ["camera 'left' is late", "camera 'front' is left out", "camera '0' is silent for 10 s", 'no odometry']
    journal.holds('inputs', said)
    assert log.texts('warning') == said


def test_after_forgetting_what_holds_is_said_again():
    journal, log = made()
    for _ in range(2):
        journal.holds('inputs', ['a'])
        journal.warn('b')
        journal.forget()
    assert log.texts('warning') == ['a', 'b', 'a', 'b']


@given(st.lists(st.sampled_from(['happens', 'holds', 'error', 'info', 'wait']), max_size=60), st.integers(1, 400))
@settings(deadline=None)
def test_lines_and_memory_are_bounded_whatever_names_come(steps, burst):
    journal, log = made()
    name = 0
    for step in steps:
        before = len(log.lines)
        for _ in range(burst):
            name += 1
            if step == 'happens':
                journal.warn(f"camera 'camera{name}' is silent")
            elif step == 'holds':
                journal.holds('inputs', [f"frame 'f{name}'"])
            elif step != 'wait':
                getattr(journal, step)(f"frame 'f{name}'")
        if step == 'wait':
            log.time += 7.0
            journal.look()
        assert len(journal._faults) <= MAX_KNOWN
        assert len(log.lines) - before <= 3 * MAX_LINES + 1
    minutes = 1 + (log.time - 100.0) // bounds.MINUTE_S
    assert len(log.lines) <= minutes * (3 * MAX_LINES + 1)


def test_what_was_left_out_is_counted():
    journal, log = made()
    for number in range(MAX_LINES + 37):
        journal.warn(f'{"x" * number} goes on')
    assert len(log.lines) == MAX_LINES
    journal.error('inference failed')  # has lines of its own
    assert log.lines[-1] == ('error', 'inference failed')
    log.time += bounds.MINUTE_S
    journal.look()
    assert log.lines[-1] == ('warning', '37 further sentences were left out of the log')
    journal.warn("frame 'late'")
    assert log.lines[-1] == ('warning', "frame 'late'")


def test_ever_new_names_leave_room_for_other_faults():
    journal, log = made()
    for number in range(500):
        journal.warn(f"odometry gives its twist in 'frame{number}', {number} times")
    journal.warn("camera 'left' is silent for 2 s")
    assert len(log.lines) == MAX_ALIKE + 1
    assert log.lines[-1] == ('warning', "camera 'left' is silent for 2 s")


def test_more_faults_than_are_remembered_are_left_out_and_said_once_others_are_over():
    journal, log = made()
    for number in range(MAX_KNOWN + 5):
        journal.warn(f"frame 'f{number}'")
    log.time += EVENTS_LINGER_S + 1
    journal.look()
    assert log.lines[-1] == ('warning', f'{MAX_KNOWN + 5 - MAX_ALIKE} further sentences were left out of the log')
    journal.warn(f"frame 'f{MAX_KNOWN + 5}'")
    assert log.lines[-1] == ('warning', f"frame 'f{MAX_KNOWN + 5}'")


@pytest.mark.parametrize('method', ['warn', 'error', 'info'])
def test_no_line_is_forged_and_none_is_endless(method):
    journal, log = made()
    getattr(journal, method)(f'frame {FORGED}')
    getattr(journal, method)('x' * 10**6)
    journal.holds('tick', [f'note {FORGED}'])
    assert all(text.isprintable() and len(text) <= bounds.MAX_SENTENCE for _, text in log.lines)
    assert all(len(kind) <= bounds.MAX_SENTENCE for kind in journal._faults)
    assert log.lines[0][1].startswith('frame ?[ERROR] [1.0] [brake.node]: brakes failed?[31m????')


def test_an_episode_is_said_at_its_beginning_now_and_then_and_at_its_end():
    journal, log = made()
    episode = Episode(journal)
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
    journal, log = made()
    episode = Episode(journal)
    for _ in range(before):
        episode.again('out of memory')
    episode.again('CUDA error')
    assert log.lines[-1] == ('error', f'CUDA error ({before + 1} times in a row)')
