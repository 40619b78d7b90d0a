"""What `stprune init` does: survey, propose, write, and say what was unsure."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.errors import SettingsError
from stprune_ros.init.parameter_text import parameter_text
from stprune_ros.init.proposal import Proposal, propose
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.survey import RigSurvey, survey_bag
from stprune_ros.results import Show


def init_from_bag(path: Path, output: Path, show: Show) -> int:
    """Write a parameter file for the rig that a bag shows; returns 0. Raises StpruneError."""
    require_new(output)
    with Bag(path) as bag:
        survey = survey_bag(bag)
        notes = list(bag.notes)
    return write(survey, f"'{path}'", output, notes, f'stprune replay {path} --output out --params {output}', show)


def init_live(seconds: float, output: Path, show: Show) -> int:
    """Write a parameter file for the rig whose topics are on the network; returns 0. Raises StpruneError."""
    require_new(output)
    from stprune_ros.ros.live_survey import survey_live

    survey = survey_live(seconds)
    next_step = f'ros2 bag record -a, then: stprune replay BAG --output out --params {output}'
    return write(survey, f'{seconds:g} s of the running vehicle', output, [], next_step, show)


def require_new(output: Path) -> None:
    """Raise SettingsError where the parameter file, or the rig file beside it, would replace one."""
    for path in (output, rig_path(output)):
        if path.exists():
            raise SettingsError(f"'{path}' exists already; name another --output, or move it away")
    if not output.parent.is_dir():
        raise SettingsError(f"there is no folder '{output.parent}' for '{output.name}'; make it")


def rig_path(output: Path) -> Path:
    """Where the rig file to a parameter file goes: my.rig.yaml beside my.param.yaml."""
    return output.with_name(f'{output.name.removesuffix(".yaml").removesuffix(".param")}.rig.yaml').absolute()


def write(survey: RigSurvey, source: str, output: Path, notes: list[str], next_step: str, show: Show) -> int:
    """Write what is proposed for a survey and show what came of it; returns 0."""
    proposal = propose(survey, rig_path(output))
    output.write_text(parameter_text(source, proposal.values, proposal.comments), encoding='utf-8')
    if proposal.rig_file:
        rig_path(output).write_text(proposal.rig_file, encoding='utf-8')
    files = [output, *([rig_path(output)] if proposal.rig_file else [])]
    found = {
        'files': files,
        'parameters': dict(proposal.values),
        'no_view': list(proposal.passed_over),
        'unsure': [*proposal.doubts, *notes],
        'to_be_filled_in': bool(proposal.rig_file),
    }
    show(summary_text(proposal, output, notes, next_step), found)
    return 0


def summary_text(proposal: Proposal, output: Path, notes: list[str], next_step: str) -> str:
    """What was found, what was unsure and what to do next, for a terminal."""
    values = proposal.values
    names, offsets = values['cameras.names'], values.get('cameras.offsets_ms')
    what = 'cameras ' if proposal.rig_file else 'ring    '
    lines = [f'{what} {", ".join(names)}' if isinstance(names, tuple) else '']  # always a tuple
    lines.append(f'images   {values.get("topics.image", "by camera name")} ({values["cameras.transport"]})')
    if isinstance(offsets, tuple):
        lines.append(f'offsets  {", ".join(f"{offset:g}" for offset in offsets)} ms')
    lines.append(f'odometry {values.get("topics.odometry", "none")}')
    lines += [f'no view  {topic}' for topic in proposal.passed_over]
    lines += [f'unsure   {doubt}' for doubt in (*proposal.doubts, *notes)]
    lines.append(f"wrote    '{output}'" + (f" and '{rig_path(output)}', to be filled in" if proposal.rig_file else ''))
    lines.append(f'check    stprune check {output}')
    lines.append(f'replay   {next_step}')
    if proposal.drives:
        lines.append(f'drive    ros2 launch stprune_ros stprune.launch.py params_file:={output.absolute()}')
    return '\n'.join(lines)
