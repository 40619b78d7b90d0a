"""Runs the CMakeLists.txt that colcon runs and packs what it installs, so that pip builds the messages as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build

NAME = 'stprune_ros'
INTERFACES = ('action', 'msg', 'srv')  # folders of what rosidl reads, and of the modules that it makes of it
HERE = Path(__file__).resolve().parent
TF2_MSGS = HERE / 'compat' / 'tf2_msgs'


def ament_prefixes() -> list[Path]:
    """Install prefixes of the ROS 2 that this interpreter imports from; AMENT_PREFIX_PATH where it imports none."""
    seen = [Path(entry).resolve().parents[2] for entry in sys.path if entry.endswith('-packages')]
    if not any((prefix / 'share' / 'rosidl_cmake').is_dir() for prefix in seen):
        seen += [Path(prefix) for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
    return [prefix for prefix in dict.fromkeys(seen) if (prefix / 'share' / 'ament_index').is_dir()]


def has_tf2_msgs(prefixes: list[Path]) -> bool:
    """Whether a tf2_msgs other than the one from compat/ is installed."""
    found = [prefix / 'share' / 'tf2_msgs' / 'package.xml' for prefix in prefixes]
    return any(path.is_file() and NAME not in path.read_text(encoding='utf-8') for path in found)


class BuildInterfaces(Command):
    """Generate and compile the interfaces of action/, msg/ and srv/ with rosidl."""

    description = 'generate and compile the ROS interfaces'
    user_options = (('build-lib=', 'b', ''), ('build-temp=', 't', ''))
    editable_mode = False

    def initialize_options(self):
        self.build_lib = self.build_temp = None

    def finalize_options(self):
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))
        self.set_undefined_options('build', ('build_temp', 'build_temp'))

    def get_source_files(self):
        files = [HERE / 'CMakeLists.txt', HERE / 'package.xml']
        files += [file for kind in INTERFACES for file in sorted(HERE.glob(f'{kind}/*.{kind}'))]
        return [str(path.relative_to(HERE)) for path in files]

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}

    def run(self):
        prefixes = ament_prefixes()
        if not prefixes:
            raise SystemExit('no ROS 2 found: neither this Python nor AMENT_PREFIX_PATH has a share/ament_index')
        stages = [self._build(HERE, NAME, prefixes)]
        if not has_tf2_msgs(prefixes):
            stages.append(self._build(TF2_MSGS, 'tf2_msgs', prefixes))
        self._place_modules(stages[0])
        self.distribution.data_files = [entry for stage in stages for entry in self._data_files(stage)]

    def _build(self, source: Path, name: str, prefixes: list[Path]) -> Path:
        """Configure, build and install ``source`` into a folder of its own, which is returned."""
        work = Path(self.build_temp).resolve() / name
        stage = work / 'install'
        shutil.rmtree(work, ignore_errors=True)  # the cache of an isolated build points at paths that are gone
        paths = os.pathsep.join(str(prefix) for prefix in prefixes)
        env = {**os.environ, 'AMENT_PREFIX_PATH': paths, 'CMAKE_PREFIX_PATH': paths}
        configure = ['cmake', '-S', str(source), '-B', str(work / 'build')]
        configure += ['-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF']
        configure += [f'-DCMAKE_INSTALL_PREFIX={stage}', f'-DPython3_EXECUTABLE={sys.executable}']
        configure += ['-G', 'Ninja'] if shutil.which('ninja') else []
        subprocess.check_call(configure, env=env)
        subprocess.check_call(['cmake', '--build', str(work / 'build'), '--parallel', str(os.cpu_count())], env=env)
        subprocess.check_call(['cmake', '--install', str(work / 'build')], env=env, stdout=subprocess.DEVNULL)
        return stage

    def _place_modules(self, stage: Path) -> None:
        """Put the generated Python modules beside the sources, which share their package."""
        [module] = stage.glob(f'lib/python*/*-packages/{NAME}')
        target = HERE / NAME if self.editable_mode else Path(self.build_lib) / NAME
        skip = shutil.ignore_patterns('*.c', '__pycache__')
        for kind in INTERFACES:
            shutil.copytree(module / kind, target / kind, dirs_exist_ok=True, ignore=skip)
        for extension in module.glob(f'{NAME}_s__*'):
            shutil.copy2(extension, target)

    def _data_files(self, stage: Path) -> list[tuple[str, list[str]]]:
        """Everything else: libraries, ament index and share folder below the prefix, tf2_msgs below site-packages."""
        site = os.path.relpath(sysconfig.get_path('platlib'), sysconfig.get_path('data'))
        folders: dict[str, list[str]] = {}
        for path in sorted(path for top in ('lib', 'share') for path in (stage / top).rglob('*')):
            parts = path.relative_to(stage).parts
            if path.is_dir() or '__pycache__' in parts or path.suffix in ('.c', '.sh', '.bash', '.zsh', '.dsv'):
                continue
            if parts[0] == 'share' and parts[2] == 'cmake':  # would point at the stage
                continue
            folder = os.path.join(*parts[:-1])
            if parts[1].startswith('python'):
                if parts[3] == NAME or parts[3].endswith('.egg-info'):
                    continue
                folder = os.path.join(site, *parts[3:-1])
            folders.setdefault(folder, []).append(os.path.relpath(path, HERE))
        return sorted(folders.items())


class Build(build):
    """The usual build, and the interfaces."""

    sub_commands = (*build.sub_commands, ('build_interfaces', None))


class BinaryDistribution(Distribution):
    """Has compiled parts and files below the prefix."""

    def has_ext_modules(self):
        return True

    def has_data(self):  # editable_wheel installs data_files only where a distribution has this
        return bool(self.data_files)


GENERATED = [f'{NAME}.{kind}{below}' for kind in INTERFACES for below in ('', '.*')]

setup(
    packages=find_packages(include=[NAME, f'{NAME}.*'], exclude=GENERATED),
    distclass=BinaryDistribution,
    cmdclass={'build': Build, 'build_interfaces': BuildInterfaces},
    zip_safe=False,
)
