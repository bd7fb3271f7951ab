"""The Cython module; all else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import setup

setup(ext_modules=cythonize("fast.pyx"))
