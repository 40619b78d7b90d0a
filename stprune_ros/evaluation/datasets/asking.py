"""Ask a model every question of a set under every trial: a moment is encoded once, prefilled once per trial."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from tqdm import tqdm

from stprune_ros.errors import Interrupted, ModelError, StpruneError
from stprune_ros.evaluation.case import Case
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.fidelity import SEED_STRIDE
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL, FULL_TRIAL, Trial
from stprune_ros.evaluation.variants import WHOLE_FIRST_FRAME, Encoding, Variant, variant_of
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, Context, ModelInfo, TextEmbedder
from stprune_ros.vlm.parsing import clean_text
from stprune_ros.vlm.prompt import Prompt

BATCH = 16  # questions with candidates that are asked in one pass, and written down behind it


Said = tuple[AnswerKey, SetAnswer]
FaultRow = tuple[str, str, int]  # as of `Faults.rows`
UNUSABLE = 'questions left out, a picture cannot be used'


@dataclass(frozen=True, slots=True)
class OpenMoment:
    """What is to be asked about a moment: the ids of questions by trial."""

    moment: Moment
    ids: Mapping[Trial, Sequence[str]]

    @property
    def count(self) -> int:
        """How many answers are open."""
        return sum(map(len, self.ids.values()))


@dataclass(frozen=True, slots=True)
class MomentSaid:
    """What was said about a moment.

    ``pictures`` is what is wrong with those that could be left out, None where one could not; ``faults`` is all that is
    wrong, complete when all that was said has been taken.
    """

    asked: OpenMoment
    pictures: list[FaultRow] | None
    said: Iterable[Said]
    faults: Faults


def ask_all(asking: Asking, trials: Sequence[Trial], file: AnswerFile, answering: Answering) -> int:
    """Ask what the file has no answer to, and return how many answers were added.

    Raises Interrupted on Ctrl-C; what was answered is in the file then.
    """
    dataset, before = asking.dataset, len(file.answers)
    moments = asking.open_moments(trials, file.answers)
    total, left = len(dataset.questions) * len(trials), sum(one.count for one in moments)
    faults: dict[int, Faults] = {}  # by moment
    try:
        with (
            tqdm(total=total, initial=total - left, unit='answer', desc='questions', disable=None) as progress,
            answering(asking, moments) as answered,
        ):
            for one in answered:
                faults[one.asked.moment.id] = one.faults
                if one.pictures is not None:  # they are in the file before the first answer is
                    file.add_faults(one.asked.moment.questions[0].id, one.pictures)
                for key, answer in one.said:
                    file.add(key, answer)
                progress.update(one.asked.count)
    except KeyboardInterrupt:
        raise _interruption(file) from None
    finally:
        for moment in dataset.moments:  # in their order, whichever was asked about first
            dataset.faults.take(faults[moment.id].rows if moment.id in faults else _known(file, moment))
    return len(file.answers) - before


def _known(file: AnswerFile, moment: Moment) -> list[FaultRow]:
    """What the file says of a moment whose pictures are not loaded again."""
    return file.faults.get(moment.questions[0].id, []) if moment.questions else []


def _interruption(file: AnswerFile) -> Interrupted:
    if not file.answers:
        return Interrupted('interrupted before the first answer was given', {})
    return Interrupted(
        f"interrupted after {len(file.answers)} answers: they are in '{file.path}', where --resume goes on",
        {'files': [file.path]},
    )


def instructed(prompt: Prompt, dataset: Dataset, info: ModelInfo) -> Prompt:
    """The prompt with what the set says of its notation; a model of one domain knows no other words than its own."""
    if info.domain:
        return prompt
    return replace(prompt, system=f'{prompt.system}\n{dataset.instructions}'.strip())


@dataclass(frozen=True, slots=True)
class Asking:
    """A model that is asked about a set; ``prompt`` has the set's instructions."""

    dataset: Dataset
    settings: Settings
    backend: Backend
    prompt: Prompt

    def open_moments(self, trials: Sequence[Trial], answered: Collection[AnswerKey]) -> list[OpenMoment]:
        """What of the set is not ``answered``, moment by moment: none of which nothing is open."""
        found = []
        for moment in self.dataset.moments:
            ids = {
                trial: [one.id for one in moment.questions if AnswerKey(one.id, trial) not in answered]
                for trial in trials
                if self._is_defined(trial, moment)
            }
            found.append(OpenMoment(moment, {trial: left for trial, left in ids.items() if left}))
        return [one for one in found if one.ids]

    def _is_defined(self, trial: Trial, moment: Moment) -> bool:
        """Some methods always keep a whole image."""
        method = self._variant(trial, moment.id).config.method
        return method not in WHOLE_FIRST_FRAME or trial.keep * len(moment.egos) >= 1

    def _variant(self, trial: Trial, scene_id: int) -> Variant:
        method = FULL if trial == BLIND_TRIAL else trial.method
        return variant_of(method, trial.keep, trial.seed * SEED_STRIDE + scene_id, self.settings)

    def about(self, asked: OpenMoment) -> MomentSaid:
        """Load a moment; what is open is asked as it is taken. Where a picture cannot be used that is counted."""
        faults, pictures = Faults(), Faults()
        try:
            cases = self.dataset.cases_about(asked.moment, pictures)
        except StpruneError as error:
            faults.add(UNUSABLE, str(error), len(asked.moment.questions))
            return MomentSaid(asked, None, (), faults)
        faults.take(pictures.rows)
        return MomentSaid(asked, pictures.rows, self._answers(asked, cases, faults), faults)

    def _answers(self, asked: OpenMoment, cases: Sequence[Case], faults: Faults) -> Iterator[Said]:
        moment = asked.moment
        encoded: dict[tuple[bool, Encoding], EncodedScene] = {}
        try:
            for trial in asked.ids:
                key = trial == BLIND_TRIAL, self._variant(trial, moment.id).encoding
                if key not in encoded:
                    shown = cases[0].scene.with_grey_images() if key[0] else cases[0].scene
                    encoded[key] = EncodedScene.encode(shown, self.backend, key[1])
        except StpruneError as error:
            faults.add(UNUSABLE, str(error), len(moment.questions))
            return
        closed = {case.id for case in cases if case.candidates and self._can_choose(case)}
        for trial, ids in asked.ids.items():
            variant = self._variant(trial, moment.id)
            scene = encoded[trial == BLIND_TRIAL, variant.encoding]
            tokens = sum(view.count for view in scene.views)
            for context, group in self._contexts(scene, variant, [case for case in cases if case.id in ids]):
                yield from self._answer(context, group, closed, trial, tokens, faults)

    def _contexts(
        self, encoded: EncodedScene, variant: Variant, cases: Sequence[Case]
    ) -> Iterator[tuple[Context, Sequence[Case]]]:
        """Prefilled prompts and the questions to ask of each: one of its own where pruning reads the question."""
        if not variant.reads_question:
            yield encoded.prefill(variant.config, self.backend, self.prompt, variant.options), cases
            return
        assert isinstance(self.backend, TextEmbedder)
        for case in cases:
            options = {**variant.options, 'question': self.backend.embed(case.question)}
            yield encoded.prefill(variant.config, self.backend, self.prompt, options), [case]

    def _answer(
        self,
        context: Context,
        cases: Sequence[Case],
        closed: Collection[str],
        trial: Trial,
        tokens: int,
        faults: Faults,
    ) -> Iterator[Said]:
        """Have candidates chosen for the ``closed`` ones, by their ids, and texts written for the others."""
        choices = [case for case in cases if case.id in closed]
        for start in range(0, len(choices), BATCH):
            batch = choices[start : start + BATCH]
            for case, answer in zip(batch, choose_answers(self.backend, context, batch), strict=True):
                yield AnswerKey(case.id, trial), SetAnswer(answer, False, True, tokens)
        for case in cases:
            if case.id not in closed:
                yield from self._write(context, case, trial, tokens, faults)

    def _write(self, context: Context, case: Case, trial: Trial, tokens: int, faults: Faults) -> Iterator[Said]:
        """Have a text written; a question that the model cannot take, as with a mark of an image in it, is counted."""
        try:
            said = self.backend.generate(context, case.question, self.settings.inference.max_new_tokens)
        except ModelError as error:
            if trial == FULL_TRIAL:
                faults.add('questions left out, the model does not take them', f'{case.id}: {error}')
            return
        text, _ = clean_text(said.text)
        yield AnswerKey(case.id, trial), SetAnswer(text, not said.finished, False, tokens)

    def _can_choose(self, case: Case) -> bool:
        """Whether the model has words for the candidates; else it writes, as to any other question."""
        try:
            self.backend.check_candidates(case.question, case.candidates)
        except ModelError:
            return False
        return True


# Where moments are asked about: what was said about each of them, in any order, within the context.
Answering = Callable[[Asking, Sequence[OpenMoment]], AbstractContextManager[Iterable[MomentSaid]]]


def one_by_one(asking: Asking, moments: Sequence[OpenMoment]) -> AbstractContextManager[Iterable[MomentSaid]]:
    """Ask in this process; an answer comes as soon as it was given."""
    return nullcontext(map(asking.about, moments))
