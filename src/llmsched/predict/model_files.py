"""Fitted predictors as files: a skops archive, which holds no pickles, with a note that says who wrote it.

Opening a file cannot run code that it brings: only types that are known, or that the caller names, are made, and what
they hold is checked before it is used (`model_checks.py`).
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import sklearn
from sklearn.utils.validation import check_is_fitted

from .._version import version
from ..errors import InputError
from ..input_limits import open_bytes
from . import skops_io
from .interval_predictor import IntervalPredictor
from .model_checks import NOTE, check_archive, check_predictor, strange, types_in

#: Changes whenever files of before could not be understood any more.
FORMAT = 1


def save(predictor: IntervalPredictor, path: str | os.PathLike[str]) -> None:
    """Write a fitted predictor to a file.

    Raises InputError if it is none of `llmsched.predict`, NotFittedError if it is not fitted, OSError if the file
    cannot be written.
    """
    if not isinstance(predictor, IntervalPredictor):
        raise InputError(f"expected a predictor of llmsched.predict, not {type(predictor).__name__}")
    check_is_fitted(predictor)
    archive = io.BytesIO(skops_io.dumps(predictor))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(NOTE, json.dumps(_note()))
    with open(path, "wb") as file:
        file.write(archive.getvalue())


def load(path: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> IntervalPredictor:
    """Read a predictor that `save` wrote.

    Parameters
    ----------
    path
        The file.
    trusted
        Names of further types that it may hold, such as those of a regressor of your own: only what you know.

    Raises
    ------
    InputError
        The file is no predictor, is damaged, is of another format or written with another version of scikit-learn
        (whose models cannot be carried over), or holds types that are not trusted (names them).
    OSError
        The file cannot be read.
    """
    name = os.fspath(path)
    with open_bytes(name, "predictor", lines=False) as file:
        content = file.read()
    try:
        check_archive(name, content)
        _check_note(name, content)
        untrusted = set(skops_io.get_untrusted_types(data=content))
        found = (untrusted | types_in(content)) - set(trusted)
        refused = strange(found)
        if refused:
            raise InputError(
                f"{name}: holds types that are not trusted: {', '.join(sorted(refused))}. If you know the file, and "
                "that they do no harm, name them: load(path, trusted=[...])"
            )
        predictor = skops_io.loads(content, trusted=sorted(untrusted | set(trusted)))
        if isinstance(predictor, IntervalPredictor):
            check_predictor(predictor)
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise _no_predictor(name) from None
    except Exception as error:  # a damaged archive fails in more ways than there are names for
        raise InputError(f"{name}: this predictor is damaged and cannot be read ({error})") from None
    if not isinstance(predictor, IntervalPredictor):
        raise InputError(f"{name}: holds a {type(predictor).__name__}, not a predictor of llmsched.predict")
    return predictor


def _note() -> dict[str, Any]:
    return {"llmsched predictor": FORMAT, "llmsched": version, "scikit-learn": _release(sklearn.__version__)}


def _release(number: str) -> str:
    """1.6.1 -> 1.6: scikit-learn keeps its models readable within a release."""
    return ".".join(number.split(".")[:2])


def _no_predictor(name: str) -> InputError:
    return InputError(f"{name}: not a predictor that llmsched.predict.save wrote")


def _check_note(name: str, content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = json.loads(archive.read(NOTE))
        written, sklearn_release = found["llmsched predictor"], found["scikit-learn"]
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RuntimeError, NotImplementedError):
        raise _no_predictor(name) from None
    if written != FORMAT:
        raise InputError(
            f"{name}: a predictor in format {written} of llmsched {found.get('llmsched')}, and this is llmsched "
            f"{version}, which reads format {FORMAT}: fit it again, or use that version"
        )
    if sklearn_release != _release(sklearn.__version__):
        raise InputError(
            f"{name}: written with scikit-learn {sklearn_release}, and this is {sklearn.__version__}, where a model "
            f"may mean something else: install 'scikit-learn~={sklearn_release}.0', or fit it again"
        )
