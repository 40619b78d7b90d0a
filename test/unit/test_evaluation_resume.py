"""An evaluation that goes on: what a file of answers lacks is asked, and nothing else."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from stprune_ros import cli
from stprune_ros.errors import Interrupted, ModelError, StpruneError
from stprune_ros.evaluation import fidelity
from stprune_ros.evaluation.asked_model import AskedModel
from stprune_ros.evaluation.fidelity import EvaluationPlan, SceneEvaluator, ask_all, evaluate_methods
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL, Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.result_file import beside
from stprune_ros.evaluation.ringworld_cases import RingworldCases
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.loading import DEFAULT_PROMPT, load_model
from stprune_ros.vlm.prompt import Prompt

PROMPT = Prompt.load(resource_path(DEFAULT_PROMPT))
LLAMA = {'model.engine': 'llama.cpp', 'model.gguf': 'm.gguf'}
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
        assert plan.model == AskedModel('silent', '', 'float32', PROMPT.id, None)

        def result(scene):
            asked.append((scene, list(plan.trials())))
            tried = {trial: [math.nan if trial.method == 'evs' else T] for trial in plan.trials()}
            guessed = {} if BLIND_TRIAL in plan.ran else {BLIND_TRIAL: [F]}
            return [SceneResult(scene, [Asked(scene, 'motion', 'f', 'ego driving')], {**tried, **guessed}, 36)]

        yield map(result, scenes)

    def run(methods, keeps, scenes):
        asked.clear()
        source, plan = RingworldCases(scenes, 900_000), EvaluationPlan(methods, keeps, 1)
        return ask_all(source, plan, Settings(), Silent(), PROMPT, 1, tmp_path / 'f.json', resume=True, evaluating=ask)

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


@contextmanager
def all_right(source, plan, settings, scenes):
    """Every trial of every scene answered right, and grey images wrong."""

    def result(scene):
        guessed = {} if BLIND_TRIAL in plan.ran else {BLIND_TRIAL: [F]}
        correct = {**{trial: [T] for trial in plan.trials()}, **guessed}
        return [SceneResult(scene, [Asked(scene, 'motion', 'f', 'ego driving')], correct, 36)]

    yield map(result, scenes)


def asked_all_right(
    output, methods, scenes=1, first=900_000, keeps=(0.1,), seeds=1, settings=None, backend=None, prompt=PROMPT
):
    source, plan = RingworldCases(scenes, first), EvaluationPlan(methods, keeps, seeds)
    model = backend or Silent(), prompt
    return ask_all(source, plan, settings or Settings(), *model, 1, output, resume=True, evaluating=all_right)


@pytest.mark.parametrize(('scenes', 'first', 'both'), [(1, 900_001, 1), (2, 900_004, 0), (4, 900_001, 3)])
def test_a_file_about_other_scenes_is_refused(tmp_path, scenes, first, both):
    """Their table would be replaced by one of fewer scenes, or of others."""
    output = tmp_path / 'f.json'
    asked_all_right(output, ('mtp',), scenes=4)
    sentence = f'holds answers about 4 scenes, 900000 to 900003, of which this run asks {both}: ask all of them with'
    with pytest.raises(StpruneError, match=sentence):
        asked_all_right(output, ('rsp',), scenes=scenes, first=first)
    kept = Hits.load(beside(output, 'silent', 'ringworld', '.hits.npz'))
    assert [*kept.results] == [900_000, 900_001, 900_002, 900_003]
    assert [*asked_all_right(output, ('rsp',), scenes=6).results] == [*range(900_000, 900_006)]


def test_rows_are_over_the_same_scenes(tmp_path, monkeypatch):
    """What an earlier run asked about fewer scenes is in no table, and that is said; its answers stay."""
    output, said = tmp_path / 'f.json', []
    asked_all_right(output, ('mtp', 'evs'), scenes=2, keeps=(0.1, 0.5))
    monkeypatch.setattr(fidelity, 'load_model', lambda *_: (Silent(), PROMPT))
    monkeypatch.setattr(fidelity, 'measure_things', lambda source, scenes, methods, *_: list(methods))
    found = evaluate_methods(
        RingworldCases(4, 900_000),
        EvaluationPlan(('rsp', 'mtp'), (0.1,), 1),
        Settings(),
        1,
        output,
        resume=True,
        say=said.append,
        evaluating=all_right,
    )
    rows = {(row['method'], row['keep']): row['questions'] for row in found['rows'] if row['kind'] == 'all'}
    assert rows == {('none', 1.0): 4, ('blind', 1.0): 4, ('mtp', 0.1): 4, ('rsp', 0.1): 4}
    assert found['things'] == ['mtp', 'rsp']
    [sentence] = said
    assert sentence.startswith(
        "'mtp', 'evs' were not asked about all 4 scenes at every ratio, and the table leaves out"
    )
    kept = Hits.load(beside(output, 'silent', 'ringworld', '.hits.npz'))
    assert kept.right(Trial('mtp', 0.5, 0))[:2].tolist() == [1.0, 1.0]
    whole, partial = kept.complete()
    assert set(partial) == {Trial('mtp', 0.5, 0), Trial('evs', 0.1, 0), Trial('evs', 0.5, 0)}
    assert whole.complete() == (whole, [])


@pytest.mark.parametrize(('first', 'then'), [(('mtp',), ('mtp+side',)), (('mtp+side',), ('mtp',))])
def test_methods_that_encode_less_are_added_as_others_are(tmp_path, first, then):
    settings = Settings.from_values({'model.side_image_pixels': 7680})
    asked_all_right(tmp_path / 'f.json', first, settings=settings)
    hits = asked_all_right(tmp_path / 'f.json', then, settings=settings)
    assert hits.plan['methods'] == [*first, *then]
    assert hits.plan['side_image_pixels'] == 7680
    fewer = Settings.from_values({'model.side_image_pixels': 3840})
    with pytest.raises(StpruneError, match='there side_image_pixels is 7680, here it is 3840: name another --output'):
        asked_all_right(tmp_path / 'f.json', ('rsp+side',), settings=fewer)
    asked_all_right(tmp_path / 'f.json', ('rsp',), settings=fewer)  # of which these pixels are none


@pytest.mark.parametrize(('first', 'then'), [('mtp', 'st_prune_joint+even'), ('st_prune_joint+even', 'mtp')])
def test_an_even_share_is_that_of_all_answers_in_a_file(tmp_path, first, then):
    third, half = (Settings.from_values({'pruning.even_share': share}) for share in (0.3, 0.5))
    asked_all_right(tmp_path / 'f.json', (first,), settings=third)
    assert asked_all_right(tmp_path / 'f.json', (then,), settings=third).plan['even_share'] == 0.3
    for settings in (half, Settings()):  # which gives half, too, to methods that ask for it
        with pytest.raises(StpruneError, match='there even_share is 0.3, here it is 0.5: name another --output'):
            asked_all_right(tmp_path / 'f.json', ('st_prune_staged+even',), settings=settings)
        asked_all_right(tmp_path / 'f.json', ('rsp',), settings=settings)  # of which it is none


def test_another_plan_is_refused_with_what_differs(tmp_path):
    output = tmp_path / 'f.json'
    asked_all_right(output, ('mtp',))
    file = beside(output, 'silent', 'ringworld', '.hits.npz')
    asking = SimpleNamespace(info=replace(Silent.info, joint_common=2.4))
    halved = SimpleNamespace(info=replace(Silent.info, dtype='float16'))
    llama, small = (Settings.from_values(values) for values in (LLAMA, {'model.max_image_pixels': 4096}))
    for given, difference in (
        ({'seeds': 3}, 'there seeds is 1, here it is 3'),
        ({'backend': asking}, 'there joint_common is 0.0, here it is 2.4'),
        ({'settings': Settings.from_values({'pruning.joint_recency': 0.5})}, 'there joint_recency is 1.0, here it is'),
        ({'backend': halved}, "there dtype is 'float32', here it is 'float16'"),
        ({'prompt': replace(PROMPT, id='other')}, f"there prompt is '{PROMPT.id}', here it is 'other'"),
        ({'settings': llama}, "there model.engine is 'transformers', here it is 'llama.cpp'"),
        ({'settings': small}, 'there model.max_image_pixels is 0, here it is 4096'),
    ):
        with pytest.raises(StpruneError) as error:
            asked_all_right(output, ('mtp',), **given)
        assert str(error.value).startswith(f"'{file}' holds answers to another plan, {difference}")
    hits = Hits.load(file)
    del hits.plan['weights']  # as the release before wrote it
    hits.save(file)
    with pytest.raises(StpruneError, match='there lambda_temporal is not said, here it is 0.6: name another --output'):
        asked_all_right(output, ('mtp',))


@pytest.mark.parametrize(
    ('plan', 'reason'),
    [
        ([], 'its plan is no mapping'),
        (None, 'its plan is no mapping'),
        ({'methods': 3}, 'its methods are no list'),
        ({'methods': ['a'], 'keeps': [[0.1]]}, 'its keeps are no list'),
    ],
)
def test_a_file_without_a_plan_holds_no_answers(tmp_path, plan, reason):
    file = tmp_path / 'f.hits.npz'
    Hits(plan).save(file)
    with pytest.raises(StpruneError) as error:
        Hits.load(file)
    assert str(error.value) == f"'{file}' holds no answers of stprune eval: {reason}"


def test_a_result_with_another_default_is_refused_before_anything_is_asked(tmp_path):
    output = tmp_path / 'f.json'
    output.write_text(json.dumps({'default': 'rsp', 'tables': []}))
    source, plan = RingworldCases(1, 900_000), EvaluationPlan(('mtp',), (0.1,), 1)

    def never(*_):
        raise AssertionError('asked')

    with pytest.raises(StpruneError, match='has the default method rsp, this run st_prune_joint'):
        evaluate_methods(source, plan, Settings(), 1, output, evaluating=never)


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
        source, plan = RingworldCases(3, 900_000), EvaluationPlan(methods, (0.1,), 1)
        ask_all(source, plan, Settings(), Silent(), PROMPT, 1, tmp_path / 'f.json', True, evaluating=ask)

    run('mtp')
    with pytest.raises(Interrupted, match='interrupted after 1 of 3 scenes'):
        run('mtp', 'rsp')
    hits = Hits.load(beside(tmp_path / 'f.json', 'silent', 'ringworld', '.hits.npz'))
    assert [len(results[0].correct) for results in hits.results.values()] == [4, 3, 3]


@pytest.mark.parametrize('field', AskedModel._fields)
def test_a_worker_with_another_model_answers_nothing(field):
    backend, prompt = load_model(Settings())
    model = AskedModel.of(backend.info, prompt)
    plan, source = EvaluationPlan(('mtp',), (0.1,), 1, model=model), RingworldCases(1, 900_000)
    assert SceneEvaluator(source, plan, Settings()).plan.model == model
    wanted, found = model._replace(**{field: 'other'}), getattr(model, field)
    with pytest.raises(ModelError, match=f"a worker has {field} '?{found}'?, and this command 'other': use one model"):
        SceneEvaluator(source, replace(plan, model=wanted), Settings())


def test_answers_of_an_earlier_run_are_not_written_over(tmp_path):
    file = beside(tmp_path / 'f.json', 'silent', 'ringworld', '.hits.npz')
    file.write_bytes(b'hours of work')
    with pytest.raises(StpruneError, match='holds answers of an earlier run: add --resume to go on with them, or rem'):
        ask_all(
            RingworldCases(1, 900_000),
            EvaluationPlan(('mtp',), (0.1,), 1),
            Settings(),
            Silent(),
            PROMPT,
            1,
            tmp_path / 'f.json',
        )
    assert file.read_bytes() == b'hours of work'
