import numpy as np
import numpy.typing as npt

def total_difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float: ...
