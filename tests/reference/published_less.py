"""LESS re-stated in one straight line: own Adam, own schedule, one row at a time, no projection.

Written from the description of the method, sharing no code with `seal`.
"""

import math

import torch

from reference.published_seal import row_loss


def flat_gradient(loss, theta):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, theta)])


def published_scores(model, pool, targets, warm, orders, *, batch_size, peak, warmup_ratio):
    """Similarity of every pool row with the targets: cosines, weighted by learning rate.

    Rows are (token ids, response mask) pairs; `orders` has the order of the rows of `warm` for each
    epoch. Changes `model`, of which the parameters that require a gradient are trained.
    """
    theta = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in theta)
    m, v = torch.zeros(size), torch.zeros(size)
    per_epoch = math.ceil(len(warm) / batch_size)
    total = per_epoch * len(orders)
    rising = math.ceil(warmup_ratio * total)
    scores, weights, step = torch.zeros(len(pool)), [], 0
    for order in orders:
        rates = []
        for start in range(0, len(warm), batch_size):
            rate = peak * (
                (step + 1) / rising if step < rising else (total - step) / (total - rising)
            )
            batch = [warm[i] for i in order[start : start + batch_size]]
            g = flat_gradient(row_loss(model, batch).mean(), theta)
            g = g * min(1.0, 1.0 / (float(g.norm()) + 1e-6))
            step += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            update = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            with torch.no_grad():
                for p, change in zip(theta, update.split([p.numel() for p in theta]), strict=True):
                    p -= rate * change.view(p.shape)
            rates.append(rate)
        weights.append(sum(rates) / len(rates))
        sides = [flat_gradient(row_loss(model, [row])[0], theta) for row in targets]
        for place, row in enumerate(pool):
            g = flat_gradient(row_loss(model, [row])[0], theta)
            gamma = (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g * g + 1e-8).sqrt()
            cosines = [float(gamma @ side / gamma.norm() / side.norm()) for side in sides]
            scores[place] += weights[-1] * sum(cosines) / len(cosines)
    return (scores / sum(weights)).numpy()
