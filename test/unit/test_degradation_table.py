"""Every row of docs/degradation.md has its tests: a new row without one fails here, as does a test that is gone."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / 'docs' / 'degradation.md'
FAULTS = 'integration/test_degradation.py'
# What the node is put through, but no row: it must go on as if nothing was.
NO_FAULTS = {'parameters change', *(f'{rate} sets per second' for rate in (30, 10, 5))}


def faults(*names: str) -> tuple[str, ...]:
    """Cases of the test that brings every fault upon one node, by the name of the fault."""
    return tuple(f'{FAULTS}::test_a_fault_is_said_and_passes[{name}]' for name in names)


UNTOLD = (
    'integration/test_inputs.py::test_a_second_publisher_is_named_where_its_messages_could_not_be_told',
    'unit/test_diagnostics_inputs.py::test_publishers_that_nothing_tells_apart_are_a_warning_of_their_topic',
)

# By the beginning of a row's first cell. Where nothing of integration/ stands, no process of its own is needed: the
# sentence and the state come from the part that node and replay share.
TESTS: Mapping[str, Sequence[str]] = {
    # Cameras
    'side camera has no frame within': (
        *faults('left comes late', 'right comes late'),
        'integration/test_inputs.py::test_wrong_stamps_are_named_as_long_as_they_last',
    ),
    'side camera of which few images arrive': (
        'integration/test_honest_diagnostics.py::test_a_tenth_of_a_camera_is_a_warning',
        'integration/test_honest_diagnostics.py::test_images_that_dds_loses_are_counted',
    ),
    'images arrive, but no frame set holds any': (
        'integration/test_honest_diagnostics.py::test_zero_stamps_of_the_anchor_leave_nothing_well',
    ),
    'side camera silent longer than': faults('left dies', 'right dies'),
    'side camera whose turn it is not': (
        'unit/test_encoding_less.py::test_a_view_whose_turn_it_is_not_costs_nothing_and_keeps_its_stamp',
        'unit/test_encoding_less.py::test_a_silent_camera_is_missing_whatever_it_showed_before',
        'unit/test_diagnostics_inputs.py::test_the_age_of_a_view_is_that_of_what_the_last_answer_shows',
    ),
    'image that cannot be used at the turn of': ('unit/test_encoding_less.py::test_a_broken_frame_is_not_held',),
    'camera never sent an image': (
        'integration/test_inputs.py::test_topics_that_nobody_publishes_are_named_with_those_that_are',
    ),
    'critical camera (default: the anchor) without': (
        *faults('front is truncated', 'front is empty', 'front is no image'),
        'integration/test_node.py::test_broken_critical_camera_means_no_hint',
    ),
    'anchor camera silent for': (
        'integration/test_hostile_publisher.py::test_a_dead_anchor_that_is_not_critical_is_replaced',
        'integration/test_hostile_publisher.py::test_five_cameras_are_not_called_missing_because_the_anchor_lags',
    ),
    'critical anchor late by up to 1 s': (
        *faults('front comes late'),
        'integration/test_hostile_publisher.py::test_five_cameras_are_not_called_missing_because_the_anchor_lags',
    ),
    'critical anchor more than 1 s behind': faults('front is an hour behind'),
    'critical anchor silent': faults('front dies', 'all cameras die'),
    'image that cannot be used': (
        *faults('left is truncated', 'left is empty', 'left is no image'),
        *faults('right is truncated', 'right is empty', 'right is no image'),
        'integration/test_hostile_publisher.py::test_an_image_that_cannot_be_used_costs_one_view',
        'integration/test_node_input.py::test_broken_raw_images_cost_one_view_each',
    ),
    'images without a stamp': (
        *faults('left has no stamps', 'right has no stamps', 'front has no stamps'),
        'integration/test_hostile_publisher.py::test_impossible_stamps_are_refused',
    ),
    'images that repeat their stamp': faults(
        'left repeats a stamp', 'right repeats a stamp', 'left comes in wrong order', 'right comes in wrong order'
    ),
    'several publishers take turns on the images': faults(
        'left has two publishers', 'right has two publishers', 'front has two publishers'
    ),
    'several publish the images': UNTOLD,
    'camera in few sets': (
        *faults('left sends every third image', 'right sends every third image', 'left comes late'),
        'integration/test_inputs.py::test_wrong_stamps_are_named_as_long_as_they_last',
    ),
    'nobody publishes an input': (
        'integration/test_inputs.py::test_topics_that_nobody_publishes_are_named_with_those_that_are',
        'integration/test_inputs.py::test_images_of_another_type_name_the_transport',
    ),
    'fewer views than': faults('both sides die', 'front is an hour ahead'),
    'camera_info for another aspect ratio': faults('left has another shape'),
    'camera_info changed while running': (
        *faults('left has another camera_info'),
        'integration/test_node_calibration.py::test_calibration_changes_under_a_running_node',
    ),
    'camera of a rig file that looks up or down': (
        'unit/test_rig_file.py::test_a_camera_that_looks_down_in_a_rig_file',
        'unit/test_rig.py::test_a_camera_that_the_user_named_is_refused_instead',
    ),
    "lens whose calibration does not reach the image's edge": (
        'unit/test_rig.py::test_columns_beyond_the_fold_share_nothing_and_that_is_said',
    ),
    'frozen camera': (
        *faults('left freezes', 'right freezes', 'front freezes', 'all cameras freeze'),
        'integration/test_hostile_publisher.py::test_a_frozen_side_camera_degrades_and_is_named',
        'integration/test_hostile_publisher.py::test_a_frozen_critical_camera_and_a_frozen_ring_give_no_hint',
    ),
    'stamps that hardly move': (
        'integration/test_hostile_publisher.py::'
        'test_frames_with_forged_and_endless_names_neither_forge_a_line_nor_end_the_node',
        'unit/test_bounds.py::test_frames_of_stamps_that_hardly_move_are_bounded_by_count',
        'unit/test_bounds.py::test_transforms_are_bounded_and_it_is_said',
    ),
    # Calibration and time
    'camera_info or static transform missing': (
        'integration/test_node.py::test_missing_camera_info_means_heartbeats_and_signals_end_it_cleanly',
        'integration/test_node_calibration.py::test_a_node_that_waits_says_for_what',
    ),
    'camera_info of a camera not usable': (
        'integration/test_hostile_publisher.py::test_a_camera_without_usable_calibration_is_invalid_until_it_has_one',
        'integration/test_hostile_publisher.py::'
        'test_a_camera_whose_calibration_does_not_come_is_waited_for_and_then_left_out',
    ),
    'the same in a bag that is replayed': (
        'unit/test_bag_calibration.py::test_a_camera_without_usable_calibration_stands_beside_the_ring',
        'unit/test_replay_faults.py::test_a_camera_without_usable_calibration_costs_its_view_only',
    ),
    'no camera has a usable calibration': (
        'integration/test_node_calibration.py::test_a_node_that_waits_says_for_what',
    ),
    'static transforms changed while running': (
        *faults('left is mounted anew'),
        'integration/test_node_calibration.py::test_calibration_changes_under_a_running_node',
    ),
    'static transforms changed to what cannot be used': (
        'integration/test_node_calibration.py::test_calibration_changes_under_a_running_node',
    ),
    'stamps step back (looped bag': (
        *faults('time jumps back'),
        'integration/test_node.py::test_source_that_starts_anew_is_followed',
        'integration/test_recorded.py::test_a_bag_that_loops_is_followed_under_its_clock',
    ),
    'pause longer than': (
        *faults('a set every three seconds', 'left has another size', 'right has another size'),
        'integration/test_node.py::test_camera_that_changes_its_size_is_followed',
    ),
    'the clock of the anchor camera is ahead': (
        *faults('all cameras are an hour ahead'),
        'integration/test_output_order.py::test_images_of_the_future_give_no_hint',
    ),
    '`use_sim_time` without': (
        *faults('time stands still'),
        'integration/test_output_order.py::test_without_a_clock_that_runs_there_is_no_hint',
        'integration/test_output_order.py::test_a_clock_that_stops_ends_the_hints_until_it_runs_again',
    ),
    "one camera's clock ahead of or behind": faults(
        'left is an hour ahead', 'left is an hour behind', 'right is an hour ahead', 'right is an hour behind'
    ),
    # Odometry
    'none, or farther than': faults('odometry stops'),
    'its stamps are those of another time': faults('odometry is an hour behind'),
    'several publishers take turns': faults('odometry has two publishers'),
    'several publish it': UNTOLD,
    'NaN twist, no stamp': (
        *faults('odometry is NaN', 'odometry has no stamps'),
        'integration/test_node.py::test_nan_odometry_is_refused_and_said_once',
    ),
    'its twist is in a frame of the world': faults('odometry is in another frame'),
    'its twist is zero before a second pose': (
        'unit/test_odometry_doubts.py::test_an_empty_twist_does_not_stand_before_there_is_a_second_pose',
    ),
    'pose and twist tell different motions': faults('odometry contradicts itself'),
    'more than 100 m/s': faults('odometry is too fast'),
    'one sample far from those before it': faults('odometry leaps', 'the position jumps'),
    'neither twist nor motion of the pose is given': (
        'unit/test_odometry_check.py::test_neither_twist_nor_pose_is_nothing',
    ),
    'twist zero while the pose moves': (
        'unit/test_odometry_check.py::test_motion_comes_from_the_pose_where_the_twist_is_empty',
        'unit/test_odometry_check.py::test_a_covariance_that_says_not_provided_outweighs_the_numbers',
    ),
    'another child frame that a static transform joins': (
        'unit/test_stream.py::test_odometry_of_another_frame_is_turned',
    ),
    'no position, no orientation': (
        'integration/test_recorded.py::test_awkward_odometry_is_said_once_and_poisons_nothing',
    ),
    # Inference
    'slower than the cameras': faults('encode: slow', 'prefill: slow', 'score: slow', 'generate: slow'),
    '`inference.deadline_ms` passed before the hint': faults('hints miss their deadline'),
    '`inference.deadline_ms` passed while writing': faults('descriptions miss their deadline'),
    'a frame set is not described': (
        'unit/test_describer.py::test_descriptions_come_once_a_period_of_stamps',
        'integration/test_paced_descriptions.py::test_hints_come_with_every_set_and_descriptions_once_a_period',
    ),
    'a text is in progress when': (
        'unit/test_describer.py::test_what_ends_a_text_is_counted_and_nothing_of_it_goes_out',
        'integration/test_paced_descriptions.py::test_deactivation_ends_a_text_in_progress',
        'integration/test_paced_descriptions.py::test_a_jump_of_the_stamps_ends_a_text_in_progress',
    ),
    'a text finds no room': (
        'contract/test_llama_cpp_engine.py::test_a_text_in_the_cache_of_llama_cpp_yields_to_the_next_prompt',
    ),
    'hints come, but no description': (
        'unit/test_diagnostics_answers.py::test_hints_without_a_description_are_not_well_for_longer_than_their_pace',
    ),
    'a question is out of bounds': (
        'integration/test_ask.py::test_what_is_refused_ends_at_once_in_a_sentence',
        'integration/test_ask.py::test_one_question_at_a_time_and_cancel',
        'unit/test_asker.py::test_a_camera_without_a_frame_cannot_be_asked_about',
    ),
    'the deadline of a question': (
        'integration/test_ask.py::test_the_deadline_leaves_the_words_that_are_there',
        'integration/test_ask.py::test_without_images_the_deadline_says_what_was_waited_for',
    ),
    'a question is in progress when': (
        'integration/test_ask.py::test_deactivation_and_a_jump_of_the_clock_end_a_question',
        'integration/test_ask.py::test_a_question_ends_with_the_node',
    ),
    'a question is being answered when': (
        'unit/test_asker.py::test_descriptions_wait_for_a_question_and_come_afterwards',
    ),
    'the answer to a question expired': ('integration/test_ask.py::test_an_answer_that_has_expired_says_so',),
    'answering a question raises': (
        'integration/test_ask.py::test_a_failure_is_said_to_whoever_asked_and_hints_go_on',
        'unit/test_asker_ends.py::test_what_fails_is_said_and_the_hint_stays',
    ),
    'answer older than': faults('answers come late'),
    'latency target missed': (
        'integration/test_honest_diagnostics.py::test_hints_that_all_expire_and_a_target_that_is_missed_are_not_well',
    ),
    'few of the frame sets that are begun': (
        'unit/test_diagnostics_answers.py::test_few_answered_sets_are_a_warning_even_if_the_last_one_was',
    ),
    'nothing was answered for two heartbeats': (
        'integration/test_honest_diagnostics.py::test_a_node_without_any_camera_says_so_in_few_lines_and_is_not_well',
        'unit/test_diagnostics_answers.py::test_answers_that_stopped_are_a_warning_however_good_the_last_one_was',
        'unit/test_diagnostics_answers.py::test_the_first_answer_may_take_longer',
    ),
    'latency target out of reach': faults('hints miss their target'),
    'scores NaN or infinite': faults('score: nan'),
    'nothing printable was written': faults('generate: mute'),
    '`prompt.calibration` is for another model': (
        'integration/test_node_hint_calibration.py::test_a_node_with_the_calibration_of_another_ratio_does_not_start',
        'integration/test_node_hint_calibration.py::test_hints_are_calibrated_as_long_as_the_node_runs',
    ),
    'random weights': ('integration/test_node.py::test_untrained_model_never_hints',),
    'model that knows one world only': ('unit/test_pipeline.py::test_a_model_of_one_world_says_so',),
    'inference raises': (
        *faults('encode: raise', 'encode: oom', 'encode: memory', 'encode: exit', 'encode and free: raise'),
        *faults('prefill: raise', 'prefill: oom', 'prefill: memory', 'prefill: exit', 'prefill and free: raise'),
        *faults('score: raise', 'score: oom', 'score: memory', 'score: exit', 'score and free: raise'),
        *faults('score: raise, free: slow'),
    ),
    'the same `inference.max_failures` times in a row': (
        'integration/test_inference_faults.py::test_failures_in_a_row_end_the_process',
        'integration/test_inference_faults.py::test_an_inference_thread_that_is_dead_ends_the_process',
    ),
    'writing the description raises': (
        *faults('generate: raise', 'generate: oom', 'generate: memory', 'generate: exit'),
        'integration/test_inference_faults.py::test_a_description_that_fails_leaves_the_hint_alone',
        'integration/test_paced_descriptions.py::test_a_text_that_fails_between_ticks_leaves_all_hints_alone',
    ),
    'a tick takes longer than `inference.watchdog_ms`': (
        *faults('encode: hang', 'prefill: hang', 'score: hang', 'generate: hang', 'score: raise, free: hang'),
        'integration/test_inference_faults.py::test_the_answer_of_a_hang_is_dropped',
        'integration/test_inference_faults.py::test_a_description_that_hangs_leaves_the_hint_alone',
    ),
    'longer than `inference.abort_ms`': (
        'integration/test_inference_faults.py::'
        'test_a_backend_that_hangs_in_its_first_tick_is_an_error_and_then_the_end',
    ),
    "a native call keeps the interpreter's lock": (
        'integration/test_inference_faults.py::test_a_call_that_holds_the_interpreter_lock_ends_the_process',
    ),
    'the model loads': (
        'integration/test_lifecycle.py::test_transitions_load_begin_pause_and_free',
        *faults('the node loads anew'),
    ),
    'loading takes longer than': (
        'integration/test_inference_faults.py::test_loading_that_never_ends_ends_the_process',
        'integration/test_inference_faults.py::test_a_call_that_holds_the_interpreter_lock_ends_the_process',
    ),
    'loading fails': (
        'integration/test_lifecycle.py::test_a_start_that_fails_ends_in_a_sentence',
        'integration/test_lifecycle.py::test_a_transition_that_fails_is_logged_and_shown_and_may_be_tried_again',
    ),
    'a transition is asked for that the state does not allow': (
        'integration/test_honest_diagnostics.py::'
        'test_transitions_are_logged_and_what_a_state_does_not_allow_is_refused_by_name',
    ),
    'a transition fails, or the node is not active': (
        *faults('the node pauses'),
        'integration/test_lifecycle.py::test_a_transition_that_fails_is_logged_and_shown_and_may_be_tried_again',
    ),
    'nothing published for `output.heartbeat_ms`': (
        'integration/test_output_order.py::test_a_heartbeat_before_the_first_answer_has_no_stamp',
        'integration/test_output_order.py::test_a_reader_that_drops_older_stamps_gets_every_hint_of_a_slow_backend',
    ),
    'a callback raises': (
        'integration/test_hostile_publisher.py::test_a_callback_that_raises_is_logged_and_does_not_end_the_node',
    ),
}


def rows() -> list[str]:
    """The first cell of every row, heads left out."""
    found = [line.split('|')[1].strip() for line in TABLE.read_text(encoding='utf-8').splitlines() if line[:1] == '|']
    return [cell for cell in found if cell not in ('fault', '---')]


@cache
def functions(file: Path) -> set[str]:
    """The tests in a file."""
    tree = ast.parse(file.read_text(encoding='utf-8'))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')}


def test_every_row_has_a_test_and_every_entry_its_row():
    found = rows()
    assert len(found) > 60
    # Of two that fit the longer one is meant.
    owners = {row: max((start for start in TESTS if row.startswith(start)), key=len, default='') for row in found}
    assert [row for row, start in owners.items() if not start] == [], 'rows without a test: name it above'
    assert sorted(owners.values()) == sorted(TESTS), 'an entry without a row, or one for two rows'


@pytest.mark.parametrize('row', TESTS)
def test_the_tests_of_a_row_are_there(row):
    assert TESTS[row]
    for name in TESTS[row]:
        file, _, function = name.partition('::')
        assert function.partition('[')[0] in functions(ROOT / 'test' / file), name


def test_cases_are_faults_and_faults_belong_to_rows():
    pytest.importorskip('rclpy')
    from helpers.faults import faults as all_faults

    tried = {fault.name for fault in all_faults()}
    listed = {name[:-1].partition('[')[2] for names in TESTS.values() for name in names if name.endswith(']')}
    assert listed <= tried
    assert tried - listed == NO_FAULTS
