"""The largest eigenvalue of a symmetric matrix, without all the others."""

from __future__ import annotations

import math

import numpy as np

from ..workloads.columns import FloatArray

_MOST_PRODUCTS = 300  # with the matrix: then it gives up
_SETTLED = 1e-13  # the residual that it is content with


def largest_eigenvalue(matrix: FloatArray) -> tuple[float, FloatArray]:
    """The largest eigenvalue of a symmetric matrix and its eigenvector, by Lanczos with full reorthogonalisation.

    All eigenvalues of 2,000 lengths would take seconds. The others are far below the largest here, so some twenty
    products with the matrix settle it to the last digits; it goes on until they do.
    """
    size = len(matrix)
    basis = np.empty((min(size, _MOST_PRODUCTS), size))
    basis[0] = 1 / math.sqrt(size)
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        k = len(diagonal)
        product = matrix @ basis[k]
        diagonal.append(float(basis[k] @ product))
        for _ in range(2):  # once is not enough when little is left
            product -= basis[: k + 1].T @ (basis[: k + 1] @ product)
        left = float(np.linalg.norm(product))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        settled = left * abs(vectors[-1, -1]) <= _SETTLED * abs(values[-1])
        if settled or k + 1 == len(basis):
            return float(values[-1]), np.asarray(basis[: k + 1].T @ vectors[:, -1], dtype=np.float64)
        beside.append(left)
        basis[k + 1] = product / left
