"""LARF, bi-anchor and RDS+ one sample at a time, from the full output of transformers.

No batch, no padding, no truncated pass, no shared code with the package.
"""

import numpy as np
import torch


def hidden_states(model, row):
    """hidden_states of transformers for one unpadded row: [num_blocks + 1] of [T, D], float64."""
    ids = torch.tensor(row.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    return [layer[0].double().numpy() for layer in states]


def last_block_output(model, row):
    """[T, D]: what the final norm is given, which transformers does not return."""
    seen = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    hidden_states(model, row)
    hook.remove()
    return seen[0][0].double().numpy()


def cosine(a, b):
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def larf(model, pool, harmful, safe, index):
    """id -> risk, of hidden_states[index]."""
    unsafe = [hidden_states(model, row)[index][-1] for row in harmful]
    trusted = [hidden_states(model, row)[index][-1] for row in safe]
    risks = {}
    for row in pool:
        x = hidden_states(model, row)[index][-1]
        to_unsafe = [cosine(x, u) for u in unsafe]
        to_safe = [cosine(x, s) for s in trusted]
        risks[row.id] = sum(to_unsafe) / len(unsafe) - sum(to_safe) / len(trusted)
    return risks


def bi_anchor(model, pool, harmful, safe, avg, safe_weight):
    """id -> risk."""

    def nearest(x, rows):
        found = sorted(cosine(x, hidden_states(model, row)[-1][-1]) for row in rows)
        return sum(found[::-1][:avg]) / avg

    risks = {}
    for row in pool:
        x = hidden_states(model, row)[-1][-1]
        risks[row.id] = nearest(x, harmful) - safe_weight * nearest(x, safe)
    return risks


def weighted_mean(states):
    total = np.zeros(states.shape[1])
    for t, state in enumerate(states, start=1):
        total += t * state
    return total / (len(states) * (len(states) + 1) / 2)


def rds_similarities(model, pool, targets):
    """id -> its cosine with each target."""
    wanted = [weighted_mean(hidden_states(model, row)[-1]) for row in targets]
    return {
        row.id: [cosine(weighted_mean(hidden_states(model, row)[-1]), one) for one in wanted]
        for row in pool
    }


def round_robin(similarities, num_targets, num_picks):
    """Ids in the order in which the targets pick them, equal ones by id."""
    queues = [
        sorted(similarities, key=lambda key: (-similarities[key][target], key))
        for target in range(num_targets)
    ]
    picked = []
    while len(picked) < num_picks:
        for queue in queues:
            left = [key for key in queue if key not in picked]
            if left and len(picked) < num_picks:
                picked.append(left[0])
    return picked
