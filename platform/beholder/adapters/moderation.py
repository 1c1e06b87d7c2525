"""Moderated heads: a user's scores allow for what is not yet known of them.

An estimate is the most probable head given a user's rows, not the only one. Averaged over all heads that these rows
leave possible, a probability lies nearer to one half (MacKay 1992, "The evidence framework applied to classification
networks"; for a posterior that is a Gaussian around the estimate, Daxberger et al. 2021, "Laplace redux"):

    E[sigmoid(f)] ~ sigmoid(kappa f),    kappa = (1 + pi s^2 / 8)^(-1/2),    s^2 = Var(f | the user's rows)

Without it, somebody with few judgements is scored as if the prior's mean were theirs for certain, and people who differ
from it are worse off than with the global model, whose probabilities are averages over people (attenuation: Zeger,
Liang & Albert 1988).

s^2 is that of a Gaussian process with the prior's covariance and the curvature of the log-loss at the prior's mean
(Rasmussen & Williams 2006, eq. 3.26), averaged over texts of the training set. So kappa is one number for each user and
label; it depends on which texts they judged, not on how, and it can be multiplied into their head, which stays an
ordinary head wherever it is read, served or exported. Of changes within layers, nothing is counted. Where nothing was
learned of how people differ, the prior's mean is the global model, and it scores users without judgements as it is.

The labels of an exclusive task have one kappa in common, from the variance of a difference between two logits, averaged
over pairs (Lu, Ie & Sha 2020, "Mean-field approximation to Gaussian-softmax integral"). What moves all logits alike
moves no difference, so factors count by their contrasts: a label's logit less the mean of all labels'. With K labels
that are equally likely, the Hessian of the log-loss is 1/K times the projection onto contrasts, and each label can be
taken apart with curvature 1/K if what is their own has the same spread; where they are not equally likely,
p (1 - p) K / (K - 1) stands in for it, which is exact for two labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from beholder.adapters.prior import Prior
    from beholder.training.user_adam import Tensors

PLACES = 64
"""Directions that stand for the training texts."""
PLACE_TEXTS = 1_024
"""Training texts they are made of, at most."""
PIECE_ROWS = 2_048
"""Rows of one user that are taken in at once, at least."""
PIECE = 16_000_000
"""Numbers of all labels that are held at once, at most about, unless one user has more."""


@dataclass(frozen=True)
class Moderation:
    """What moderating needs besides the prior, kept with it.

    Attributes:
        places: [places, width + 1], such that places^T places is the mean of x x^T over training texts, x their
            features and a 1 for the bias.
        weight, bias: the shared head, [labels, width] and [labels].
        exclusive: whether labels exclude each other (softmax).
    """

    places: Tensor
    weight: Tensor
    bias: Tensor
    exclusive: bool


@dataclass(frozen=True)
class Readings:
    """Rows, ordered by user, as a head reads them.

    Attributes:
        values: float32 [inputs, width], features of each input.
        input: int64 [rows], positions among the inputs.
        rows: int64 [users], how many each has.
        asked: float32 [rows, labels], 1 or 0.
        weight, bias, exclusive: see `Moderation`.
    """

    values: NDArray[np.float32]
    input: NDArray[np.int64]
    rows: NDArray[np.int64]
    asked: NDArray[np.float32]
    weight: Tensor
    bias: Tensor
    exclusive: bool


def moderation_of(rows: Readings, seed: int) -> Moderation:
    """Summarise training rows for moderating users who are estimated later.

    The places are principal directions of the texts' second moment, scaled so that its trace stays what it is.
    """
    inputs = np.unique(rows.input)
    some = np.random.default_rng([seed, 4]).permutation(len(inputs))[:PLACE_TEXTS]
    features = torch.from_numpy(rows.values[inputs[np.sort(some)]]).double()
    x = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1) / len(features) ** 0.5
    _, size, directions = torch.linalg.svd(x, full_matrices=False)
    size, directions = size[:PLACES], directions[:PLACES]
    size = size * (x.square().sum() / size.square().sum()).sqrt()
    places = (size[:, None] * directions).float().contiguous()
    return Moderation(places, rows.weight.detach().cpu().float(), rows.bias.detach().cpu().float(), rows.exclusive)


def moderated(tensors: Tensors, kappa: Tensor, known: Moderation) -> Tensors:
    """Users' tensors with kappa in their heads: W + V becomes kappa (W + V), W the shared head and V their change.

    Args:
        tensors: name -> [users, ...].
        kappa: [users, labels].
        known: see there.
    """
    made = dict(tensors)
    for name, shared in (("head.weight", known.weight), ("head.bias", known.bias)):
        own = tensors[name]
        by = kappa.to(own).view(*kappa.shape, *[1] * (own.dim() - 2))
        made[name] = by * own - (1 - by) * shared.to(own)
    return made


def kappa_without_rows(prior: Prior) -> Tensor:
    """That of somebody who has judged nothing: float32 [labels].

    1 where the prior's mean is the global model: its probabilities are averages over people already.
    """
    known, design = prior.moderation, _Design(prior)
    assert known is not None
    if not design.mean.any():
        return torch.ones(len(known.bias))
    nothing = torch.zeros(1, 0, len(design.spread[0]), dtype=torch.float64)
    return _kappa(*_variances(design, [nothing] * len(design.spread)), known.exclusive)[0]


def kappas(prior: Prior, rows: Readings) -> Tensor:
    """How far the logits of each user are to be shrunk: float32 [users, labels].

    Args:
        prior: whose `moderation` is known.
        rows: what users were estimated from.
    """
    known, design = prior.moderation, _Design(prior)
    assert known is not None
    labels, width = known.weight.shape
    nobody = kappa_without_rows(prior)
    found = nobody.repeat(len(rows.rows), 1)
    head = torch.cat([known.weight, known.bias[:, None]], 1).double() + design.mean
    first = np.cumsum(rows.rows) - rows.rows
    for users in _chunks(rows.rows, width + 1, labels):
        most, step = int(rows.rows[users].max()), max(PIECE_ROWS, width + 1)
        many = most > width + 1  # then z^T z is all that is kept of rows
        taken = [torch.zeros(len(users), (width + 1) * many, width + 1, dtype=torch.float64)] * labels
        for start in range(0, most, step):
            place = np.arange(start, min(start + step, most))
            there = place < rows.rows[users][:, None]  # [users, rows]
            at = np.where(there, first[users][:, None] + place, 0)
            x = torch.from_numpy(rows.values[rows.input[at]]).double()
            x = torch.cat([x, torch.ones(*x.shape[:2], 1, dtype=torch.float64)], 2)
            curvature = _curvature(x @ head.T, known.exclusive)  # [users, rows, labels]
            curvature = curvature * torch.from_numpy(rows.asked[at] * there[..., None])
            for label in range(labels):
                z = curvature[..., label, None].sqrt() * x
                taken[label] = taken[label] + z.mT @ z if many else z
        found[torch.from_numpy(users)] = _kappa(*_variances(design, taken, many), known.exclusive)
    if not design.mean.any():  # where labels of somebody are all missing, they are the global model: see above
        user = np.repeat(np.arange(len(rows.rows)), rows.rows)
        asked = np.zeros((len(rows.rows), labels))
        np.add.at(asked, user, rows.asked)
        found[torch.from_numpy(asked == 0)] = 1.0
    return found


class _Design:
    """The prior of logits, a label at a time: mean [labels, width + 1], basis (of contrasts, where labels exclude each
    other) and spread, as [rank, width + 1] and [width + 1] of each label, and the places they are wanted at.
    """

    def __init__(self, prior: Prior) -> None:
        assert prior.moderation is not None
        weight, bias = prior.mean["head.weight"].cpu().double(), prior.mean["head.bias"].cpu().double()
        labels, width = weight.shape
        self.mean = torch.cat([weight, bias[:, None]], 1)
        self.basis = torch.zeros(labels, prior.rank, width + 1, dtype=torch.float64)
        if "head.weight" in prior.basis:
            self.basis[..., :width] = prior.basis["head.weight"].cpu().double().transpose(0, 1)
        if "head.bias" in prior.basis:
            self.basis[..., width] = prior.basis["head.bias"].cpu().double().T
        if prior.moderation.exclusive:
            self.basis -= self.basis.mean(0)
        none = torch.zeros((), dtype=torch.float64)
        of_weight = prior.spread.get("head.weight", none).cpu().double().expand(labels, width)
        of_bias = prior.spread.get("head.bias", none).cpu().double().expand(labels)
        self.spread = torch.cat([of_weight, of_bias[:, None]], 1)
        self.places = prior.moderation.places.cpu().double()


def _variances(design: _Design, taken: list[Tensor], gram: bool = False) -> tuple[Tensor, Tensor]:
    """s^2 of each user and label, summed over places, in two parts: of what is their own, and of factors.

    What is a user's own of a label is a Gaussian process apart; factors are shared by all labels, and their precision
    is the sum of the labels' precisions. With z a user's rows times the root of their curvature, S the spread,
    B the basis and v the places, all that is needed is

        v S z^T (I + z S^2 z^T)^-1 (z S v^T, z B^T)  =  v S (I + S z^T z S)^-1 S z^T (z S^2 v^T, z B^T)

    of which the left side is quick for few rows, the right one for many.

    Args:
        design: see there.
        taken: of each label z, [users, rows, width + 1], or z^T z, [users, width + 1, width + 1].
        gram: which of the two.

    Returns:
        Two tensors, each [users, labels]. The covariance of the two is counted among the factors.
    """
    v = design.places
    own, across = [], []
    users, rank = len(taken[0]), design.basis.shape[1]
    precision = torch.eye(rank, dtype=torch.float64).repeat(users, 1, 1)
    for z, basis, spread in zip(taken, design.basis, design.spread, strict=True):
        unit = torch.eye(z.shape[1], dtype=torch.float64)
        if gram:
            root = torch.linalg.cholesky(unit + spread[:, None] * z * spread)
            seen = torch.linalg.solve_triangular(root, (v * spread).T.expand(users, -1, -1), upper=False)
            told = spread[:, None] * (z @ basis.T)
            factors = torch.linalg.solve_triangular(root, told, upper=False)  # [users, width + 1, rank]
            precision = precision + basis @ z @ basis.T - factors.mT @ factors
            own.append(seen.square().sum((1, 2)))
        else:
            scaled = z * spread.square()
            root = torch.linalg.cholesky(unit + scaled @ z.mT)
            seen = torch.linalg.solve_triangular(root, scaled @ v.T, upper=False)  # [users, rows, places]
            factors = torch.linalg.solve_triangular(root, z @ basis.T, upper=False)  # [users, rows, rank]
            precision = precision + factors.mT @ factors
            own.append((v * spread).square().sum() - seen.square().sum((1, 2)))
        across.append(v @ basis.T - seen.mT @ factors)  # [users, places, rank]
    root = torch.linalg.cholesky(precision)
    shared = [torch.linalg.solve_triangular(root, each.mT, upper=False).square().sum((1, 2)) for each in across]
    return torch.stack(own, 1), torch.stack(shared, 1)


def _kappa(own: Tensor, factors: Tensor, exclusive: bool) -> Tensor:
    """float32 [users, labels], from the two parts of their variance."""
    variance, labels = own + factors, own.shape[1]
    if exclusive:  # of differences: what is a label's own is independent of others', contrasts sum to nothing
        variance = 2 * own + 2 * labels / max(labels - 1, 1) * factors
        variance = variance.mean(1, keepdim=True).expand_as(variance)
    return (1 + math.pi / 8 * variance.clamp(min=0)).rsqrt().float()


def _curvature(logits: Tensor, exclusive: bool) -> Tensor:
    """The second derivative of the log-loss by each logit; by differences between logits where labels exclude."""
    if not exclusive:
        p = torch.sigmoid(logits)
        return p * (1 - p)
    p, labels = torch.softmax(logits, -1), logits.shape[-1]
    return p * (1 - p) * (labels / max(labels - 1, 1))


def _chunks(rows: NDArray[np.int64], numbers: int, labels: int) -> Iterator[NDArray[np.int64]]:
    """Users who have rows, those with about as many side by side, as many at once as memory is meant for."""
    order = np.argsort(-rows, kind="stable")
    order = order[rows[order] > 0]
    while len(order):
        most = min(max(int(rows[order[0]]), PLACES), max(PIECE_ROWS, numbers))
        count = max(1, PIECE // (most * numbers * labels))
        if rows[order[0]] > numbers:  # those with more rows than numbers go by themselves
            count = min(count, int((rows[order] > numbers).sum()))
        yield order[:count]
        order = order[count:]
