# Assertions of the compiled core. They vanish unless CMake is given LLMSCHED_CHECKS=ON (see tools/checked); there, one
# that does not hold names file and line and aborts the process, with or without the GIL.
#
#     from llmsched._engine.check cimport check
#     check(heap.size > 0)
#
# Conditions must be free of side effects. `check(a); check(b)` rather than `check(a and b)`: Cython writes `and` and
# `or` as branches of their own, which the message cannot quote and only the optimiser removes.

cdef extern from * nogil:
    """
    #ifdef LLMSCHED_CHECKS
    #include <stdio.h>
    #include <stdlib.h>
    #define LLMSCHED_CHECK(condition) \\
        do { \\
            if (!(condition)) { \\
                fprintf(stderr, "%s:%d: this must hold, and does not: %s\\n", __FILE__, __LINE__, #condition); \\
                abort(); \\
            } \\
        } while (0)
    #else
    #define LLMSCHED_CHECK(condition) ((void)sizeof(condition))
    #endif
    """
    void check "LLMSCHED_CHECK" (bint condition) noexcept
