"""What is checked of a predictor's file before it is used: scikit-learn's compiled code trusts what it is given.

A file may be crafted: trees whose nodes point outside of them, or back at themselves, would read memory that is not
theirs or never end; a small archive may unpack to all the memory there is. So sizes are compared with the limits before
anything is unpacked, only types that are known to check their input are made, and every tree is walked in NumPy.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

from .. import input_limits
from .interval_predictor import IntervalPredictor

NOTE = "llmsched.json"
_LARGEST_NOTE = 2**16
_DEEPEST = 1000
_LARGEST_CATEGORY = 255

#: Types that a file may hold: ours, gradient boosting (checked below), and what computes in NumPy and SciPy alone. The
#: compiled trees, neighbours and support vectors of scikit-learn believe every index that they are given.
_KNOWN = re.compile(
    r"builtins\..*|numpy\..*|scipy\.sparse\..*|functools\.partial"
    r"|llmsched\.predict\.(classification\.IntervalClassifier|features\.RequestFeatures|regression\.IntervalRegressor)"
    r"|sklearn\.ensemble\._hist_gradient_boosting\..*|sklearn\._loss\..*"
    r"|_loss\.Cy\w+Loss"  # what scikit-learn 1.6 and 1.7 call some of those
    r"|sklearn\.(pipeline|compose|impute|preprocessing|linear_model|dummy|decomposition|feature_extraction)\..*"
)


def check_archive(path: str, content: bytes) -> None:
    """Raise InputLimitError if the archive unpacks to too much, ValueError if an array in it is not as long as it says.

    Raises BadZipFile if it is no archive.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)  # no more than this is unpacked, whatever else is in it
        input_limits.check("predictor", size, "it unpacks to", path)
        input_limits.check_unpacked(size, len(content), path)
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("a part is there twice")
        for entry in entries:
            if entry.filename == NOTE and entry.file_size > _LARGEST_NOTE:
                raise ValueError(f"its note has {entry.file_size:,} bytes")
            if entry.filename.endswith(".npy"):
                _check_array(archive, entry)


def _check_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or file.tell() + dtype.itemsize * np.prod(shape, dtype=object) != entry.file_size:
            raise ValueError(f"the array {entry.filename} is not as long as it says")


def types_in(content: bytes) -> set[str]:
    """The names of all types that the archive makes. Raises ValueError, KeyError, RecursionError if it is damaged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = json.loads(archive.read("schema.json"))
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "__class__" in node and "__module__" in node:
                found.add(f"{node['__module__']}.{node['__class__']}")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def strange(types: set[str]) -> set[str]:
    """Those of the types that are not known to be safe."""
    return {name for name in types if not _KNOWN.fullmatch(name)}


# What was made --------------------------------------------------------------------------------------------------------


def check_predictor(predictor: IntervalPredictor) -> None:
    """Raise ValueError if using the predictor could do more than give an answer or raise an exception."""
    corrections = [predictor.correction_, *predictor.group_corrections_.values()]
    _require(all(isinstance(c, (int, float)) and abs(c) <= 100 for c in corrections), "a correction is no number")
    for model in _models(predictor):
        _check_boosting(model)


def _models(predictor: Any) -> Iterator[Any]:
    """Every gradient boosting model within, however deep."""
    waiting, seen = [predictor], set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if hasattr(thing, "_predictors"):
            yield thing
        elif type(thing).__name__ == "TreePredictor":
            raise ValueError("a tree is not part of a model")
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple, set)) or (isinstance(thing, np.ndarray) and thing.dtype.hasobject):
            waiting += list(np.ravel(thing)) if isinstance(thing, np.ndarray) else list(thing)
        elif hasattr(thing, "__dict__"):
            waiting += vars(thing).values()


def _check_boosting(model: Any) -> None:
    features, mapper = model.n_features_in_, model._bin_mapper
    _require(isinstance(features, (int, np.integer)), "the number of features is no number")
    categorical = np.asarray(mapper.is_categorical_)
    # With categories, what the trees see was encoded before: the same number of columns in another order.
    _require(
        categorical.shape == (features,) and len(mapper.bin_thresholds_) == features, "features and bins do not match"
    )
    for feature in np.flatnonzero(categorical):
        values = np.asarray(mapper.bin_thresholds_[feature], np.float64)
        _require(bool(((values >= 0) & (values <= _LARGEST_CATEGORY)).all()), "a category is out of range")
    for iteration in model._predictors:
        _require(len(iteration) == model.n_trees_per_iteration_, "an iteration has too few or too many trees")
        for tree in iteration:
            _check_tree(tree, int(features), categorical)


def _check_tree(tree: Any, features: int, categorical: npt.NDArray[Any]) -> None:
    """Every node is reached from the root by one way: no path leaves the tree or comes back."""
    nodes, bitsets = tree.nodes, np.asarray(tree.raw_left_cat_bitsets)
    _require(isinstance(nodes, np.ndarray) and nodes.dtype == PREDICTOR_RECORD_DTYPE, "a tree is no table of nodes")
    _require(nodes.ndim == 1 and len(nodes) > 0, "a tree has no nodes")
    _require(bitsets.ndim == 2 and bitsets.shape[1] == 8, "the categories of a tree are no sets")
    inner = nodes[nodes["is_leaf"] == 0]
    place = np.flatnonzero(nodes["is_leaf"] == 0)
    left, right = inner["left"].astype(np.int64), inner["right"].astype(np.int64)
    children = np.sort(np.concatenate([left, right]))
    _require(
        bool((left > place).all() and (right > place).all()) and np.array_equal(children, np.arange(1, len(nodes))),
        "a tree has nodes that are reached by no way or by several",
    )
    _require(bool(((inner["feature_idx"] >= 0) & (inner["feature_idx"] < features)).all()), "a feature is not there")
    split = inner[inner["is_categorical"] != 0]
    _require(bool((split["bitset_idx"] < len(bitsets)).all()), "a set of categories is not there")
    _require(bool(categorical[split["feature_idx"]].all()), "a number is taken for a category")
    depth = np.zeros(len(nodes), np.int64)
    for k, near, far in zip(place.tolist(), left.tolist(), right.tolist(), strict=True):
        depth[near] = depth[far] = depth[k] + 1
    _require(int(depth.max()) <= _DEEPEST, f"a tree is deeper than {_DEEPEST:,}")
    _require(bool(np.isfinite(nodes["value"]).all()), "a leaf has no number")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)
