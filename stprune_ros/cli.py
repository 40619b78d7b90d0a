"""The command `stprune`. Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, 130 interrupted.

Everything heavy is imported inside the command that needs it, so that `stprune check` answers at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from stprune_ros.errors import StpruneError
from stprune_ros.preflight import require_file, require_folder
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.resources import dds_profile
from stprune_ros.settings import parameter_file
from stprune_ros.settings.parameters import lookup
from stprune_ros.settings.settings import Settings

DEMO_SEED = 1_000_004  # slows down, stops and drives on, and is not among those that the bundled model was trained on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    # A container that stops sends SIGTERM: what was done so far is kept, as with Ctrl-C. A shell script starts its
    # background jobs with SIGINT ignored: that one must be asked for, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return int(options.run(options))
    except StpruneError as error:
        for line in str(error).splitlines():
            print(f'stprune: {line}', file=sys.stderr)
        return 1
    except OSError as error:
        where = f"'{error.filename}': " if error.filename is not None else ''
        print(f'stprune: {where}{error.strerror or error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stprune: interrupted', file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog='stprune', description='Six cameras in, scene descriptions and planning hints out.'
    )
    commands = top.add_subparsers(title='commands', metavar='COMMAND', required=True)
    _demo(commands.add_parser('demo', help='make a small world, run node and replay on it, leave a report'))
    _replay(commands.add_parser('replay', help='run on a recorded bag, as fast as it goes and without drops'))
    _play(commands.add_parser('play', help='publish a bag over DDS in real time'))
    _world(commands.add_parser('world', help='write a bag of the small synthetic world, with its truth'))
    _eval(commands.add_parser('eval', help='answers kept against tokens kept, for every pruning method'))
    _bench(commands.add_parser('bench', help='time and memory of selection and ticks, side by side in one run'))
    _init(commands.add_parser('init', help='write a parameter file for the rig that a bag or a running vehicle shows'))
    _check(commands.add_parser('check', help='check a parameter file'))
    return top


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'{text} is not a number above 0')
    return value


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 1')
    return value


def ratio(text: str) -> float:
    """A keep ratio as the parameter table allows it."""
    try:
        lookup('pruning.keep_ratio').parse(float(text))
        return float(text)
    except StpruneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    """Width and height of an image, as in 1920x1080."""
    width, separator, height = text.partition('x')
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 1920x1080")
    return count(width), count(height)


def seed(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 0')
    return value


def load_settings(path: Path | None) -> Settings:
    """The settings of a parameter file, the defaults where there is none; says which names are of the last release.

    Raises SettingsError naming all that is wrong.
    """
    if path is None:
        return Settings()
    found = parameter_file.ParameterFile.read(path)
    for note in found.notes:
        print(f'{path}: {note}', file=sys.stderr)
    return parameter_file.settings_of(found, f'{path}: ')


def require_rclpy(command: str) -> None:
    """Raise StpruneError where ROS 2 is not installed."""
    if importlib.util.find_spec('rclpy') is None:
        raise StpruneError(f"`stprune {command}` needs rclpy: pip install '.[ros]', or source a ROS 2 workspace")


def ratios(text: str) -> tuple[float, ...]:
    """Keep ratios, separated by commas."""
    return tuple(ratio(part) for part in text.split(','))


def names(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(text.split(','))


def remap(text: str) -> tuple[str, str]:
    """A pair 'from:=to' of topic names."""
    source, separator, target = text.partition(':=')
    if not (separator and source and target):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form /from:=/to")
    return source, target


def demo_values(path: Path | None) -> dict[str, object]:
    """The values of a parameter file that is right; SettingsError naming all that is wrong. Others stay the demo's."""
    if path is None:
        return {}
    load_settings(path)
    return parameter_file.read_file(path)


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR', help='default: %(default)s')
    command.add_argument('--seed', type=seed, default=DEMO_SEED, help='which world; default: %(default)s')
    command.add_argument('--seconds', type=positive, default=12.0, help='how long a drive; default: %(default)s')
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file for node and replay')

    def run(options: argparse.Namespace) -> int:
        values = demo_values(options.params)
        require_rclpy('demo')
        require_folder(options.output)
        # The bundled model is too small for two threads to help it, and node and replay shall compute alike.
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        from stprune_ros.demo import demo

        return demo(options.output, seed=options.seed, seconds=options.seconds, values=values)

    command.set_defaults(run=run)


