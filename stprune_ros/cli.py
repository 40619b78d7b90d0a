"""The command `stprune`. Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, 130 interrupted.

Everything heavy is imported inside the command that needs it, so that `stprune check` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from stprune_ros.arguments import (
    changed_settings,
    count,
    demo_values,
    load_settings,
    memory,
    names,
    positive,
    ratio,
    ratios,
    remap,
    require_rclpy,
    say,
    seed,
    size,
    with_host,
)
from stprune_ros.errors import StpruneError
from stprune_ros.export_command import add_arguments as add_export_arguments
from stprune_ros.preflight import require_file, require_folder, require_other
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.resources import dds_profile

UNTOUCHED = 1_021_000  # scenes of ringworld from this one on were never looked at while methods were made or chosen
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
            say(line)
        return 1
    except OSError as error:
        where = f"'{error.filename}': " if error.filename is not None else ''
        say(f'{where}{error.strerror or error}')
        return 1
    except KeyboardInterrupt:
        say('interrupted')
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog='stprune', description='Six cameras in, scene descriptions and planning hints out.'
    )
    commands = top.add_subparsers(title='commands', metavar='COMMAND', required=True)
    _demo(commands.add_parser('demo', help='make a small world, run node and replay on it, leave a report'))
    _replay(commands.add_parser('replay', help='run on a recorded bag, as fast as it goes and without drops'))
    _calibrate(commands.add_parser('calibrate', help='fit the probabilities of hints to drives whose truth is known'))
    _play(commands.add_parser('play', help='publish a bag over DDS in real time'))
    _world(commands.add_parser('world', help='write a bag of the small synthetic world, with its truth'))
    _eval(commands.add_parser('eval', help='answers kept against tokens kept, for every pruning method'))
    _bench(commands.add_parser('bench', help='time and memory of selection and ticks, side by side in one run'))
    add_export_arguments(commands.add_parser('export-gguf', help='write the language model of a folder as a GGUF file'))
    _init(commands.add_parser('init', help='write a parameter file for the rig that a bag or a running vehicle shows'))
    _check(commands.add_parser('check', help='check a parameter file'))
    return top


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
        values = changed_settings(options)
        require_folder(options.output, options.bag)
        from stprune_ros.replay import command as replay_command

        return replay_command.run(options.bag, options.output, values)

    command.set_defaults(run=run)


def _calibrate(command: argparse.ArgumentParser) -> None:
    command.add_argument('bags', type=Path, nargs='+', metavar='BAG', help='rosbag2 folders, .mcap or .db3 files')
    command.add_argument(
        '--held-out',
        type=Path,
        nargs='+',
        default=[],
        metavar='BAG',
        help='bags to judge on; default: the last third of those above',
    )
    command.add_argument(
        '--truth',
        type=Path,
        metavar='FILE',
        help='CSV with stamp_ns, behavior and bag, or truth.json; default: the truth.json beside each bag',
    )
    command.add_argument(
        '--tolerance',
        type=positive,
        default=20.0,
        metavar='MS',
        help='how far a stamp of the truth may be from a tick; default: %(default)s',
    )
    command.add_argument(
        '--content-free', action='store_true', help='first take off what the model says of grey pictures'
    )
    command.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='for prompt.calibration; a plot goes beside it as PNG',
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, as for the node')
    command.add_argument('--keep', type=ratio, metavar='R', help='share of visual tokens that the model sees')
    command.add_argument('--method', choices=METHOD_NAMES, help='how tokens are selected')

    def run(options: argparse.Namespace) -> int:
        values = changed_settings(options)
        require_file(options.output, '.yaml')
        require_other(options.output, {'truth': options.truth, 'parameter file': options.params})
        from stprune_ros.calibrate.command import CalibrationPlan
        from stprune_ros.calibrate.command import run as calibrate

        plan = CalibrationPlan(
            tuple(options.bags),
            tuple(options.held_out),
            options.truth,
            options.tolerance,
            options.content_free,
            options.output,
        )
        return calibrate(plan, values)

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
    command.add_argument('--hard', action='store_true', help='night, rain, fog, look-alikes, three times the traffic')

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.ringworld.recording import record_world

        record_world(options.output, options.seed, options.seconds, options.hz, options.rolling, options.hard)
        print(f"wrote '{options.output}', {options.seconds:g} s at {options.hz:g} Hz, with truth.json in it")
        return 0

    command.set_defaults(run=run)


def _eval(command: argparse.ArgumentParser) -> None:
    everything = [method for method in METHOD_NAMES if method != 'none']
    command.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='the result as JSON, with tables of other hosts and worlds that it has; a plot and answers go beside it',
    )
    command.add_argument(
        '--methods',
        type=names,
        metavar='A,B',
        help='methods, with switches (st_prune+keep_one_copy, st_prune+all), a knob (dart+pivots=8), the question '
        '(dart+text), or fewer images and pixels, as --params gives them (uniform+refresh, uniform+side); default: '
        'every method, every switch alone and all together, all questions, all that was tuned',
    )
    command.add_argument(
        '--keep',
        type=ratios,
        default=(0.5, 0.25, 0.1, 0.05, 0.02),
        metavar='R,R',
        help='beside all tokens; default: 0.5,0.25,0.1,0.05,0.02',
    )
    command.add_argument('--scenes', type=count, default=500, metavar='N', help='held-out scenes; default: %(default)s')
    command.add_argument(
        '--first-seed', type=count, default=UNTOUCHED, metavar='N', help='of scenes nobody used; default: %(default)s'
    )
    command.add_argument(
        '--world', choices=('ringworld', 'hard'), default='ringworld', help='see `stprune world`; default: %(default)s'
    )
    command.add_argument(
        '--host', metavar='NAME', help='a model folder, or a bundled model by its name; default: that of --params'
    )
    command.add_argument(
        '--resume', action='store_true', help='go on where an interrupted run with the same plan ended'
    )
    command.add_argument(
        '--seeds', type=count, default=3, metavar='N', help='runs of what draws lots; default: %(default)s'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, for model and weights')
    command.add_argument('--workers', type=count, default=os.cpu_count(), metavar='N', help='default: %(default)s')

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.evaluation.variants import VARIANTS, config_of, name_of
        from stprune_ros.vlm.loading import require_model

        values = with_host(load_settings(options.params), options.host)
        require_file(options.output)
        if values.prompt.calibration:
            say("'prompt.calibration' is not used: it is for the hint at one keep ratio, and more is asked here")
            values = values.changed({'prompt.calibration': ''})
        methods = options.methods or (*everything, *VARIANTS)
        for method in methods:
            config_of(method, 1.0, 0, values)
        require_model(values)
        from stprune_ros.evaluation import fidelity
        from stprune_ros.evaluation.ringworld_cases import RingworldCases
        from stprune_ros.evaluation.tables import to_markdown
        from stprune_ros.results import write_json

        plan, default = fidelity.EvaluationPlan(methods, options.keep, options.seeds), name_of(values.pruning)
        source = RingworldCases(options.scenes, options.first_seed, options.world)
        found = fidelity.evaluate_methods(source, plan, values, options.workers, options.output, options.resume, say)
        write_json(options.output, fidelity.add_table(options.output, default, found))
        plot = fidelity.beside(options.output, found['host'], options.world, '.png')
        fidelity.write_plot(found, default, plot)
        print(to_markdown(found, default))
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
    extent.add_argument('--gpu', action='store_true', help='minutes: percentiles of whole models on a GPU; no plot')
    extent.add_argument('--engines', action='store_true', help='minutes: ticks of one model on every engine; no plot')
    extent.add_argument(
        '--selection', action='store_true', help='a minute: selections in turn, against DivPrune; no plot'
    )
    extent.add_argument(
        '--memory', action='store_true', help='minutes: what is counted for a 3B model, and what it takes; no plot'
    )
    command.add_argument(
        '--page', type=Path, nargs='+', default=[], metavar='FILE', help='pages whose marked tables are written anew'
    )

    def run(options: argparse.Namespace) -> int:
        require_file(options.output)
        from stprune_ros.bench.command import run_bench

        return run_bench(options)

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
    command.add_argument(
        '--memory', type=memory, metavar='SIZE', help='as --model, but for another machine with so much free, as 15GiB'
    )

    def run(options: argparse.Namespace) -> int:
        from stprune_ros.check import check

        width, height = options.image
        return check(options.file, options.model or options.memory is not None, (height, width), options.memory)

    command.set_defaults(run=run)


if __name__ == '__main__':
    sys.exit(main())
