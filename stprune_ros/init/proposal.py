"""From a survey of a rig to parameters that work, with the reasons, and what is unsure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.rig import CameraRig, left_out
from stprune_ros.core.rig_builder import FRAME_FROM_OPTICAL, RigBuilder, rectified_cameras
from stprune_ros.core.transforms import StaticTransforms, frame_name
from stprune_ros.errors import StpruneError
from stprune_ros.init.base_frame import choose_base_frame
from stprune_ros.init.naming import find_template, template_for
from stprune_ros.init.offsets import measure_offsets
from stprune_ros.init.rig_text import rig_text
from stprune_ros.io.bag_topics import COMPRESSED, CameraTopics, find_cameras, find_static_transforms, passed_over
from stprune_ros.io.odometry_topic import choose_odometry, peek_of
from stprune_ros.io.survey import RigSurvey
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import unfit_name

SMALLEST_OFFSET_MS = 2.0  # a ring whose cameras fire closer together than this needs no offsets
WAIT_STEP_MS = 10.0


@dataclass
class Proposal:
    """Parameters by dotted name, comments for some of them, and a rig file where tf says too little.

    ``doubts`` say what is unsure, ``passed_over`` which image topics show no view; ``drives`` is False where a bag can
    be replayed but no node can subscribe to its topics.
    """

    values: dict[str, object] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    rig_file: str = ''
    drives: bool = True

    def set(self, name: str, value: object, *comments: str) -> None:
        """Propose a value, and say why."""
        self.values[name] = value
        if comments:
            self.comments[name] = list(comments)


def propose(survey: RigSurvey, rig_path: Path) -> Proposal:
    """Parameters for the rig of a survey; ``rig_path`` is where the rig file would go.

    Raises BagError where there is no camera.
    """
    proposal = Proposal()
    cameras = _cameras(survey, proposal)
    base_frame, why = choose_base_frame(survey.transforms, [_frame(survey, found) for found in cameras.values()])
    if base_frame != Settings().cameras.base_frame:
        proposal.set('cameras.base_frame', base_frame, why)
    rig = _geometry(survey, cameras, base_frame, proposal)
    if rig is None:
        mounted = _mounted(survey, cameras, base_frame)
        order = [name for name in cameras if name not in mounted or not mounted[name].is_vertical]
        proposal.doubts += [left_out(mounted[name]) for name in cameras if name not in order]
        infos = {name: survey.camera_infos.get(cameras[name].info) for name in order}
        proposal.rig_file = rig_text(order, infos, mounted)
        proposal.set('cameras.rig_file', str(rig_path), 'camera_info and tf do not tell all: fill in this file')
        guessed = ', '.join(name for name in order if name not in mounted)
        if guessed:
            proposal.doubts.append(
                f'where the cameras {guessed} look is guessed from their names, where they sit is not known'
            )
    else:
        order = list(rig.ring)
        proposal.doubts += rig.notes
    proposal.set('cameras.names', tuple(order), 'clockwise from the front' if rig is not None else 'in no order yet')
    if rig is not None:
        proposal.set('cameras.anchor', order[0], 'its stamps define the ticks')
    _offsets(survey, {name: cameras[name].image for name in order}, proposal)
    _odometry(survey, base_frame, [topics.image for topics in cameras.values()], proposal)
    _transforms(survey, [topics.image for topics in cameras.values()], proposal)
    return proposal


def _cameras(survey: RigSurvey, proposal: Proposal) -> dict[str, CameraTopics]:
    """The cameras by the names that the parameters will have; sets transport and topic templates."""
    found = find_cameras(survey.topics, (), 'compressed')
    compressed = {name: survey.topics[topics.image].msgtype == COMPRESSED for name, topics in found.items()}
    transport = 'compressed' if sum(compressed.values()) * 2 >= len(found) else 'raw'
    other = [found[name].image for name, is_compressed in compressed.items() if is_compressed != (transport != 'raw')]
    for topic in other:
        proposal.doubts.append(
            f"'{topic}' is left out: it is not {transport} as most cameras are (cameras.transport); republish it with"
            ' image_transport (ros2 run image_transport republish) to have it in the ring'
        )
    found = {name: topics for name, topics in found.items() if topics.image not in other}
    proposal.set('cameras.transport', transport)
    for topic, reason in passed_over(survey.topics).items():
        proposal.passed_over.append(f"'{topic}' is taken for no camera: {reason}")
    return _named(found, proposal)


def _named(found: Mapping[str, CameraTopics], proposal: Proposal) -> dict[str, CameraTopics]:
    template, names = find_template(topics.image for topics in found.values())
    if not template:
        if len(found) > 1:
            proposal.doubts.append('the image topics have no common form: remap them to ~/input/<camera>/image')
            return dict(found)
        [(name, topics)] = found.items()
        proposal.set('topics.image', topics.image)
        if topics.info:
            proposal.set('topics.camera_info', topics.info)
        return {name: topics}
    unfit = [problem for name in names.values() if (problem := unfit_name(name, [template])) is not None]
    if unfit:
        # Only a bag can hold such topics, converted from another system: replay finds the cameras by their names.
        proposal.doubts.append(f'{unfit[0]}; replay works without, the node needs other topics')
        proposal.drives = False
        return {names.get(topics.image, name): topics for name, topics in found.items()}
    proposal.set('topics.image', template)
    for topics in found.values():
        if topics.image not in names:
            proposal.doubts.append(
                f"'{topics.image}' is left out: it does not fit '{template}' (topics.image); remap it to such a topic"
                ' to have it in the ring'
            )
    cameras = {names[topics.image]: topics for topics in found.values() if topics.image in names}
    infos = template_for({name: topics.info for name, topics in cameras.items()})
    if infos:
        proposal.set('topics.camera_info', infos)
    elif any(topics.info for topics in cameras.values()):
        proposal.doubts.append('the camera_info topics have no common form: remap them to ~/input/<camera>/camera_info')
    return cameras


def _frame(survey: RigSurvey, topics: CameraTopics) -> str:
    info = survey.camera_infos.get(topics.info)
    return '' if info is None else frame_name(info.header.frame_id)


def _geometry(
    survey: RigSurvey, cameras: Mapping[str, CameraTopics], base_frame: str, proposal: Proposal
) -> CameraRig | None:
    """The ring from camera_info and tf, by the first reading of the frames that gives one; None where none does."""
    problems = []
    for convention in FRAME_FROM_OPTICAL:
        builder = _builder(survey, cameras, base_frame, convention)
        try:
            rig = builder.build(list(cameras))
        except StpruneError as error:
            problems.append(str(error))
            continue
        if convention != 'optical':
            proposal.set(
                'cameras.frame_convention', convention, 'camera_info.frame_id names body frames, not optical ones'
            )
        return rig
    proposal.doubts.append(problems[0])
    return None


def _mounted(survey: RigSurvey, cameras: Mapping[str, CameraTopics], base_frame: str) -> dict[str, CameraModel]:
    """What tf tells of single cameras, by the first reading of the frames in which they can be part of a ring."""
    for convention in FRAME_FROM_OPTICAL:
        try:
            mounted = _builder(survey, cameras, base_frame, convention).mounted(list(cameras))
        except StpruneError:
            continue
        # One camera alone that looks down would be taken for a body frame on its side.
        if convention == 'optical' or not all(model.on_its_side for model in mounted.values()):
            return mounted
    return {}


def _builder(survey: RigSurvey, cameras: Mapping[str, CameraTopics], base_frame: str, convention: str) -> RigBuilder:
    settings = replace(Settings().cameras, base_frame=base_frame, frame_convention=convention)
    builder = RigBuilder(
        settings, rectified_cameras(settings, {name: topics.image for name, topics in cameras.items()})
    )
    for message in survey.transforms:
        builder.add_transforms(message)
    for message in survey.moving:
        builder.transforms.add_moving(message)
    for name, topics in cameras.items():
        if topics.info in survey.camera_infos:
            builder.add_camera_info(name, survey.camera_infos[topics.info])
    return builder


def _offsets(survey: RigSurvey, images: Mapping[str, str], proposal: Proposal) -> None:
    order = list(images)
    measured = measure_offsets({name: survey.stamps.get(topic, []) for name, topic in images.items()}, order[0])
    unmeasured = [name for name in order if name not in measured]
    if unmeasured:
        proposal.doubts.append(f'too few images to measure the trigger offset of {", ".join(unmeasured)}')
    offsets = [round(measured.get(name, 0.0), 1) for name in order]
    largest = max(map(abs, offsets))
    if largest < SMALLEST_OFFSET_MS:
        return
    proposal.set(
        'cameras.offsets_ms',
        tuple(offsets),
        f'measured from stamps: {", ".join(f"{name} {offset:g}" for name, offset in zip(order, offsets))}',
    )
    sync = Settings().sync
    reach = sync.tolerance_ms + largest
    if reach > sync.max_wait_ms:
        wait = WAIT_STEP_MS * math.ceil(reach / WAIT_STEP_MS)
        proposal.set('sync.max_wait_ms', wait, f'tolerance plus the largest offset is {reach:g} ms')


def _odometry(survey: RigSurvey, base_frame: str, images: Sequence[str], proposal: Proposal) -> None:
    if not survey.odometry:
        proposal.doubts.append('there is no odometry: hints come without ego motion, as DEGRADED')
        return
    transforms = StaticTransforms()
    for message in survey.transforms:
        transforms.add(message)
    peeks = {name: peek_of(messages) for name, messages in survey.odometry.items()}
    chosen = choose_odometry(peeks, base_frame, lambda frame: transforms.way(base_frame, frame), images)
    others = [name for name in sorted(peeks) if name != chosen.name]
    comments = [f"or '{name}', child frame '{peek.child}'" for name in others if (peek := peeks[name]) is not None]
    proposal.set('topics.odometry', chosen.name, *comments)
    peek = peeks[chosen.name]
    if peek is not None and peek.child not in ('', base_frame) and transforms.way(base_frame, peek.child) is None:
        proposal.doubts.append(
            f"odometry '{chosen.name}' speaks of '{peek.child}', and no static transform leads from there to"
            f" '{base_frame}': it will not be used"
        )


def _transforms(survey: RigSurvey, images: Sequence[str], proposal: Proposal) -> None:
    """What the node must be told of: it listens on /tf_static, as tf2 does."""
    found = find_static_transforms(survey.topics, images)
    if found and '/tf_static' not in found:
        proposal.doubts.append(
            f'static transforms come on {", ".join(found)}: start the node with the remapping'
            f' /tf_static:={found[-1]}, as it listens on /tf_static'
        )
    elif len(found) > 1:
        proposal.doubts.append(
            f'static transforms come on {", ".join(found)}: replay reads all of them, the node only /tf_static'
        )
