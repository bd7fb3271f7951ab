"""The largest eigenvalue of a symmetric matrix, by the Lanczos method."""

from __future__ import annotations

import math

import numpy as np

from ..workloads.columns import FloatArray

_MOST_PRODUCTS = 300  # with the matrix: then it returns what it has
_TOLERANCE = 1e-13  # of the residual, relative to the eigenvalue


def largest_eigenvalue(matrix: FloatArray) -> tuple[float, FloatArray]:
    """The largest eigenvalue of a symmetric matrix and its eigenvector, by Lanczos with full reorthogonalisation.

    All eigenvalues of 2,000 lengths would take seconds. The others are far below the largest here, so some twenty
    products with the matrix settle it to the last digits; it goes on until they do.
    """
    size = len(matrix)
    basis = np.empty((min(size, _MOST_PRODUCTS), size))
    basis[0] = 1 / math.sqrt(size)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        k = len(diagonal)
        product = matrix @ basis[k]
        diagonal.append(float(basis[k] @ product))
        for _ in range(2):  # once is not enough when the residual is small
            product -= basis[: k + 1].T @ (basis[: k + 1] @ product)
        residual = float(np.linalg.norm(product))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
        converged = residual * abs(vectors[-1, -1]) <= _TOLERANCE * abs(values[-1])
        if converged or k + 1 == len(basis):
            return float(values[-1]), np.asarray(basis[: k + 1].T @ vectors[:, -1], dtype=np.float64)
        off_diagonal.append(residual)
        basis[k + 1] = product / residual
