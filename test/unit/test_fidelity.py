"""The examination of pruning methods: the same questions for all, honest intervals, sentences for mistakes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.reports import report_in
from helpers.token_rings import ring

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation import fidelity
from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference, flips, recovered
from stprune_ros.evaluation.case import FROZEN_CAMERAS, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.fidelity import EvaluationPlan, SceneEvaluator, ask_all
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL, Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.knobs import KNOBS, TUNED, with_value
from stprune_ros.evaluation.result_file import add_table, beside
from stprune_ros.evaluation.ringworld_cases import RingworldCases
from stprune_ros.evaluation.summary import summarize
from stprune_ros.evaluation.tables import accuracy_cell, by_kind, by_ratio, difference_cell, flips_cell, to_markdown
from stprune_ros.evaluation.variants import FLAGS, VARIANTS, WHOLE, Encoding, config_of, name_of, variant_of
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.resources import resource_path
from stprune_ros.results import write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.loading import DEFAULT_PROMPT
from stprune_ros.vlm.prompt import Prompt


def counted(rows):
    """`SceneCounts` of lists of answers by scene."""
    scenes = [n for n, answers in enumerate(rows.values()) for _ in answers]
    return SceneCounts.of(np.array(scenes), np.array([hit for answers in rows.values() for hit in answers], float))


def test_accuracy_counts_questions():
    counts = counted({1: [True, False], 2: [True, True, True, False]})
    assert counts.questions == 6
    assert counts.accuracy == pytest.approx(4 / 6)


def test_runs_of_what_draws_lots_are_counted_together():
    counts = SceneCounts.of(np.array([0, 0, 1]), np.array([[1, 0, 1], [1, 1, np.nan]]))
    assert (counts.correct.tolist(), counts.asked.tolist()) == ([3, 1], [4, 1])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        _, low, high = accuracy(counted({scene: list(rng.random(5) < 0.7) for scene in range(60)}))
        covered += low <= 0.7 <= high
    assert 50 <= covered <= 60


def test_differences_are_paired_by_scene():
    """Half of the scenes are hard for everybody: unpaired intervals would be wide, paired ones need not be."""
    full = counted({scene: [scene % 2 == 0] * 4 for scene in range(40)})
    pruned = counted({scene: [scene % 2 == 0] * 3 + [False] for scene in range(40)})
    hard = {scene: [scene % 2 == 0] * 4 for scene in range(40)}
    one_less = counted({scene: [not answers[0], *answers[1:]] for scene, answers in hard.items()})
    assert accuracy(full)[2] - accuracy(full)[1] > 0.2
    found = difference(pruned, full)
    assert found[0] == pytest.approx(-0.125)
    assert found[2] - found[1] < 0.1
    assert difference(one_less, full)[0] == 0.0
    assert difference(full, full) == (0, 0, 0)


def test_what_is_recovered_counts_from_guessing():
    full, blind = (
        counted({n: [True, True, True, False] for n in range(9)}),
        counted({n: [True] + [False] * 3 for n in range(9)}),
    )
    half = counted({n: [True, True, False, False] for n in range(9)})
    assert recovered(half, full, blind) == (pytest.approx(0.5),) * 3
    assert recovered(full, full, blind) == (pytest.approx(1.0),) * 3
    assert recovered(blind, full, blind) == (pytest.approx(0.0),) * 3


def test_flips_are_counted_in_both_directions():
    before = np.array([1, 1, 1, 0, 0, np.nan])
    assert flips(np.array([1, 0, 0, 1, 0, 1]), before) == (0.4, 0.2)
    assert flips(np.array([[1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 0, np.nan]]), before) == (0.2, 0.1)


def test_scenes_are_drawn_and_not_questions():
    """Ten scenes all right, ten all wrong: the interval is that of twenty scenes, however many questions each has."""
    few = accuracy(counted({scene: [scene < 10] for scene in range(20)}))
    many = accuracy(counted({scene: [scene < 10] * 50 for scene in range(20)}))
    assert few == many == (0.5, pytest.approx(0.3, abs=0.03), pytest.approx(0.7, abs=0.03))


def test_intervals_are_those_of_a_plain_bootstrap():
    """By its definition: draw scenes with replacement, take the figure, sort, cut 2.5 % at either end."""
    rng = np.random.default_rng(3)
    rows = {scene: [list(rng.random(5) < share) for share in (0.6, 0.9, 0.3)] for scene in range(30)}
    pruned, full, blind = (counted({n: answers[side] for n, answers in rows.items()}) for side in range(3))
    shares, accuracies, differences = [], [], []
    for _ in range(4000):
        drawn = [rows[scene] for scene in rng.integers(30, size=30)]
        mine, whole, guessed = (np.mean([hit for row in drawn for hit in row[side]]) for side in range(3))
        shares.append((mine - guessed) / (whole - guessed))
        differences.append(mine - whole)
        accuracies.append(mine)
    for found, values in (
        (accuracy(pruned), accuracies),
        (difference(pruned, full), differences),
        (recovered(pruned, full, blind), shares),
    ):
        assert found[1:] == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=0.02)
    assert recovered(pruned, full, blind) == recovered(pruned, full, blind)


def answers(**right):
    """Two scenes of two questions and one with frozen cameras; 'none' and 'blind' with the rest at 10 %."""
    asked = [Asked(5, 'motion', 'f', 'ego driving'), Asked(5, 'planning', 'g', 'ego driving')]
    frozen = [Asked(5, 'motion', 'f', 'ego driving', FROZEN_CAMERAS)]
    trials = {'none': FULL_TRIAL, 'blind': BLIND_TRIAL}
    hits = Hits({'default': 'a', 'world': 'ringworld', 'model': ['m', 'r'], 'seeds': 1})
    for n, scene in enumerate((5, 6)):
        correct = {trials.get(name, Trial(name, 0.1, 0)): values[2 * n : 2 * n + 2] for name, values in right.items()}
        here = [question._replace(scene=scene) for question in asked]
        impaired = {trial: values[:1] for trial, values in correct.items() if trial.method in ('none', 'a')}
        there = [question._replace(scene=scene) for question in frozen]
        hits.add(scene, [SceneResult(scene, here, correct, 36), SceneResult(scene, there, impaired, 36)])
    return hits


T, F = True, False


def test_a_table_has_a_row_for_every_method_ratio_and_label():
    table = summarize(answers(none=[T, T, T, F], blind=[F, F, F, F], a=[T, F, T, F], b=[T, T, F, T]))
    assert {key: value for key, value in table.items() if key != 'rows'} == {
        'host': 'm', 'revision': 'r', 'world': 'ringworld', 'scenes': 2, 'first_scene': 5, 'tokens': 36, 'seeds': 1,
        'full': 0.75, 'blind': 0.0,
    }  # fmt: skip
    rows = {(row['method'], row['keep'], row['kind']): row for row in table['rows']}
    labels = {'all', 'motion', 'planning', 'ego driving'}
    cells = {('none', 1.0), ('blind', 1.0), ('a', 0.1), ('b', 0.1)}
    expected = {(*cell, label) for cell in cells for label in labels}
    assert set(rows) == expected | {('none', 1.0, FROZEN_CAMERAS), ('a', 0.1, FROZEN_CAMERAS)}
    row = rows['b', 0.1, 'all']
    assert (row['questions'], row['accuracy'], row['recovered']) == (4, 0.75, 1.0)
    assert (row['lo'], row['hi']) == (0.5, 1.0)
    assert (row['minus_default'], row['minus_lo'], row['minus_hi']) == (0.25, 0.0, 0.5)
    assert (row['right_to_wrong'], row['wrong_to_right']) == (0.25, 0.25)
    assert (rows['a', 0.1, 'all']['recovered'], rows['a', 0.1, 'all']['minus_default']) == (0.6667, 0.0)
    assert rows['none', 1.0, 'motion']['accuracy'] == 1.0
    assert rows['a', 0.1, FROZEN_CAMERAS]['recovered'] is None  # nobody guessed there
    head = ['| method | 10% |', '|---|---|']
    assert by_ratio(table, accuracy_cell).splitlines() == [*head, '| a | 50.0 (67 %) |', '| b | 75.0 (100 %) |']
    assert by_ratio(table, accuracy_cell, FROZEN_CAMERAS).endswith('| a | 100.0 |')
    assert by_ratio(table, difference_cell, leave_out='a').splitlines() == [*head, '| b | +25.0 [+0.0, +50.0] |']
    assert by_ratio(table, flips_cell).splitlines() == [*head, '| a | 25.0 / 0.0 |', '| b | 25.0 / 25.0 |']
    assert by_kind(table).splitlines() == [
        '| at 10% | all | motion | ego driving | planning | frozen cameras |', '|---|---|---|---|---|---|',
        '| questions | 4 | 2 | 4 | 2 | 2 |',
        '| none | 75.0 | 100.0 | 75.0 | 50.0 | 100.0 |', '| blind | 0.0 | 0.0 | 0.0 | 0.0 | n/a |',
        '| a | 50.0 | 100.0 | 50.0 | 0.0 | 100.0 |', '| b | 75.0 | 50.0 | 75.0 | 100.0 | n/a |',
    ]  # fmt: skip
    things = {'scenes': 2, 'separability': 0.8, 'auc': {'commonness': 0.912, 'a': None}}
    shown = to_markdown({**table, 'things': things}, 'a')
    assert shown.count(f'<!-- fidelity {table["host"]}, ringworld: ') == 5
    assert shown.splitlines()[-4:] == [
        '| 2 scenes | AUC for things |', '|---|---|', '| commonness | 0.91 |', '| a | n/a |',
    ]  # fmt: skip


def test_nothing_is_recovered_where_pictures_add_nothing():
    """All tokens answer no more than guessing: a share of that difference would be any number."""
    rows = summarize(answers(none=[T, F, T, F], blind=[F, T, T, F], a=[T, T, T, F], b=[T, T, F, T]))['rows']
    assert {row['recovered'] for row in rows} == {row['recovered_lo'] for row in rows} == {None}
    [row] = [row for row in rows if (row['method'], row['kind']) == ('a', 'all')]
    assert (row['accuracy'], accuracy_cell(row)) == (0.75, '75.0')


def test_one_scene_gives_no_interval():
    alone = answers(none=[T, T, T, T], blind=[F, F, F, F], a=[T, F, T, T], b=[F, F, T, T])
    del alone.results[6]
    rows = summarize(alone)['rows']
    [row] = [row for row in rows if (row['method'], row['kind']) == ('b', 'all')]
    assert (row['accuracy'], row['lo'], row['hi'], row['recovered']) == (0.0, None, None, None)
    assert (row['minus_default'], row['minus_lo'], row['minus_hi']) == (-0.5, None, None)
    assert difference_cell(row) == '-50.0'


def test_every_host_and_world_has_files_of_its_own(tmp_path):
    assert beside(tmp_path / 'f.json', 'org/model', 'hard', '.hits.npz') == tmp_path / 'f.org_model.hard.hits.npz'


def test_a_method_that_is_undefined_at_a_ratio_has_no_figure_there():
    hits = answers(none=[T, T, T, F], blind=[F, F, F, F], a=[T, F, T, F])
    for results in hits.results.values():
        results[0].correct[Trial('evs', 0.5, 0)] = [True, True]
    shown = by_ratio(summarize(hits), accuracy_cell)
    assert '| evs | 100.0 (133 %) | n/a |' in shown


def test_answers_come_back_from_their_file(tmp_path):
    hits = answers(none=[T, T, T, F], blind=[F, F, T, F], a=[T, F, T, F], b=[T, T, F, T])
    hits.save(tmp_path / 'hits.npz')
    back = Hits.load(tmp_path / 'hits.npz')
    assert (back.plan, back.results) == (hits.plan, hits.results)
    assert summarize(back) == summarize(hits)
    assert np.isnan(back.right(Trial('b', 0.1, 0))).tolist() == [False, False, True] * 2
    (tmp_path / 'other').write_text('{}')
    with pytest.raises(StpruneError, match='holds no answers of stprune eval'):
        Hits.load(tmp_path / 'other')


def test_tables_of_other_hosts_and_worlds_stay(tmp_path):
    path, table = tmp_path / 'f.json', {'host': 'm', 'world': 'ringworld', 'rows': [1]}
    write_json(path, add_table(path, 'a', table))
    other = {**table, 'world': 'hard'}
    write_json(path, add_table(path, 'a', other))
    again = {**table, 'rows': [2]}
    assert add_table(path, 'a', again) == {'default': 'a', 'tables': [other, again]}
    with pytest.raises(StpruneError, match='has the default method a, this run b: name another --output'):
        add_table(path, 'b', again)
    path.write_text('[]')
    with pytest.raises(StpruneError, match='is no result of stprune eval'):
        add_table(path, 'a', again)


def test_everything_kept_runs_once_and_lots_are_drawn_per_seed():
    plan = EvaluationPlan(('st_prune', 'random'), (1.0, 0.1), seeds=3)
    assert list(plan.trials()) == [
        ('none', 1.0, 0),
        ('st_prune', 0.1, 0),
        *(('random', 0.1, seed) for seed in range(3)),
    ]


def test_switches_by_name():
    config = config_of('st_prune+keep_one_copy', 0.1, 0, Settings())
    assert (config.method, config.keep_one_copy, config.calibrated_overlap) == ('st_prune', True, False)
    assert config_of('st_prune+one_pays', 0.1, 0, Settings()) == config  # its name of old
    assert config_of('mtp+scaled_terms', 0.1, 0, Settings()).multiplicative_bonus
    everything = config_of('st_prune+all', 0.1, 0, Settings())
    assert all(getattr(everything, flag) for flag in FLAGS)
    assert (everything.budget, everything.gauge_commonness) == ('view', False)
    default = config_of('st_prune_joint+ring+gauge', 0.1, 0, Settings())
    assert (default.budget, default.gauge_commonness, default.skip_frozen) == ('ring', True, False)
    assert config_of('st_prune_joint', 0.1, 0, Settings.from_values({'pruning.budget': 'ring'})).budget == 'view'
    switched_on = Settings.from_values({'pruning.keep_one_copy': True})
    assert not config_of('st_prune', 0.1, 0, switched_on).keep_one_copy  # a name says everything
    switched = [name for name in VARIANTS if not {'all', 'text'} & {*name.split('+')} and '=' not in name]
    assert len(switched) > 12 and all(name_of(config_of(name, 0.1, 0, switched_on)) == name for name in switched)
    shared = Settings.from_values({'pruning.even_share': 0.3})
    assert config_of('st_prune_joint+even', 0.1, 0, shared).even_share == 0.3
    assert config_of('st_prune_joint+even', 0.1, 0, Settings()).even_share == 0.5
    assert config_of('st_prune_joint', 0.1, 0, shared).even_share == 0.0
    with pytest.raises(StpruneError, match="no switch 'warp'"):
        config_of('st_prune+warp', 0.1, 0, Settings())


def test_knobs_and_questions_by_name():
    plain = variant_of('dart', 0.1, 0, Settings())
    assert (plain.config.method, plain.options, plain.reads_question) == ('dart', {}, False)
    both = variant_of('dart+pivots=8', 0.1, 0, Settings())
    assert (both.config, both.options, both.reads_question) == (plain.config, {'pivots': 8}, False)
    asked = variant_of('cdpruner+text', 0.1, 0, Settings())
    assert (asked.config.method, asked.options, asked.reads_question) == ('cdpruner', {}, True)
    ours = variant_of('st_prune_joint+ring+gauge+joint_common=3.6', 0.1, 0, Settings())
    assert (ours.config.joint_common, ours.options, ours.config.ring_budget) == (3.6, {}, True)
    assert config_of('st_prune+lambda_spatial=0.4', 0.1, 0, Settings()).lambda_spatial == 0.4


def test_what_is_encoded_by_name():
    settings = Settings.from_values({'cameras.refresh_ms': 700.0, 'model.side_image_pixels': 9})
    plain = variant_of('dart+pivots=8', 0.1, 0, settings)
    assert plain.encoding == WHOLE == Encoding(0, False)
    for name, encoding in (
        ('dart+pivots=8+refresh', Encoding(700_000_000, False)),
        ('dart+side+pivots=8', Encoding(0, True)),
        ('dart+refresh+pivots=8+side', Encoding(700_000_000, True)),
    ):
        found = variant_of(name, 0.1, 0, settings)
        assert found.encoding == encoding
        assert (found.config, found.options) == (plain.config, plain.options)
    for switch, parameter in (('refresh', 'cameras.refresh_ms'), ('side', 'model.side_image_pixels')):
        with pytest.raises(StpruneError, match=f"'\\+{switch}' in 'dart\\+{switch}' follows {parameter}, which is 0"):
            variant_of(f'dart+{switch}', 0.1, 0, Settings())


@pytest.mark.parametrize('method', KNOBS)
def test_every_value_of_a_knob_has_a_name_and_reaches_its_formula(method):
    knob = KNOBS[method]
    assert knob.authors == knob.values[0] and len(set(knob.values)) == len(knob.values) > 1
    assert with_value(method, knob.authors) == method
    assert TUNED.get(method, knob.authors) in knob.values
    variants = [variant_of(with_value(method, value), 0.35, 0, Settings()) for value in knob.values]
    if hasattr(variants[0].config, knob.parameter):
        configs = [variant.config.for_model(2.4) for variant in variants]  # as the bundled model asks
        assert [getattr(config, knob.parameter) for config in configs] == [*knob.values]
        return
    views = ring(views=3, frames=5, rows=6, columns=8, dim=6)
    kept = [
        [mask.tolist() for mask in SpatioTemporalPruner(variant.config, options=variant.options)(views, 5)]
        for variant in variants
    ]
    assert any(masks != kept[0] for masks in kept[1:])


def test_a_context_of_its_own_for_each_question_where_pruning_reads_it():
    evaluator = SceneEvaluator(RingworldCases(1, 900_000), EvaluationPlan((), (0.05,), 1), Settings())
    scene, cases = next(by_scene(evaluator.source.cases(900_000)))
    cases = [case for n, case in enumerate(cases) if case.question not in {before.question for before in cases[:n]}][:4]
    encoded = EncodedScene.encode(scene, evaluator.backend)
    variant, trial = variant_of('cdpruner+text', 0.05, 0, Settings()), Trial('cdpruner+text', 0.05, 0)
    expected, masks = [], []
    for case in cases:
        options = {'question': evaluator.backend.embed(case.question)}
        masks.append(torch.stack(encoded.keep_masks(variant.config, options)))
        context = encoded.prefill(variant.config, evaluator.backend, evaluator.prompt, options)
        expected.append(choose_answers(evaluator.backend, context, [case])[0])
    assert not any(torch.equal(masks[0], other) for other in masks[1:])
    assert evaluator._answers(encoded, variant, cases) == expected
    right = [answer == case.answer for answer, case in zip(expected, cases)]
    assert evaluator._correct(scene, encoded, cases, [trial]) == {trial: right}


def test_a_model_without_embeddings_is_refused_before_anything_runs(tmp_path, monkeypatch):
    class Silent:
        info = ModelInfo('silent', '', '', True, 'cpu', 'float32')

    def asked(method):
        plan, prompt = EvaluationPlan((method,), (0.1,), 1), Prompt.load(resource_path(DEFAULT_PROMPT))
        ask_all(RingworldCases(1, 900_000), plan, Settings(), Silent(), prompt, 1, tmp_path / 'found.json')

    monkeypatch.setattr(fidelity, 'Hits', raising('it runs'))
    with pytest.raises(StpruneError, match='it runs'):
        asked('dart')
    with pytest.raises(StpruneError, match="model 'silent' does not give embeddings of a question: omit 'dart.text'"):
        asked('dart+text')


def raising(sentence):
    def fail(*_):
        raise StpruneError(sentence)

    return fail


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('fastest', "no pruning method 'fastest'"),
        ('mtp+x', "no switch 'x'"),
        ('tfps+text', "'tfps' reads no question; '+text' is for dart, cdpruner, mvpruner"),
        ('divprune+k=2', "method 'divprune' has no knob 'k'; it has none"),
        ('dart+sign=1', "method 'dart' has no knob 'sign'; it has pivots"),
        ('dart+pivots=3', "'3' was never tried for pivots of 'dart'; choose from 4, 1, 2, 8, 16"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path, capsys, name, sentence):
    assert cli.main(['eval', '--output', str(tmp_path / 'e.json'), '--methods', name, '--scenes', '1']) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_examination_of_the_bundled_model(tmp_path, capsys):
    output = tmp_path / 'fidelity.json'
    chosen = ['--methods', 'st_prune_joint,random,evs', '--keep', '0.1', '--seeds', '2', '--first-seed', '1010000']
    assert cli.main(['eval', '--output', str(output), *chosen, '--scenes', '2']) == 0
    hits_file = beside(output, 'ringworld', 'ringworld', '.hits.npz')
    before = Hits.load(hits_file)
    assert cli.main(['eval', '--output', str(output), *chosen, '--scenes', '12', '--resume']) == 0
    hits = Hits.load(hits_file)
    assert list(hits.results) == list(range(1_010_000, 1_010_012))
    assert {scene: hits.results[scene] for scene in before.results} == before.results
    result = json.loads(output.read_text())
    [table] = result['tables']
    facts = (table['scenes'], table['first_scene'], table['tokens'], table['world'], table['host'])
    assert facts == (12, 1_010_000, 1440, 'ringworld', 'ringworld')
    rows = {(row['method'], row['keep'], row['kind']): row for row in table['rows']}
    for method in ('st_prune_joint', 'random'):
        assert rows[method, 0.1, 'all']['questions'] == 120 * (2 if method == 'random' else 1)
    # With all tokens the bundled model answers far better than without pictures: the intervals are apart.
    assert rows['none', 1.0, 'all']['lo'] > rows['blind', 1.0, 'all']['hi']
    # And what is chosen with care answers far more than what is drawn by lot.
    assert rows['st_prune_joint', 0.1, 'all']['lo'] > rows['random', 0.1, 'all']['hi']
    assert rows['st_prune_joint', 0.1, FROZEN_CAMERAS]['questions'] > 100
    assert not any(method == 'evs' for method, _, _ in rows)  # undefined below one frame of four
    assert result['default'] == name_of(config_of(result['default'], 0.1, 0, Settings()))
    for row in table['rows']:
        assert row['lo'] <= row['accuracy'] <= row['hi']
    assert beside(output, 'ringworld', 'ringworld', '.png').stat().st_size > 10_000
    assert '| st_prune_joint |' in capsys.readouterr().out
    another = ['--methods', 'uniform', '--scenes', '1', '--seeds', '3', '--resume']
    assert cli.main(['eval', '--output', str(output), *another]) == 1
    assert 'holds answers to another plan' in capsys.readouterr().err


def test_answers_to_other_questions_are_not_put_together():
    hits = answers(none=[T, T, T, F], blind=[F, F, F, F], a=[T, F, T, F])
    whole, frozen = hits.results[5]
    other = replace(whole, questions=[question._replace(form='h') for question in whole.questions])
    with pytest.raises(StpruneError, match='scene 5 has other questions than when its first answers were given'):
        hits.add(5, [other, frozen])
    hits.add(5, [replace(whole, correct={Trial('c', 0.1, 0): [T, F]}), replace(frozen, correct={})])
    assert hits.right(Trial('c', 0.1, 0))[:2].tolist() == [1.0, 0.0]
    assert hits.right(Trial('a', 0.1, 0))[:2].tolist() == [1.0, 0.0]


def test_a_small_examination_in_each_world(tmp_path, capsys):
    """Tables, answers and plots of both worlds stand side by side, and the hard one is harder to see."""
    output = tmp_path / 'fidelity.json'
    chosen = ['--methods', 'st_prune_joint,uniform', '--keep', '0.1', '--scenes', '3', '--first-seed', '1010000']
    for world in ('ringworld', 'hard'):
        chosen_here = [*chosen, '--world', world, '--host', 'ringworld', '--workers', '1']
        assert cli.main(['eval', '--output', str(output), *chosen_here, '--json']) == 0
        told = capsys.readouterr()
        assert report_in(told.out, 'eval')['result']['table'] == json.loads(output.read_text())['tables'][-1]
        assert '| commonness |' in told.err
        assert beside(output, 'ringworld', world, '.png').exists()
    tables = {table['world']: table for table in json.loads(output.read_text())['tables']}
    assert list(tables) == ['ringworld', 'hard']
    things = {world: table['things'] for world, table in tables.items()}
    assert all(found['scenes'] == 3 for found in things.values())
    assert list(things['hard']['auc']) == ['commonness', 'st_prune_joint', 'uniform']
    assert things['hard']['auc']['commonness'] < things['ringworld']['auc']['commonness'] - 0.05
    assert things['ringworld']['auc']['st_prune_joint'] > 0.8 > things['ringworld']['auc']['uniform']
    kept = {world: Hits.load(beside(output, 'ringworld', world, '.hits.npz')) for world in tables}
    assert [hits.plan['world'] for hits in kept.values()] == list(tables)
    assert kept['hard'].questions != kept['ringworld'].questions