def _replay(command: argparse.ArgumentParser) -> None:
    command.add_argument('bag', type=Path, metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    command.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for results.mcap, summary.json, report.html'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, as for the node')
    command.add_argument('--keep', type=ratio, metavar='R', help='share of visual tokens that the model sees')
    command.add_argument('--method', choices=METHOD_NAMES, help='how tokens are selected')

    def run(options: argparse.Namespace) -> int:
        values = load_settings(options.params)
        if options.keep is not None:
            values = values.changed({'pruning.keep_ratio': options.keep})
        if options.method is not None:
            values = values.changed({'pruning.method': options.method})
        require_folder(options.output, options.bag)
        from stprune_ros.replay import command as replay_command

        return replay_command.run(options.bag, options.output, values)

    command.set_defaults(run=run)


def _play(command: argparse.ArgumentParser) -> None:
    command.add_argument('bag', type=Path, metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    command.add_argument(
        '--rate', type=positive, default=1.0, metavar='X', help='times real time; default: %(default)s'
    )
    command.add_argument('--clock', action='store_true', help='publish the recording times on /clock')
    command.add_argument('--loop', type=count, default=1, metavar='N', help='how often; default: %(default)s')
    command.add_argument(
        '--wait', type=positive, default=0.0, metavar='S', help='wait up to S seconds for subscribers first'
    )
    command.add_argument(
        '--remap',
        type=remap,
        nargs='+',
        action='extend',
        default=[],
        metavar='/from:=/to',
        help='publish a topic under another name',
    )
    command.add_argument(
        '--params',
        type=Path,
        metavar='FILE',
        help="the node's parameter file: cameras and odometry go where it listens",
    )
    for what in ('image', 'camera_info', 'odometry'):
        command.add_argument(
            f'--{what.replace("_", "-")}-topic', default='', metavar='T', help=f'in place of topics.{what} in FILE'
        )

    def run(options: argparse.Namespace) -> int:
        given = {f'topics.{what}': getattr(options, f'{what}_topic') for what in ('image', 'camera_info', 'odometry')}
        given = {name: topic for name, topic in given.items() if topic}
        chosen = load_settings(options.params).changed(given) if options.params is not None or given else None
        require_rclpy('play')
        os.environ.setdefault(*dds_profile())
        from stprune_ros.ros.player import play

        print(
            play(
                options.bag,
                rate=options.rate,
                clock=options.clock,
                remaps=dict(options.remap),
                loops=options.loop,
                wait_s=options.wait,
                settings=chosen,
            )
        )
        return 0

    command.set_defaults(run=run)


def _world(command: argparse.ArgumentParser) -> None:
    command.add_argument('output', type=Path, metavar='OUT', help='folder of the new bag')
    command.add_argument('--seed', type=seed, default=DEMO_SEED, help='which world; default: %(default)s')
    command.add_argument('--seconds', type=positive, default=20.0, help='how long a drive; default: %(default)s')
    command.add_argument('--hz', type=positive, default=10.0, help='images per second and camera; default: %(default)s')
    command.add_argument('--rolling', action='store_true', help='fire the cameras one after another instead of at once')

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.ringworld.recording import record_world

        record_world(options.output, options.seed, options.seconds, options.hz, rolling=options.rolling)
        print(f"wrote '{options.output}', {options.seconds:g} s at {options.hz:g} Hz, with truth.json in it")
        return 0

    command.set_defaults(run=run)


def _eval(command: argparse.ArgumentParser) -> None:
    everything = [method for method in METHOD_NAMES if method != 'none']
    command.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='the result as JSON; a plot goes beside it as PNG'
    )
    command.add_argument(
        '--methods',
        type=names,
        metavar='A,B',
        help='methods, with switches as in st_prune+keep_one_copy or st_prune+all; default: every method, every switch '
        'alone, and all together',
    )
    command.add_argument(
        '--keep', type=ratios, default=(1.0, 0.5, 0.25, 0.1, 0.05), metavar='R,R', help='default: 1,0.5,0.25,0.1,0.05'
    )
    command.add_argument('--scenes', type=count, default=500, metavar='N', help='held-out scenes; default: %(default)s')
    command.add_argument(
        '--seeds', type=count, default=3, metavar='N', help='runs of what draws lots; default: %(default)s'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, for model and weights')
    command.add_argument('--workers', type=count, default=os.cpu_count(), metavar='N', help='default: %(default)s')

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.evaluation.variants import VARIANTS, config_of
        from stprune_ros.vlm.loading import require_model

        values = load_settings(options.params)
        require_file(options.output)
        methods = options.methods or (*everything, *VARIANTS)
        for method in methods:
            config_of(method, 1.0, 0, values)
        require_model(values)
        from stprune_ros.evaluation.fidelity import EvaluationPlan, evaluate_methods, to_markdown, write_plot
        from stprune_ros.evaluation.ringworld_cases import RingworldCases
        from stprune_ros.results import write_json

        plan = EvaluationPlan(methods, options.keep, options.seeds)
        result = evaluate_methods(RingworldCases(options.scenes), plan, values, options.workers)
        write_json(options.output, result)
        write_plot(result, options.output.with_suffix('.png'))
        print(to_markdown(result))
        return 0

    command.set_defaults(run=run)


def _bench(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='the result as JSON; a plot goes beside it as PNG'
    )
    extent = command.add_mutually_exclusive_group()
    extent.add_argument('--quick', action='store_true', help='under a minute: fewer sizes, a single layer of a model')
    extent.add_argument(
        '--whole', action='store_true', help='an hour: also models with all their layers, 16 GiB of memory'
    )
    extent.add_argument(
        '--gpu', action='store_true', help='minutes: percentiles of whole models in bfloat16 on a GPU; no plot'
    )

    def run(options: argparse.Namespace) -> int:
        require_file(options.output)
        from stprune_ros.results import write_json

        if options.gpu:
            from stprune_ros.bench import gpu

            gpu.require_gpu()
            result = gpu.bench_gpu()
            write_json(options.output, result)
            print(gpu.to_markdown(result))
            return 0
        from stprune_ros.bench.bench import bench
        from stprune_ros.bench.report import to_markdown, write_plot

        result = bench(options.quick, options.whole)
        write_json(options.output, result)
        write_plot(result, options.output.with_suffix('.png'))
        print(to_markdown(result))
        return 0

    command.set_defaults(run=run)


def _init(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument('bag', type=Path, nargs='?', metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    source.add_argument('--live', action='store_true', help='listen to the running vehicle instead')
    command.add_argument(
        '--output', type=Path, default=Path('my.param.yaml'), metavar='FILE', help='default: %(default)s'
    )
    command.add_argument(
        '--seconds', type=positive, default=5.0, help='how long to listen with --live; default: %(default)s'
    )

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.init.command import init_from_bag, init_live

        if options.live:
            require_rclpy('init --live')
            return init_live(options.seconds, options.output)
        return init_from_bag(options.bag, options.output)

    command.set_defaults(run=run)


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument('file', type=Path, metavar='FILE', help='a ROS 2 parameter file')
    command.add_argument(
        '--model',
        action='store_true',
        help="check the model folder too, and print what it takes of the device's memory",
    )
    command.add_argument(
        '--image', type=size, default=(1920, 1080), metavar='WxH', help='camera images for --model; default: 1920x1080'
    )

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.check import check

        width, height = options.image
        return check(options.file, options.model, (height, width))

    command.set_defaults(run=run)


if __name__ == '__main__':
    sys.exit(main())
