from llmsched._core cimport Engine, Problem
from llmsched._engine.formula cimport Formula

# Points `c_problem` at the arrays of a llmsched.simulation.problem.Problem, and at outputs of its length (evictions all
# 0). The arrays must outlive the run. ValueError or TypeError for arrays that are not contiguous or of another type.
cdef int fill_problem(Problem* c_problem, problem, completion, start, evictions) except -1

# What the engine reads of a llmsched.formula.Formula, which must outlive it; the error for a value that there is none
# of; and that of an engine that has failed.
cdef Formula formula_of(formula) except *
cdef raise_failure(const Engine* engine, policy, request)
cdef raise_formula_error(const Engine* engine, formulas, request)

# What a run that was recorded has to say: a Timeline, Tokens, and a dict of counters.
cdef timeline(const Engine* engine, clock)
cdef tokens(const Engine* engine)
cdef dict work(const Engine* engine)
