"""Foxglove and RViz: what they show of our messages, and that what their layouts ask for is in a replay's results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers.answers import make_answer
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, write_bag
from helpers.tiny_models import make_tiny_model
from helpers.viewers import (
    Definition,
    contrast,
    definition,
    definitions,
    field_of,
    foxglove_paths,
    panel_heights,
    rviz_topics,
    short,
)
from mcap.reader import make_reader

from stprune_ros.cli import main
from stprune_ros.core.types import Behavior, CameraState, ConfidenceSource, Status, ViewReport
from stprune_ros.io.bag_reader import Bag, message_store
from stprune_ros.io.drawing import encode_jpeg, ring_picture
from stprune_ros.io.message_definitions import message_definition
from stprune_ros.io.tick_diagnostics import CAMERA_MISSING, CAMERA_REPORTS, tick_statuses
from stprune_ros.replay.results import (
    HINT_TOPIC,
    OVERLAY_TOPIC,
    PROBABILITY,
    STAGE_MS,
    TICK_MS,
    UP_TO_HINT_MS,
    ResultsFile,
    numbers,
)
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings

FOXGLOVE, RVIZ = resource_path('config/foxglove/stprune.json'), resource_path('config/rviz/stprune.rviz')
MESSAGES = sorted(resource_path('msg').glob('*.msg'))
NUMBERS = {'float32', 'float64', 'uint8', 'uint32', 'uint64', 'string'}  # a string is plotted where it is a number
ENUMS = {
    ('PlanningHint', 'status'): {int(status): status.name for status in Status},
    ('PlanningHint', 'behavior'): {int(behavior): f'BEHAVIOR_{behavior.name}' for behavior in Behavior},
    ('PlanningHint', 'confidence_source'): {int(source): f'CONFIDENCE_{source.name}' for source in ConfidenceSource},
    ('SceneDescription', 'status'): {int(status): status.name for status in Status},
    ('CameraStatus', 'state'): {int(state): state.name for state in CameraState},
}
LIVE_ONLY = {'/rosout'}
THEMES = {'light': '#ffffff', 'dark': '#15151a'}  # grounds of plots
WINDOW_HEIGHT, TOOLBAR_HEIGHT = 820, 30  # pixels of a layout in a browser on 1920x1080, and of a panel's head
LANE_HEIGHT, AXIS_HEIGHT = 64, 30  # pixels of state transitions, Lichtblick 1.28.1


def named(found: Definition, name: str) -> dict[tuple[str, str], dict[int, str]]:
    return {(name, field): names for field, names in found.names.items()}


def test_constants_stand_directly_before_their_field():
    found: dict[tuple[str, str], dict[int, str]] = {}
    for file in MESSAGES:
        one = definition(file.read_text(encoding='utf-8'))
        found |= named(one, file.stem)
        shown = {name for names in one.names.values() for name in names.values()}
        assert set(one.constants) == shown, f'{file.name}: constants that name no field'
    assert found == ENUMS


def test_the_rule_is_that_of_viewers():
    assert definition('uint8 A=1\nuint8 a\nuint8 b').names == {'a': {1: 'A'}}
    assert definition('uint8 A=1\nstring s\nuint8 a').names == {}
    assert definition('uint8 A=1\nint8 a').names == {}


@pytest.mark.parametrize('name', ['PlanningHint', 'SceneDescription'])
def test_constants_stay_before_their_field_in_what_is_recorded(name: str):
    store, msgtype = message_store(), f'stprune_ros/msg/{name}'
    known = definitions(msgtype, message_definition(store, msgtype))
    shown = {pair: names for full, one in known.items() for pair, names in named(one, full.rpartition('/')[2]).items()}
    assert shown == {pair: names for pair, names in ENUMS.items() if pair[0] in (name, 'CameraStatus')}
    assert known.keys() == {short(kind) for kind in types_within(msgtype)}


def types_within(msgtype: str) -> set[str]:
    """A type and those of its fields, as rosbags knows them."""
    store, found, todo = message_store(), set(), [msgtype]
    while todo:
        kind = todo.pop()
        found.add(kind)
        text, _ = store.generate_msgdef(kind, ros_version=2)
        todo += [name for name in store.fielddefs if f'MSG: {short(name)}\n' in text and name not in found]
    return found


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results.mcap of a bag whose right camera lacks its first image."""

    def late(item: Item) -> Item | None:
        first = item.stamp_ns == START_NS and item.topic.startswith('/camera/right/image')
        return None if first else item

    folder = tmp_path_factory.mktemp('viewers')
    model = make_tiny_model(folder / 'model', 'ringworld')
    (model / 'stprune.json').write_text(json.dumps({'trained': True}))
    values = {'model.path': str(model), 'history.stride_ms': 100.0, 'inference.max_new_tokens': 3}
    (folder / 'params.yaml').write_text(json.dumps({'/**': {'ros__parameters': values}}))
    bag = write_bag(folder / 'bag', drive(4, late))
    command = ['replay', str(bag), '--output', str(folder / 'out'), '--params', str(folder / 'params.yaml')]
    assert main(command) == 0
    return folder / 'out' / 'results.mcap'


