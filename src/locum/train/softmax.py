"""Multinomial logistic regression on fixed features: the head of a frozen body, and the start of full tuning.

Notable: features are standardised for the fit, and the standardisation is folded into the weights, so the
result is a plain linear layer. The penalty is chosen on dev, strongest first, each fit starting from the
last. Full-batch L-BFGS takes a second where scikit-learn's takes a minute on two cores.

n rows, D features, C labels. Not here: computing the features (``forward``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
_ITERATIONS = 80


@dataclass(frozen=True)
class SoftmaxFit:
    """A fitted layer ``logits = features @ weight.T + bias`` and its scores on dev."""

    weight: Tensor
    bias: Tensor
    penalty: float
    dev_loss: float
    dev_accuracy: float


def fit_softmax(
    features: Tensor,
    targets: Tensor,
    dev_features: Tensor,
    dev_targets: Tensor,
    n_labels: int,
    on_fit: Callable[[SoftmaxFit], None] | None = None,
    penalty: float | None = None,
) -> SoftmaxFit:
    """Fit by penalised maximum likelihood for each of ``PENALTIES``; keep the best on dev, or the one asked for.

    Minimises ``mean cross-entropy + penalty / 2 * ||W||²`` over standardised features. The best has the
    highest dev accuracy, then the lowest dev loss.

    Args:
        features: ``[n, D]`` float32.
        targets: ``[n]``.
        dev_features: as ``features``, of dev.
        dev_targets: as ``targets``, of dev.
        n_labels: C.
        on_fit: called after each fit.
        penalty: one of ``PENALTIES``, chosen before; None chooses on dev.
    """
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-6
    standard = (features - mean) / scale
    weight = torch.zeros(n_labels, features.shape[1], requires_grad=True)
    bias = torch.zeros(n_labels, requires_grad=True)
    best: SoftmaxFit | None = None
    for tried in PENALTIES:
        _minimise(standard, targets, weight, bias, tried)
        with torch.no_grad():
            plain = weight / scale
            offset = bias - plain @ mean
            logits = dev_features @ plain.T + offset
            fit = SoftmaxFit(plain.clone(), offset.clone(), tried, *scores(logits, dev_targets))
        if on_fit:
            on_fit(fit)
        if tried == penalty:
            return fit
        if best is None or (fit.dev_accuracy, -fit.dev_loss) > (best.dev_accuracy, -best.dev_loss):
            best = fit
    if best is None or penalty is not None:
        raise RuntimeError(f"penalty {penalty} was not tried")
    return best


def scores(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of logits ``[n, C]``."""
    loss = functional.cross_entropy(logits, targets).item()
    return loss, (logits.argmax(dim=1) == targets).float().mean().item()


def _minimise(features: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> None:
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = features @ weight.T + bias
        loss = functional.cross_entropy(logits, targets) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
