"""Tuning of one main parameter per method: what is chosen from answers, and what was committed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from stprune_ros.evaluation.hits import Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.knobs import KNOBS, TUNED, with_value
from stprune_ros.evaluation.tables import by_knob
from stprune_ros.evaluation.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
SOURCE, RESULTS = ROOT / 'benchmark' / 'tune.py', ROOT / 'benchmark' / 'results'


@pytest.fixture(scope='module')
def tune():
    spec = importlib.util.spec_from_file_location('tune', SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(**right):
    """Two scenes of two questions; ``right`` by value of DART's pivots, at 10 and 5 %."""
    hits = Hits({})
    for n, scene in enumerate((5, 6)):
        correct = {
            Trial(with_value('dart', float(name[1:])), keep, 0): row[2 * n : 2 * n + 2]
            for name, rows in right.items()
            for keep, row in zip((0.1, 0.05), rows)
        }
        hits.add(scene, [SceneResult(scene, [Asked(scene, 'motion', 'f', 'ego driving')] * 2, correct)])
    return hits


T, F = True, False


def test_the_most_right_answers_over_both_ratios_win(tune):
    found = tune.choose(
        answers(
            p4=([T, T, F, F], [T, F, F, F]),
            p1=([F, F, F, F], [F, F, F, F]),
            p2=([T, F, F, F], [T, F, F, F]),
            p8=([T, T, T, T], [F, F, F, F]),
            p16=([T, F, F, F], [T, T, T, T]),
        ),
        'dart',
        (0.1, 0.05),
    )
    assert (found['parameter'], found['authors'], found['chosen']) == ('pivots', 4, 16)
    assert [row['value'] for row in found['tried']] == [4, 1, 2, 8, 16]
    assert [row['0.1']['accuracy'] for row in found['tried']] == [0.5, 0.0, 0.25, 1.0, 0.25]
    last = found['tried'][-1]['0.05']
    assert (last['accuracy'], last['lo'], last['hi']) == (1.0, 1.0, 1.0)
    assert (last['minus_authors'], last['minus_lo'], last['minus_hi']) == (0.75, 0.5, 1.0)
    assert by_knob({'keeps': [0.1, 0.05], 'knobs': {'dart': found}}).splitlines()[-1] == (
        '| dart | pivots | 4: 50.0, 25.0; 1: 0.0, 0.0; 2: 25.0, 25.0; 8: 100.0, 0.0; 16: 25.0, 100.0 | 16 |'
    )


def test_the_value_of_the_authors_wins_ties(tune):
    same = ([T, F, F, F], [F, F, F, T])
    other = ([T, T, F, F], [F, F, F, F])
    assert tune.choose(answers(p4=same, p1=other, p2=other, p8=same, p16=other), 'dart', (0.1, 0.05))['chosen'] == 4


def test_scenes_are_training_drives_with_cameras_in_order(tune):
    cases = tune.IntactCases(3, tune.TRAINING).cases(tune.TRAINING + 1)
    assert len(cases) == 10 and {case.scene.condition for case in cases} == {''}
    assert tune.TRAINING + 100_000 <= 1_000_000


def test_a_method_without_a_knob_is_refused(tune, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, 'argv', ['tune', '--output', str(tmp_path / 'k.json'), '--methods', 'tfps'])
    assert tune.main() == 1
    assert "method 'tfps' has no knob; choose from st_prune_joint" in capsys.readouterr().err


def test_the_committed_choices_are_those_of_the_committed_answers(tune):
    found = json.loads((RESULTS / 'knobs.json').read_text(encoding='utf-8'))
    hits = Hits.load(RESULTS / 'knobs.ringworld.ringworld.hits.npz')
    assert list(hits.results) == list(range(tune.TRAINING, tune.TRAINING + found['scenes']))
    assert {method: tune.choose(hits, method, found['keeps']) for method in KNOBS} == found['knobs']
    changed = {method: row['chosen'] for method, row in found['knobs'].items() if row['chosen'] != row['authors']}
    assert changed == TUNED
    assert {with_value(method, value) for method, value in TUNED.items()} <= {*VARIANTS}
    page = (ROOT / 'docs' / 'evaluation.md').read_text(encoding='utf-8')
    assert f'<!-- knobs -->\n{by_knob(found)}\n' in page
    assert f'{found["scenes"]} scenes, {found["questions"]} questions' in page


def test_a_small_run_of_tuning(tune, monkeypatch, capsys, tmp_path):
    output = tmp_path / 'knobs.json'
    monkeypatch.setattr(sys, 'argv', ['tune', '--output', str(output), '--methods', 'mvpruner', '--scenes', '1'])
    assert tune.main() == 0
    found = json.loads(output.read_text())
    assert (found['first_scene'], found['scenes'], found['questions']) == (900_000, 1, 10)
    assert [row['value'] for row in found['knobs']['mvpruner']['tried']] == [*KNOBS['mvpruner'].values]
    assert capsys.readouterr().out.strip() == by_knob(found)