def test_layout_of_foxglove_shows_what_is_in_the_results(results: Path):
    with results.open('rb') as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    schemas = {channel.topic: summary.schemas[channel.schema_id] for channel in summary.channels.values()}
    kinds = {'Image': 'sensor_msgs/msg/CompressedImage', 'DiagnosticSummary': 'diagnostic_msgs/msg/DiagnosticArray'}
    seen, panels = set(), set()
    for shown in foxglove_paths(FOXGLOVE):
        panels.add(shown.panel)
        if shown.topic in LIVE_ONLY:
            continue
        schema = schemas[shown.topic]
        seen.add(shown.topic)
        assert kinds.get(shown.panel, schema.name) == schema.name
        kind, names = field_of(shown, schema.name, definitions(schema.name, schema.data.decode()))
        assert shown.panel != 'Plot' or kind in NUMBERS, shown
        assert shown.panel != 'StateTransitions' or names, f'{shown}: numbers without names'
    assert panels == {'Image', 'StateTransitions', 'Plot', 'RawMessages', 'DiagnosticSummary', 'RosOut'}
    assert set(schemas) - seen == {topic for topic in schemas if '/debug/stage_ms/' in topic or topic.endswith('_ms')}


def panel_configs() -> dict[str, dict[str, Any]]:
    return json.loads(FOXGLOVE.read_text(encoding='utf-8'))['configById']


def test_panels_have_their_title_in_foxglove_and_in_lichtblick():
    titles = [(panel['foxglovePanelTitle'], panel['lichtblickPanelTitle']) for panel in panel_configs().values()]
    assert all(ours and ours == theirs for ours, theirs in titles) and len(set(titles)) == len(titles)


@pytest.mark.parametrize('ground', THEMES.values(), ids=THEMES)
def test_lines_are_seen_on_light_and_dark_ground(ground: str):
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    colours = [
        path['color'] for panel in panel_configs().values() for path in panel.get('paths', ()) if 'color' in path
    ]
    assert len(colours) > 10
    assert [colour for colour in colours if contrast(colour, ground) < 2] == []


def test_lines_of_one_plot_differ():
    for name, panel in panel_configs().items():
        colours = [path['color'] for path in panel['paths']] if name.startswith('Plot') else []
        assert len(set(colours)) == len(colours), name


def test_every_lane_is_seen_without_scrolling():
    layout = json.loads(FOXGLOVE.read_text(encoding='utf-8'))
    [name] = [name for name in layout['configById'] if name.startswith('StateTransitions')]
    needed = LANE_HEIGHT * len(layout['configById'][name]['paths']) + AXIS_HEIGHT + TOOLBAR_HEIGHT
    assert dict(panel_heights(layout['layout']))[name] * WINDOW_HEIGHT >= needed


def test_folded_fields_are_fields_of_the_hint():
    panel = panel_configs()['RawMessages!hint']
    hint = definition(resource_path('msg/PlanningHint.msg').read_text(encoding='utf-8'))
    assert panel['expansion'] and panel['expansion'].keys() <= hint.fields.keys()
    assert not panel['expansion'].keys() & {'status', 'behavior', 'confidence'}


def read(file: Path) -> dict[str, list[Any]]:
    """Messages by topic."""
    found: dict[str, list[Any]] = {}
    with Bag(file) as bag:
        assert bag.notes == []
        for record in bag.messages():
            assert (record.receive_ns - START_NS) % PERIOD_NS == 0
            found.setdefault(record.topic, []).append(record.message())
    return found


