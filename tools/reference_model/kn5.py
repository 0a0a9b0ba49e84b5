"""Perplexity of an interpolated modified Kneser-Ney n-gram model, the baseline.

Counts n-grams of the training tokens as sorted arrays and scores the held-out
tokens (Chen and Goodman 1999, three discounts an order, the stream read
through document boundaries as the Transformer reads it).
"""

import argparse
import json
import math

import numpy as np


class Order:
    """The n-grams of one order: sorted keys, counts, and statistics of their contexts."""

    def __init__(self, keys, counts, context, contexts):
        self.keys = keys
        self.counts = counts
        tally = [np.count_nonzero(counts == c) for c in range(1, 5)]
        self.discounts = [0.0, 0.5, 0.5, 0.5]  # for data too small to estimate them
        if min(tally) > 0:
            y = tally[0] / (tally[0] + 2 * tally[1])
            self.discounts[1:] = [c - (c + 1) * y * tally[c] / tally[c - 1] for c in range(1, 4)]
        self.discount = np.array(self.discounts)[np.minimum(counts, 3)]
        self.total = np.bincount(context, counts, contexts)
        self.backoff = np.bincount(context, self.discount, contexts) / np.maximum(self.total, 1)

    def find(self, keys):
        """Returns the index of every key, -1 where it was not seen."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.keys[at] == keys) & (keys >= 0), at, -1)

    def interpolate(self, index, context, lower):
        """Returns p(w|h) given the n-gram's index, its context's and p of the lower order."""
        known = context >= 0
        known[known] = self.total[context[known]] > 0
        safe = np.where(known, context, 0)
        counted = np.where(index >= 0, self.counts[index] - self.discount[index], 0.0)
        share = counted / np.maximum(self.total[safe], 1) + self.backoff[safe] * lower
        return np.where(known, share, lower)


def train(tokens, vocabulary, order):
    """Returns the list of orders, the unigrams first."""
    ids = np.zeros(len(tokens) + 1, dtype=np.int64)  # of the (n-1)-gram that starts at each position
    first, keys_of, ids_of, first_of = np.zeros(1, dtype=np.int64), [], [], []
    for n in range(1, order + 1):
        keys = ids[: len(tokens) - n + 1] * vocabulary + tokens[n - 1 :]
        unique, first, ids, full = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        keys_of.append(unique)
        first_of.append(first)
        ids_of.append(ids.astype(np.int32))
    orders = []
    for n in range(1, order + 1):
        counts = full
        if n < order:  # lower orders count the distinct words to the left
            longer = first_of[n][first_of[n] + 1 < len(ids_of[n - 1])]
            counts = np.bincount(ids_of[n - 1][longer + 1], minlength=len(keys_of[n - 1]))
        prefix = ids_of[n - 2][first_of[n - 1]] if n > 1 else np.zeros(len(keys_of[0]), dtype=np.int64)
        orders.append(Order(keys_of[n - 1], counts, prefix, len(keys_of[n - 2]) if n > 1 else 1))
    return orders


def score(orders, tokens, vocabulary):
    """Returns the natural-log probability of every token but the first few."""
    length, n_max = len(tokens), len(orders)
    probability = np.full(length, 1.0 / vocabulary)
    context = np.zeros(length, dtype=np.int64)  # index of the (n-1)-gram that starts at each position
    for n, order in enumerate(orders, start=1):
        starts = length - n + 1
        context = context[:starts]
        index = order.find(np.where(context >= 0, context * vocabulary + tokens[n - 1 :], -1))
        probability[n - 1 :] = order.interpolate(index, context, probability[n - 1 :])
        context = index
    return np.log(probability[n_max - 1 :])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", default="build/reference_model/train.bin")
    parser.add_argument("--held-out", default="build/reference_model/held_out.bin")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--order", type=int, default=5)
    args = parser.parse_args()
    tokens, held_out = (np.fromfile(path, dtype="<u2").astype(np.int64) for path in (args.train, args.held_out))
    orders = train(tokens, args.vocabulary, args.order)
    logs = score(orders, held_out, args.vocabulary)
    report = {
        "order": args.order,
        "train_tokens": len(tokens),
        "held_out_tokens": len(logs),
        "discounts": [[round(d, 4) for d in o.discounts[1:]] for o in orders],
        "ngrams": [len(o.keys) for o in orders],
        "loss": round(-logs.mean(), 5),
        "perplexity": round(math.exp(-logs.mean()), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
