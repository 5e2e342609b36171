"""Place the nodes of a graph in a picture."""

from __future__ import annotations

import numpy as np


def spread(
    edges: np.ndarray, weights: np.ndarray, boxes: np.ndarray, height: float, seed: int = 0
) -> np.ndarray:
    """Place nodes so that neighbours are close, others are apart, and no labels overlap.

    Springs and repulsion as in Fruchterman and Reingold (1991), in a picture of width 1; then
    overlapping boxes are pushed apart.

    Args:
        edges: int `[M, 2]`, indices of nodes.
        weights: float `[M]`, how strongly each edge pulls; only their ratios matter.
        boxes: float `[N, 2]`, width and height of each node's label.
        height: Height of the picture.
        seed: Random seed of the initial positions. Defaults to 0.

    Returns:
        float `[N, 2]`, the centres of the boxes. Many wide labels take more space than
        1 x `height`.
    """
    num = len(boxes)
    random = np.random.default_rng(seed)
    places = random.uniform(0, 1, (num, 2)) * (1, height)
    pull = np.zeros((num, num))
    strongest = weights.max(initial=0.0) or 1.0
    np.maximum.at(pull, (edges[:, 0], edges[:, 1]), 0.4 + 0.6 * weights / strongest)
    pull = np.maximum(pull, pull.T)
    np.fill_diagonal(pull, 0)
    apart = 0.75 * np.sqrt(height / num)
    middle = np.asarray((0.5, height / 2))
    for temperature in np.linspace(0.12, 0.002, 300):
        between = places[:, None] - places
        distances = np.maximum(np.linalg.norm(between, axis=-1), 1e-3)
        force = apart**2 / distances**2 - pull * distances / apart
        moves = (between * force[..., None]).sum(1)
        moves -= 0.6 * (places - middle)  # keeps nodes without edges from drifting away
        lengths = np.maximum(np.linalg.norm(moves, axis=-1, keepdims=True), 1e-9)
        places = places + moves / lengths * np.minimum(lengths, temperature)
    # Scale to the picture's shape, which the forces do not take into account.
    low, high = places.min(0), places.max(0)
    if num > 1:
        places = (places - low) / np.maximum(high - low, 1e-9) * (1, height)
    return without_overlaps(places, boxes)


def without_overlaps(places: np.ndarray, boxes: np.ndarray, most_rounds: int = 500) -> np.ndarray:
    """Push overlapping boxes apart in the direction of the smaller overlap, half of it each.

    Args:
        places: float `[N, 2]`, the centres of the boxes.
        boxes: float `[N, 2]`, widths and heights.
        most_rounds: Maximum number of iterations; remaining overlaps stay. Defaults to 500.
    """
    places = places.copy()
    needed = (boxes[:, None] + boxes) / 2
    nodes = np.arange(len(boxes))
    for _ in range(most_rounds):
        between = places[:, None] - places
        overlap = needed - np.abs(between)
        overlap[nodes, nodes] = 0
        both = (overlap > 1e-6).all(-1)
        if not both.any():
            break
        # Of two boxes at the same position, their order decides which one moves left.
        sign = np.where(between == 0, np.sign(nodes[:, None] - nodes)[..., None], np.sign(between))
        shorter = overlap.argmin(-1)
        for axis in (0, 1):
            push = np.where(both & (shorter == axis), overlap[..., axis] * sign[..., axis], 0.0)
            places[:, axis] += 0.5 * push.sum(1) / np.maximum(1, (push != 0).sum(1))
    return places
