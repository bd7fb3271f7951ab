"""An extension of one's own that drives the engine of llmsched. Build it with: python setup.py build_ext --inplace"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import llmsched

include = llmsched.get_include()
extension = Extension("smallest_memory", ["smallest_memory.pyx"], include_dirs=[include])
setup(name="smallest-memory", ext_modules=cythonize([extension], include_path=[include], language_level=3))
