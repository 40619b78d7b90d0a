"""An evaluation that goes on: what a file of answers lacks is asked, and nothing else."""

import json
import math
from contextlib import contextmanager

import numpy as np
import pytest

from stprune_ros import cli
from stprune_ros.errors import Interrupted
from stprune_ros.evaluation.fidelity import BLIND_TRIAL, FULL_TRIAL, EvaluationPlan, ask_all, beside
from stprune_ros.evaluation.hits import Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.ringworld_cases import RingworldCases
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo

T, F = True, False


class Silent:
    info = ModelInfo('silent', '', '', True, 'cpu', 'float32')


@pytest.mark.slow
def test_methods_and_ratios_are_added_to_what_was_asked(tmp_path, capsys):
    """In two commands or in one: the same answers, and only what is missing runs."""
    few = ['--scenes', '3', '--first-seed', '1010000', '--workers', '1', '--seeds', '1']
    grown, whole = tmp_path / 'grown' / 'f.json', tmp_path / 'whole' / 'f.json'
    for output in (grown, whole):
        output.parent.mkdir()
    assert cli.main(['eval', '--output', str(grown), *few, '--methods', 'uniform,evs', '--keep', '0.1']) == 0
    more = ['--methods', 'mtp,evs', '--keep', '0.25', '--resume']
    assert cli.main(['eval', '--output', str(grown), *few, *more]) == 0
    both = ['--methods', 'uniform,evs,mtp', '--keep', '0.1,0.25']
    assert cli.main(['eval', '--output', str(whole), *few, *both]) == 0
    parts, once = (Hits.load(beside(output, 'ringworld', 'ringworld', '.hits.npz')) for output in (grown, whole))
    assert parts.questions == once.questions
    assert (parts.plan['methods'], parts.plan['keeps']) == (['uniform', 'evs', 'mtp'], [0.1, 0.25])
    asked = {('none', 1.0), ('blind', 1.0), ('uniform', 0.1), ('evs', 0.1), ('mtp', 0.25), ('evs', 0.25)}
    assert {trial[:2] for trial in parts.trials()} == asked
    for trial in parts.trials():
        assert np.array_equal(parts.right(trial), once.right(trial), equal_nan=True)
    [table] = json.loads(grown.read_text())['tables']
    rows = {(row['method'], row['keep']) for row in table['rows']}
    assert rows == asked - {('evs', 0.1)}
    assert list(table['things']['auc']) == ['commonness', 'uniform', 'evs', 'mtp']
    capsys.readouterr()


def test_only_what_a_file_of_answers_lacks_is_asked(tmp_path):
    """Scenes that have every trial, also one that is not defined, are not asked; others only what they lack."""
    asked = []

    @contextmanager
    def ask(source, plan, settings, scenes):
        def result(scene):
            asked.append((scene, list(plan.trials())))
            tried = {trial: [math.nan if trial.method == 'evs' else T] for trial in plan.trials()}
            guessed = {} if BLIND_TRIAL in plan.ran else {BLIND_TRIAL: [F]}
            return [SceneResult(scene, [Asked(scene, 'motion', 'f', 'ego driving')], {**tried, **guessed}, 36)]

        yield map(result, scenes)

    def run(methods, keeps, scenes):
        asked.clear()
        source, plan = RingworldCases(scenes, 900_000), EvaluationPlan(methods, keeps, 1)
        return ask_all(source, plan, Settings(), Silent(), 1, tmp_path / 'f.json', resume=True, evaluating=ask)

    first, second = Trial('evs', 0.1, 0), Trial('mtp', 0.1, 0)
    run(('evs',), (0.1,), 2)
    assert asked == [(900_000, [FULL_TRIAL, first]), (900_001, [FULL_TRIAL, first])]
    run(('evs',), (0.1,), 2)
    assert asked == []
    hits = run(('mtp', 'evs'), (0.1,), 3)
    assert asked == [(900_000, [second]), (900_001, [second]), (900_002, [FULL_TRIAL, second, first])]
    assert hits.plan['methods'] == ['evs', 'mtp']
    assert hits.right(second).tolist() == [1.0, 1.0, 1.0]
    assert hits.right(BLIND_TRIAL).tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(hits.right(first)).all()


def test_an_interrupted_run_says_how_many_scenes_are_finished(tmp_path):
    """Scenes that have other answers from a run before are not counted."""
    full = {trial: [T] for trial in (FULL_TRIAL, BLIND_TRIAL, Trial('mtp', 0.1, 0))}

    @contextmanager
    def ask(source, plan, settings, scenes):
        def results():
            for scene in scenes:
                if Trial('rsp', 0.1, 0) in plan.trials() and scene == 900_001:
                    raise KeyboardInterrupt
                correct = full if not plan.ran else {trial: [T] for trial in plan.trials()}
                yield [SceneResult(scene, [Asked(scene, 'motion', 'f', 'ego driving')], correct, 36)]

        yield results()

    def run(*methods):
        plan = EvaluationPlan(methods, (0.1,), 1)
        ask_all(RingworldCases(3, 900_000), plan, Settings(), Silent(), 1, tmp_path / 'f.json', True, evaluating=ask)

    run('mtp')
    with pytest.raises(Interrupted, match='interrupted after 1 of 3 scenes'):
        run('mtp', 'rsp')
    hits = Hits.load(beside(tmp_path / 'f.json', 'silent', 'ringworld', '.hits.npz'))
    assert [len(results[0].correct) for results in hits.results.values()] == [4, 3, 3]
