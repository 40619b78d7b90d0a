"""One temperature and one bias per candidate, by penalised maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

# Standard deviations of what is expected before any tick is seen, of a bias and of the logarithm of the temperature.
# They hold a behavior back that was right a few times only; a minute of driving that says otherwise outweighs them.
BIAS_SPREAD, LOG_TEMPERATURE_SPREAD = 1.0, 1.0


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to the log-probabilities (K,) of the candidates; see `hint_calibration`."""

    content_free: np.ndarray
    temperature: float
    biases: np.ndarray

    def logits(self, scores: np.ndarray) -> np.ndarray:
        """Corrected ``scores`` (n, K), up to a constant per row."""
        return np.asarray((scores - self.content_free) / self.temperature + self.biases)


def no_correction(candidates: int) -> Correction:
    """The correction that changes nothing."""
    return Correction(np.zeros(candidates), 1.0, np.zeros(candidates))


def fit_correction(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, content_free: np.ndarray) -> Correction:
    """The correction under which the true candidates ``truth`` (n,) are most likely.

    ``scores`` (n, K) are log-probabilities, ``weights`` (n,) say how many independent observations each row is worth,
    ``content_free`` (K,) is taken off first. A candidate that is never true keeps bias 0, and the others are fitted
    among themselves: nothing is known about how often it would be right. Biases of the others sum to zero.
    """
    seen = np.unique(truth)
    among = torch.from_numpy((scores - content_free)[:, seen].astype(np.float64))
    wanted = torch.from_numpy(np.searchsorted(seen, truth))
    counts = torch.from_numpy(weights.astype(np.float64))
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(len(seen), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature, biases], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-12,
                                  line_search_fn='strong_wolfe')  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = among / log_temperature.exp() + biases
        likelihood = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
        penalty = (biases / BIAS_SPREAD).square().sum() + (log_temperature / LOG_TEMPERATURE_SPREAD).square()
        value: torch.Tensor = penalty / 2 - (counts * likelihood).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = np.zeros(scores.shape[1])
    found[seen] = biases.detach().numpy()
    return Correction(content_free, float(log_temperature.detach().exp()), found)
