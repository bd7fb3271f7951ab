"""Extensions of one's own that drive the engine of llmsched. Build it with: python setup.py build_ext --inplace"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import llmsched

include = llmsched.get_include()
names = ["smallest_memory", "feedback"]
extensions = [Extension(name, [f"{name}.pyx"], include_dirs=[include]) for name in names]
setup(name="downstream", ext_modules=cythonize(extensions, include_path=[include], language_level=3))
