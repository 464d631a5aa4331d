"""The published SEAL loop, re-stated in one straight line: full fine-tuning, softmax weights.

Written from the description of the algorithm, sharing no code with `seal`: own batching (right
padding), own loss, own order handling. Symbols as in the paper.
"""

import torch
import torch.nn.functional as F


def row_loss(model, rows):
    """Mean response NLL of each row; rows are (token ids, response mask) pairs."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([list(row) + [0] * (length - len(row)) for row, _ in rows])
    mask = torch.tensor([list(m) + [False] * (length - len(m)) for _, m in rows])
    attention = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows])
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
    nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    nll = nll.view(len(rows), -1) * mask[:, 1:]
    return nll.sum(1) / mask[:, 1:].sum(1)


def published_logits(
    model, pool, safe, pool_orders, safe_order, *, batch_size, lr, selector_lr, decay
):
    """Selector logits after training: dense Adam on N softmax(omega), as published.

    `pool_orders` has one order of places per epoch, `safe_order` the places of safe rows in the
    order of their use over the whole run. Changes `model`.
    """
    num_pool = len(pool)
    omega = torch.full((num_pool,), 0.1, requires_grad=True)
    theta = [p for p in model.parameters() if p.requires_grad]
    theta_adam = torch.optim.Adam(theta, lr=lr, betas=(0.9, 0.95))
    omega_adam = torch.optim.Adam([omega], lr=selector_lr, betas=(0.9, 0.95))
    ul_weight = 1.0
    used = 0
    for epoch, order in enumerate(pool_orders):
        if epoch >= 1:
            ul_weight -= decay
        for start in range(0, num_pool, batch_size):
            places = list(order[start : start + batch_size])
            safe_places = safe_order[used : used + len(places)]
            used += len(places)
            l_pool = row_loss(model, [pool[i] for i in places])
            l_safe = row_loss(model, [safe[i] for i in safe_places])
            w = (num_pool * torch.softmax(omega, 0))[places].detach()
            theta_adam.zero_grad()
            (ul_weight * l_safe.mean() + (1 - ul_weight) * (w * l_pool).mean()).backward()
            torch.nn.utils.clip_grad_norm_(theta, 1.0)
            theta_adam.step()
            omega_adam.zero_grad()
            ((num_pool * torch.softmax(omega, 0))[places] * l_pool.detach()).mean().backward()
            torch.nn.utils.clip_grad_norm_([omega], 10.0)
            omega_adam.step()
    return omega.detach()
