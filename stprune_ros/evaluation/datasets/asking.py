"""Ask a model every question of a set under every trial: a moment is encoded once, prefilled once per trial."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from stprune_ros.errors import Interrupted, ModelError, StpruneError
from stprune_ros.evaluation.case import Case
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.fidelity import BLIND_TRIAL, FULL_TRIAL, SEED_STRIDE
from stprune_ros.evaluation.hits import Trial
from stprune_ros.evaluation.variants import WHOLE_FIRST_FRAME, Encoding, Variant, variant_of
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, Context, TextEmbedder
from stprune_ros.vlm.parsing import clean_text
from stprune_ros.vlm.prompt import Prompt

BATCH = 16  # questions with candidates that are asked in one pass, and written down behind it
ALL_TOKENS = 'none'


@dataclass
class Asking:
    """A model that is asked about a set; ``prompt`` has the set's instructions."""

    dataset: Dataset
    settings: Settings
    backend: Backend
    prompt: Prompt
    file: AnswerFile

    def ask(self, trials: Sequence[Trial]) -> int:
        """Ask what the file has no answer to, and return how many answers were added.

        Raises Interrupted on Ctrl-C; what was answered is in the file then.
        """
        before, total = len(self.file.answers), len(self.dataset.questions) * len(trials)
        try:
            with tqdm(total=total, unit='answer', desc='questions', disable=None) as progress:
                for moment in self.dataset.moments:
                    if not moment.questions:
                        continue
                    ids = [question.id for question in moment.questions]
                    defined = [trial for trial in trials if self._is_defined(trial, moment)]
                    open_ids = {trial: [i for i in ids if self._is_open(i, trial)] for trial in defined}
                    if any(open_ids.values()):
                        self._ask_about(moment, open_ids)
                    else:  # its pictures are not loaded again
                        self.dataset.faults.take(self.file.faults.get(ids[0], ()))
                    progress.update(len(ids) * len(trials))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {len(self.file.answers)} answers: they are in '{self.file.path}', where --resume"
                ' goes on',
                {'files': [self.file.path]},
            ) from None
        return len(self.file.answers) - before

    def _is_open(self, question_id: str, trial: Trial) -> bool:
        return AnswerKey(question_id, trial) not in self.file.answers

    def _is_defined(self, trial: Trial, moment: Moment) -> bool:
        """Some methods always keep a whole image."""
        method = self._variant(trial, moment.id).config.method
        return method not in WHOLE_FIRST_FRAME or trial.keep * len(moment.egos) >= 1

    def _variant(self, trial: Trial, scene_id: int) -> Variant:
        method = ALL_TOKENS if trial == BLIND_TRIAL else trial.method
        return variant_of(method, trial.keep, trial.seed * SEED_STRIDE + scene_id, self.settings)

    def _ask_about(self, moment: Moment, open_ids: Mapping[Trial, Sequence[str]]) -> None:
        """Encode a moment and ask what is open; where its pictures cannot be used that is counted."""
        encoded: dict[tuple[bool, Encoding], EncodedScene] = {}
        try:
            cases = self._load(moment)
            for trial in (trial for trial, ids in open_ids.items() if ids):
                key = trial == BLIND_TRIAL, self._variant(trial, moment.id).encoding
                if key not in encoded:
                    shown = cases[0].scene.with_grey_images() if key[0] else cases[0].scene
                    encoded[key] = EncodedScene.encode(shown, self.backend, key[1])
        except StpruneError as error:
            reason = 'questions left out, a picture cannot be used'
            self.dataset.faults.add(reason, str(error), len(moment.questions))
            return
        closed = {case.id for case in cases if case.candidates and self._can_choose(case)}
        for trial in (trial for trial, ids in open_ids.items() if ids):
            variant = self._variant(trial, moment.id)
            scene = encoded[trial == BLIND_TRIAL, variant.encoding]
            tokens = sum(view.count for view in scene.views)
            asked = [case for case in cases if case.id in open_ids[trial]]
            for context, group in self._contexts(scene, variant, asked):
                self._answer(context, group, closed, trial, tokens)

    def _load(self, moment: Moment) -> list[Case]:
        """The cases of a moment; what is wrong with its pictures is in the file before the first answer is."""
        faults = Faults()
        cases = self.dataset.cases(moment.id, faults)
        self.file.add_faults(moment.questions[0].id, faults.rows)
        self.dataset.faults.take(faults.rows)
        return cases

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
        self, context: Context, cases: Sequence[Case], closed: Collection[str], trial: Trial, tokens: int
    ) -> None:
        """Have candidates chosen for the ``closed`` ones, by their ids, and texts written for the others."""
        choices = [case for case in cases if case.id in closed]
        for start in range(0, len(choices), BATCH):
            batch = choices[start : start + BATCH]
            for case, answer in zip(batch, choose_answers(self.backend, context, batch), strict=True):
                self.file.add(AnswerKey(case.id, trial), SetAnswer(answer, False, True, tokens))
        for case in cases:
            if case.id not in closed:
                self._write(context, case, trial, tokens)

    def _write(self, context: Context, case: Case, trial: Trial, tokens: int) -> None:
        """Have a text written; a question that the model cannot take, as with a mark of an image in it, is counted."""
        try:
            said = self.backend.generate(context, case.question, self.settings.inference.max_new_tokens)
        except ModelError as error:
            if trial == FULL_TRIAL:
                self.dataset.faults.add('questions left out, the model does not take them', f'{case.id}: {error}')
            return
        text, _ = clean_text(said.text)
        self.file.add(AnswerKey(case.id, trial), SetAnswer(text, not said.finished, False, tokens))

    def _can_choose(self, case: Case) -> bool:
        """Whether the model has words for the candidates; else it writes, as to any other question."""
        try:
            self.backend.check_candidates(case.question, case.candidates)
        except ModelError:
            return False
        return True
