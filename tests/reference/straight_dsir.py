"""DSIR's log weights in one straight line: dictionaries of counts, one row at a time.

Written from the description of the method, sharing no code with `seal`.
"""

import hashlib
import math
import re
from collections import Counter


def bucket_counts(text, longest, size):
    """Bucket -> how often an n-gram of the text falls into it."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    counts = Counter()
    for start in range(len(words)):
        for stop in range(start + 1, min(start + longest, len(words)) + 1):
            gram = " ".join(words[start:stop])
            counts[int(hashlib.sha256(gram.encode()).hexdigest(), 16) % size] += 1
    return counts


def log_weights(pool, target, *, longest=2, size=10_000, smoothing=0.0):
    """One log importance weight per text of the pool."""
    raw, wanted = Counter(), Counter()
    for text in pool:
        raw += bucket_counts(text, longest, size)
    for text in target:
        wanted += bucket_counts(text, longest, size)
    num_wanted = wanted.total() + smoothing * size
    weights = []
    for text in pool:
        weight = 0.0
        for bucket, count in bucket_counts(text, longest, size).items():
            share = (wanted[bucket] + smoothing) / num_wanted
            weight += count * math.log((share + 1e-8) / (raw[bucket] / raw.total() + 1e-8))
        weights.append(weight)
    return weights
