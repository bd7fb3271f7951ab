from llmsched._core cimport Problem

# Points `c_problem` at the arrays of a llmsched.simulation.problem.Problem, and at outputs of its length (evictions all
# 0). The arrays must outlive the run. ValueError or TypeError for arrays that are not contiguous or of another type.
cdef int fill_problem(Problem* c_problem, problem, completion, start, evictions) except -1
