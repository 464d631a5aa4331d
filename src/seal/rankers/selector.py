"""The selector: one logit per pool sample, its weights, and the two ways to update it.

Paper -> here: omega = `logits`, sigma(omega) = `weights` (scaled to mean 1), alpha =
`learning_rate`, N = the number of samples, B = the samples of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Activation = Literal["softmax", "sigmoid"]

_INITIAL_LOGIT = {"softmax": 0.1, "sigmoid": -1e-4}  # of the published code
_ADAM_BETAS = (0.9, 0.95)  # of the published code
_ADAM_MAX_GRAD_NORM = 10.0  # of the published code


def sample_weights(logits: Float[Tensor, " N"], activation: Activation) -> Float[Tensor, " N"]:
    """sigma(omega), scaled as the published code does it: N softmax, or 2 sigmoid.

    The mean weight is 1 (softmax: exactly; sigmoid: at the start), so that gamma is the share of
    the lower level. The paper's literal (1/N) sum_i softmax_i l_i would make it vanish as 1/N.
    """
    if activation == "softmax":
        return len(logits) * torch.softmax(logits, dim=0)
    return 2 * torch.sigmoid(logits)


def effective_sample_share(weights: Float[Tensor, " N"]) -> float:
    """Effective sample size over N, in (0, 1]: 1 when all weights are equal."""
    exact = weights.double()  # in fp32 equal weights come out a little above 1
    return float(exact.sum() ** 2 / (exact.square().sum() * len(exact)))


class Selector(ABC):
    """The logits omega and a rule to move them; abstract."""

    logits: Float[Tensor, " N"]
    activation: Activation

    @abstractmethod
    def weights(self, batch: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The weights of some samples; over all samples their mean is 1."""

    @abstractmethod
    def effective_share(self) -> float:
        """`effective_sample_share` of all samples."""

    @abstractmethod
    def update(self, batch: Int[Tensor, " B"], gap: Float[Tensor, " B"]) -> None:
        """One descent step on the batch mean of sigma_i g_i.

        Args:
            batch: Positions of the batch's samples in `logits`, each once.
            gap: g_i = l(theta; z_i) - l(theta_hat; z_i) (Algorithm 1), or l(theta; z_i)
                (Algorithm 2).
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The logits, and what else the rule needs to go on, by name."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, or logits alone."""


class SgdSelector(Selector):
    """Gradient steps on the visited samples only.

    d/d omega_i sum_j sigma_j g_j = sigma_i (g_i - sum_k sigma_k g_k), with the sum over k estimated
    on the batch. An unvisited logit does not move and no step size depends on the history of a
    logit, so the visit order leaves no mark: what the published optimiser adds to a logit between
    its visits (see `AdamSelector`) is nothing here.

    A step costs the same however many samples there are: what it needs of all the others, the sums
    of their weights and of the squares, is kept up to date in double precision.
    """

    def __init__(self, num_samples: int, activation: Activation, learning_rate: float) -> None:
        self.activation = activation
        self.learning_rate = learning_rate
        self.load_state({"logits": torch.full((num_samples,), _INITIAL_LOGIT[activation])})

    def weights(self, batch: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The weights of some samples; under softmax N exp(omega_i) / sum_k exp(omega_k)."""
        return self._weights(self._unscaled(self.logits[batch])).float()

    def effective_share(self) -> float:
        """From the two sums that are kept."""
        first, second = self._sums.tolist()
        return first**2 / (second * len(self.logits))

    def update(self, batch: Int[Tensor, " B"], gap: Float[Tensor, " B"]) -> None:
        """One step on the batch's own logits."""
        before = self._unscaled(self.logits[batch])
        weights = self._weights(before).float()
        if self.activation == "softmax":
            baseline = (weights * gap).sum() / weights.sum()
            gradient = weights * (gap - baseline)
        else:
            gradient = weights * (1 - weights / 2) * gap
        self.logits[batch] -= self.learning_rate * gradient
        self._sums += _sums(self._unscaled(self.logits[batch])) - _sums(before)

    def state(self) -> dict[str, Tensor]:
        """The logits, and the sums: added up anew they would differ in their last digits."""
        return {"logits": self.logits, "sums": self._sums}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, or logits alone."""
        self.logits = state["logits"].clone()
        kept = state.get("sums")
        self._sums = _sums(self._unscaled(self.logits)) if kept is None else kept.clone()

    def _unscaled(self, logits: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Weights up to the factor that makes their mean 1, in double precision."""
        if self.activation == "softmax":
            return (logits.double() - _INITIAL_LOGIT["softmax"]).exp()
        return 2 * torch.sigmoid(logits.double())

    def _weights(self, unscaled: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        if self.activation == "softmax":
            return unscaled * (len(self.logits) / self._sums[0])
        return unscaled


def _sums(values: Float[Tensor, " B"]) -> Float[Tensor, 2]:
    return torch.stack([values.sum(), values.square().sum()])


class AdamSelector(Selector):
    """The published update: one dense Adam over all logits, kept to reproduce it.

    Under softmax every logit outside the batch gets a tiny common gradient, which Adam normalises
    to a full step, so the logits climb with the step count and a sample visited late has not
    climbed yet: the ranking carries the visit order. Not for use.
    """

    def __init__(self, num_samples: int, activation: Activation, learning_rate: float) -> None:
        self.logits = torch.full((num_samples,), _INITIAL_LOGIT[activation], requires_grad=True)
        self.activation = activation
        self.optimizer = torch.optim.Adam([self.logits], lr=learning_rate, betas=_ADAM_BETAS)

    def update(self, batch: Int[Tensor, " B"], gap: Float[Tensor, " B"]) -> None:
        """One Adam step on every logit."""
        self.optimizer.zero_grad()
        (sample_weights(self.logits, self.activation)[batch] * gap).mean().backward()
        torch.nn.utils.clip_grad_norm_([self.logits], _ADAM_MAX_GRAD_NORM)
        self.optimizer.step()

    def weights(self, batch: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The weights of some samples, without a graph."""
        return sample_weights(self.logits.detach(), self.activation)[batch]

    def effective_share(self) -> float:
        """Over all samples."""
        return effective_sample_share(sample_weights(self.logits.detach(), self.activation))

    def state(self) -> dict[str, Tensor]:
        """The logits and the moments of Adam."""
        return {"logits": self.logits.detach(), **self.optimizer.state[self.logits]}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, or logits alone."""
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        moments = {name: value.clone() for name, value in state.items() if name != "logits"}
        self.optimizer.state[self.logits].update(moments)
