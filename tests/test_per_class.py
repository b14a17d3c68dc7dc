"""Counts by class against counts by hand."""

from __future__ import annotations

import numpy as np

from nfnets.training.per_class import class_rows, confusion_matrix, count_classes


def test_counts_by_hand():
    """Two batches on two devices; the last image is padding."""
    batches = [
        {
            "label": np.array([[0, 0], [0, 0]]),
            "guess": np.array([[0, 2], [1, 2]]),
            "hit5": np.array([[1, 1], [0, 0]]),
            "mask": np.ones((2, 2), np.int32),
        },
        {
            "label": np.array([[0, 2], [2, 0]]),
            "guess": np.array([[1, 2], [2, 0]]),
            "hit5": np.array([[1, 1], [1, 0]]),
            "mask": np.array([[1, 1], [1, 0]]),
        },
    ]
    counts = count_classes(batches, 3)
    np.testing.assert_array_equal(
        confusion_matrix(counts), [[1, 2, 2], [0, 0, 0], [0, 0, 2]]
    )
    rows = [tuple(row.values()) for row in class_rows(counts, ("cat", "cow", "dog"))]
    assert rows == [
        # Cow and dog come equally often; the first is named.
        (0, "cat", 5, 1 / 5, 3 / 5, 1, "cow", 2),
        (1, "cow", 0, None, None, None, None, None),
        (2, "dog", 2, 1.0, 1.0, None, None, None),
    ]
