"""The examination of pruning methods: the same questions for all, honest intervals, sentences for mistakes."""

import json

import numpy as np
import pytest

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy_interval, relative_accuracy
from stprune_ros.evaluation.case import FROZEN_CAMERAS
from stprune_ros.evaluation.fidelity import SWITCHES, VARIANTS, EvaluationPlan, config_of, name_of, to_markdown
from stprune_ros.settings.settings import Settings


def counted(rows):
    counts = SceneCounts()
    for scene, hits in rows.items():
        for hit in hits:
            counts.add(scene, hit)
    return counts


def test_accuracy_counts_questions():
    counts = counted({1: [True, False], 2: [True, True, True, False]})
    assert counts.questions == 6
    assert counts.accuracy == pytest.approx(4 / 6)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        low, high = accuracy_interval(counted({scene: list(rng.random(5) < 0.7) for scene in range(60)}))
        covered += low <= 0.7 <= high
    assert 50 <= covered <= 60


def test_relative_accuracy_is_paired_by_scene():
    """Half of the scenes are hard for everybody: unpaired intervals would be wide, paired ones need not be."""
    full = counted({scene: [scene % 2 == 0] * 4 for scene in range(40)})
    pruned = counted({scene: [scene % 2 == 0] * 3 + [False] for scene in range(40)})
    relative, low, high = relative_accuracy(pruned, full)
    assert (relative, low, high) == (pytest.approx(0.75), pytest.approx(0.75), pytest.approx(0.75))


def test_scenes_are_drawn_and_not_questions():
    """Ten scenes all right, ten all wrong: the interval is that of twenty scenes, however many questions each has."""
    few = accuracy_interval(counted({scene: [scene < 10] for scene in range(20)}))
    many = accuracy_interval(counted({scene: [scene < 10] * 50 for scene in range(20)}))
    assert few == many == (pytest.approx(0.3, abs=0.03), pytest.approx(0.7, abs=0.03))


def test_intervals_are_those_of_a_plain_bootstrap():
    """By its definition: draw scenes with replacement, take the ratio of accuracies, sort, cut 2.5 % at either end."""
    rng = np.random.default_rng(3)
    rows = {scene: (list(rng.random(3) < 0.6), list(rng.random(5) < 0.9)) for scene in range(30)}
    pruned, full = counted({n: a for n, (a, _) in rows.items()}), counted({n: b for n, (_, b) in rows.items()})
    ratios, accuracies = [], []
    for _ in range(4000):
        drawn = [rows[scene] for scene in rng.integers(30, size=30)]
        mine, whole = (np.mean([hit for row in drawn for hit in row[side]]) for side in (0, 1))
        ratios.append(mine / whole)
        accuracies.append(mine)
    relative, low, high = relative_accuracy(pruned, full)
    assert relative == pytest.approx(pruned.accuracy / full.accuracy)
    assert (low, high) == pytest.approx(np.percentile(ratios, (2.5, 97.5)), abs=0.02)
    assert accuracy_interval(pruned) == pytest.approx(np.percentile(accuracies, (2.5, 97.5)), abs=0.02)
    assert relative_accuracy(pruned, full) == relative_accuracy(pruned, full)


def test_relative_accuracy_leaves_out_scenes_that_were_not_pruned():
    full = counted({1: [True], 2: [True], 3: [False] * 8})
    pruned = counted({1: [True], 2: [True]})
    assert relative_accuracy(pruned, full)[1:] == (1.0, 1.0)


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
    assert all(getattr(config_of('st_prune+all', 0.1, 0, Settings()), switch) for switch in SWITCHES)
    switched_on = Settings.from_values({'pruning.keep_one_copy': True})
    assert not config_of('st_prune', 0.1, 0, switched_on).keep_one_copy  # a name says everything
    assert all(name_of(config_of(name, 0.1, 0, switched_on)) == name for name in VARIANTS if 'all' not in name)
    with pytest.raises(StpruneError, match="no switch 'warp'"):
        config_of('st_prune+warp', 0.1, 0, Settings())


@pytest.mark.parametrize(('name', 'sentence'), [('fastest', "no pruning method 'fastest'"), ('mtp+x', "no switch 'x'")])
def test_mistakes_end_in_a_sentence(tmp_path, capsys, name, sentence):
    assert cli.main(['eval', '--output', str(tmp_path / 'e.json'), '--methods', name, '--scenes', '1']) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_examination_of_the_bundled_model(tmp_path, capsys):
    output = tmp_path / 'fidelity.json'
    arguments = ['--methods', 'st_prune_joint,random', '--keep', '1,0.1', '--scenes', '12', '--seeds', '2']
    assert cli.main(['eval', '--output', str(output), *arguments]) == 0
    result = json.loads(output.read_text())
    rows = {(row['method'], row['keep'], row['kind']): row for row in result['rows']}
    assert result['scenes'] == 12
    for method in ('st_prune_joint', 'random'):
        assert rows[method, 1.0, 'all']['relative'] == 1
        assert rows[method, 0.1, 'all']['questions'] == 120 * (2 if method == 'random' else 1)
    # With all tokens the bundled model answers far better than without pictures: the intervals are apart.
    assert rows['st_prune_joint', 1.0, 'all']['lo'] > rows['blind', 1.0, 'all']['hi']
    # And what is chosen with care answers far more than what is drawn by lot.
    assert rows['st_prune_joint', 0.1, 'all']['lo'] > rows['random', 0.1, 'all']['hi']
    assert rows['st_prune_joint', 0.1, FROZEN_CAMERAS]['questions'] > 100
    assert result['default'] == name_of(config_of(result['default'], 0.1, 0, Settings()))
    for row in result['rows']:
        assert row['lo'] <= row['accuracy'] <= row['hi']
    assert output.with_suffix('.png').stat().st_size > 10_000
    assert '| st_prune_joint |' in capsys.readouterr().out
    assert to_markdown(result).count('\n') == 3