def test_results_hold_every_tick_for_viewers(results: Path):
    found = read(results)
    hints = found[HINT_TOPIC]
    assert len(hints) == 4
    for overlay, hint in zip(found[OVERLAY_TOPIC], hints, strict=True):
        assert (overlay.format, overlay.header.stamp, overlay.header.frame_id) == (
            'jpeg',
            hint.header.stamp,
            'base_link',
        )
        assert cv2.imdecode(overlay.data, cv2.IMREAD_COLOR).std() > 10
    by_name = {
        behavior: [one.data for one in found[f'{PROBABILITY}/{behavior.name.lower()}']]
        for behavior in map(Behavior, hints[0].candidates)
    }
    for number, hint in enumerate(hints):
        for behavior, probability in zip(hint.candidates, hint.probabilities):
            assert by_name[Behavior(behavior)][number] == pytest.approx(probability, abs=1e-6)
        for stage, spent in zip(hint.info.stage_names, hint.info.stage_ms):
            assert found[f'{STAGE_MS}/{stage}'][number].data == pytest.approx(spent, rel=1e-5)
        assert 0 < found[UP_TO_HINT_MS][number].data < found[TICK_MS][number].data


def test_diagnostics_of_the_results_say_what_the_hints_say(results: Path):
    found = read(results)
    told = [{one.name: one for one in array.status} for array in found['/diagnostics']]
    assert len(told) == 4
    for statuses, hint in zip(told, found[HINT_TOPIC]):
        assert {one.hardware_id for one in statuses.values()} == {'/stprune_node'}
        for camera in hint.info.cameras:
            one = statuses[f'/stprune_node: camera {camera.name}']
            assert (one.level, one.message) == CAMERA_REPORTS[CameraState(camera.state)]
            values = {pair.key: pair.value for pair in one.values}
            assert values == {'frames': str(camera.frames), 'tokens': f'{camera.tokens_kept}/{camera.tokens_full}'}
        values = {pair.key: pair.value for pair in statuses['/stprune_node: inference'].values}
        assert values['status'] == Status(hint.status).name
        assert values['encode_ms'] == f'{hint.info.stage_ms[hint.info.stage_names.index("encode")]:.1f}'
    right = [statuses['/stprune_node: camera right'] for statuses in told]
    assert [(one.level, one.message) for one in right] == [(1, CAMERA_MISSING), *[(0, 'ok')] * 3]


@pytest.mark.parametrize(
    ('status', 'description', 'trained', 'levels'),
    [
        (Status.OK, Status.OK, True, (0, 0)),
        (Status.DEGRADED, Status.TIMEOUT, True, (0, 0)),
        (Status.OK, Status.INVALID, True, (0, 1)),
        (Status.TIMEOUT, Status.OK, True, (0, 1)),
        (Status.ERROR, Status.ERROR, True, (0, 2)),
        (Status.OK, Status.OK, False, (1, 0)),
    ],
)
def test_no_failure_of_a_tick_looks_healthy(
    status: Status, description: Status, trained: bool, levels: tuple[int, int]
):
    answer = make_answer(status, description_status=description, model_trained=trained)
    model, inference = tick_statuses(answer, ())
    assert (model.level, inference.level) == levels


@pytest.mark.parametrize('state', CameraState)
def test_every_state_of_a_camera_but_ok_is_told(state: CameraState):
    _, camera, _ = tick_statuses(make_answer(), (ViewReport('front', state),))
    assert camera.name == 'camera front'
    assert (camera.level == 0) == (camera.message == 'ok') == (state == CameraState.OK)


def test_a_tick_that_failed_shows_no_old_picture(tmp_path: Path):
    views = tuple(ViewReport(camera, CameraState.UNKNOWN) for camera in ('front', 'left', 'right'))
    with ResultsFile(tmp_path / 'results.mcap', Settings()) as file:
        answer = make_answer(Status.ERROR, stamp_ns=START_NS)
        file.write(answer, [], answer, views, encode_jpeg(ring_picture(replace(answer, views=views), {})))
    found = read(tmp_path / 'results.mcap')
    assert [topic for topic in found if '/debug/' in topic] == [OVERLAY_TOPIC, TICK_MS]
    [overlay] = found[OVERLAY_TOPIC]
    assert cv2.imdecode(overlay.data, cv2.IMREAD_COLOR).mean() < 30
    [array] = found['/diagnostics']
    assert [one.level for one in array.status] == [0, 1, 1, 1, 2]


def test_what_there_is_not_is_no_number():
    assert numbers(make_answer()).keys() == {TICK_MS}
    assert numbers(make_answer(hint_ms=3.5))[UP_TO_HINT_MS] == 3.5


def test_rviz_asks_for_what_the_node_offers():
    qos = pytest.importorskip('stprune_ros.ros.qos')
    displays = list(rviz_topics(RVIZ))
    assert [(kind, topic) for kind, topic, _ in displays] == [('rviz_default_plugins/Image', OVERLAY_TOPIC[1:])]
    for _, _, reliability in displays:
        assert reliability == 'Best Effort' or qos.DEBUG.reliability.name == 'RELIABLE'
