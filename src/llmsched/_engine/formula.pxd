# Formulas of policies (llmsched/formula.py), run by a small machine: no Python, no memory to be had or given back.
#
# Its cells hold, in this order, what a formula reads, its constants, and what it has computed. Every operation is exact
# or rounded once to the nearest double, so that the readable evaluator gets the same bits.

from libc.float cimport DBL_MAX
from libc.math cimport NAN, ceil, copysign, fabs, floor, fmod, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

cdef enum FormulaName:
    # What a formula reads; the order is that of formula.NAMES.
    NAME_PROMPT
    NAME_LOWER
    NAME_UPPER
    NAME_POINT
    NAME_BOUND
    NAME_GENERATED
    NAME_ARRIVAL
    NAME_JOINED
    NAME_NOW
    NAME_PRIORITY
    NAME_DEADLINE
    NAME_EVICTIONS
    NAME_MEMORY
    NAME_OUTPUT
    NAME_REQUESTS
    NAME_RUNNING
    NAME_WAITING
    NAME_USED
    NAME_FREE
    NAME_BELIEVED_WORK
    NAME_SPEED
    NAME_CACHED
    NAMES

cdef enum FormulaOperation:
    # cells[result] = cells[left] operation cells[right]. The order is that of formula._OPERATIONS.
    DO_ADD
    DO_SUBTRACT
    DO_MULTIPLY
    DO_DIVIDE
    DO_FLOOR_DIVIDE
    DO_REMAINDER
    DO_MIN
    DO_MAX
    DO_LESS
    DO_AT_MOST
    DO_MORE
    DO_AT_LEAST
    DO_EQUAL
    DO_UNEQUAL
    DO_POWER        # `right` is the exponent
    DO_NEGATE       # these have no `right`
    DO_ABS
    DO_FLOOR
    DO_CEIL
    DO_SQRT
    DO_NOT
    DO_COPY
    DO_UNLESS       # if cells[left] is 0, go on at instruction `right`
    DO_JUMP         # go on at instruction `right`

cdef enum:
    FORMULA_CELLS = 256     # formula.MOST_CELLS


cdef struct Instruction:
    int32_t operation
    int32_t left
    int32_t right
    int32_t result


cdef struct Formula:
    # Formula.code and .constants, which outlive it.
    const Instruction* code
    int64_t size
    const double* constants
    int64_t constants_size
    int32_t result          # the cell of its value
    int32_t reads[<int>NAMES]   # reads[0:reads_size]: the names that it reads
    int64_t reads_size

cdef enum FormulaPlace:
    # The fields of a policy that may hold one.
    FOR_ORDER
    FOR_RESERVE
    FOR_EVICT
    PLACES


cdef inline void formula_begin(const Formula* formula, double* cells) noexcept nogil:
    # Once, before the first value is computed with these cells, of which there are FORMULA_CELLS.
    memset(cells, 0, FORMULA_CELLS * sizeof(double))
    if formula.constants_size > 0:
        memcpy(cells + <int>NAMES, formula.constants, formula.constants_size * sizeof(double))


cdef inline double floor_divide(double a, double b) noexcept nogil:
    # Python's a // b for b != 0
    cdef double rest = fmod(a, b)
    cdef double quotient = (a - rest) / b
    cdef double whole
    if rest != 0 and (b < 0) != (rest < 0):
        quotient -= 1
    if quotient == 0:
        return copysign(0.0, a / b)
    whole = floor(quotient)
    return whole + 1 if quotient - whole > 0.5 else whole


cdef inline double remainder_of(double a, double b) noexcept nogil:
    # Python's a % b for b != 0
    cdef double rest = fmod(a, b)
    if rest == 0:
        return copysign(0.0, b)
    return rest + b if (b < 0) != (rest < 0) else rest


cdef inline double formula_value(const Formula* formula, double* cells) noexcept nogil:
    # Its value where the name k is cells[k]; those that it does not read may be anything. NaN where it has none, as it
    # divides by zero, takes the root of a negative number, or exceeds all doubles: Formula.value says which.
    cdef const Instruction* at = formula.code
    cdef const Instruction* end = formula.code + formula.size
    cdef int32_t operation, _again
    cdef double left, right, result
    while at < end:
        operation = at.operation
        left = cells[at.left]
        if operation <= DO_UNEQUAL:
            right = cells[at.right]
            if operation == DO_ADD:
                result = left + right
            elif operation == DO_SUBTRACT:
                result = left - right
            elif operation == DO_MULTIPLY:
                result = left * right
            elif operation == DO_DIVIDE:
                result = left / right if right != 0 else NAN
            elif operation == DO_FLOOR_DIVIDE:
                result = floor_divide(left, right) if right != 0 else NAN
            elif operation == DO_REMAINDER:
                result = remainder_of(left, right) if right != 0 else NAN
            elif operation == DO_MIN:
                result = right if right < left else left
            elif operation == DO_MAX:
                result = right if right > left else left
            elif operation == DO_LESS:
                result = left < right
            elif operation == DO_AT_MOST:
                result = left <= right
            elif operation == DO_MORE:
                result = left > right
            elif operation == DO_AT_LEAST:
                result = left >= right
            elif operation == DO_EQUAL:
                result = left == right
            else:
                result = left != right
        elif operation == DO_POWER:
            result = left
            for _again in range(1, at.right):
                result = result * left
        elif operation == DO_NEGATE:
            result = -left
        elif operation == DO_ABS:
            result = fabs(left)
        elif operation == DO_FLOOR:
            result = floor(left) + 0.0  # no -0.0, as Python's whole numbers have none
        elif operation == DO_CEIL:
            result = ceil(left) + 0.0
        elif operation == DO_SQRT:
            result = sqrt(left)
        elif operation == DO_NOT:
            result = 1 - left
        elif operation == DO_COPY:
            result = left
        else:
            at = formula.code + at.right if operation == DO_JUMP or left == 0 else at + 1
            continue
        if not fabs(result) <= DBL_MAX:
            return NAN
        cells[at.result] = result
        at += 1
    return cells[formula.result]


cdef inline int64_t formula_tokens(double value) noexcept nogil:
    # The value of a reserve in whole tokens: formula.whole_tokens.
    cdef int64_t most = <int64_t>1 << 62, near
    if not value < <double>most:
        return most
    if value < 1:
        return 1
    near = <int64_t>floor(value + 0.5)
    return near if value - <double>near <= 1.0 / 1048576 else near + 1
