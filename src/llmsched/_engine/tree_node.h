/* The loops over the items of a node (see tree_node.pxd), in C so that one portable binary holds versions for the
   vector units that machines have. They always pass over all places: behind the last item there are items that match
   nothing, and how often a loop turns need not be guessed. */
#ifndef LLMSCHED_NODE_H
#define LLMSCHED_NODE_H
#include <stdint.h>
#include "memory_profile.h"

enum { LLMSCHED_FANOUT = 48 };

/* How many items come before (key, rest). */
LLMSCHED_VECTOR static int64_t items_before(const int64_t *restrict keys, const int64_t *restrict rests, int64_t key,
                                            int64_t rest) {
    int64_t before = 0;
    for (int64_t k = 0; k < LLMSCHED_FANOUT; k++)
        before += (keys[k] < key) | ((keys[k] == key) & (rests[k] < rest));
    return before;
}

/* The first value from place `from` on that is no greater than `most`, or INT64_MAX where there is none. */
LLMSCHED_VECTOR static int64_t first_within(const int64_t *restrict values, int64_t from, int64_t most) {
    int64_t first = INT64_MAX;
    for (int64_t k = 0; k < LLMSCHED_FANOUT; k++) {
        int64_t out = ((most - values[k]) | (k - from)) >> 63; /* all bits, or none */
        int64_t at = k | (out & INT64_MAX);
        first = at < first ? at : first;
    }
    return first;
}

/* The least of the values from place `start` up to but not `end`, which are not negative; INT64_MAX if that is none. */
LLMSCHED_VECTOR static int64_t least_of(const int64_t *restrict values, int64_t start, int64_t end) {
    int64_t least = INT64_MAX;
    for (int64_t k = 0; k < LLMSCHED_FANOUT; k++) {
        int64_t out = ((k - start) | (end - 1 - k)) >> 63;
        int64_t value = values[k] | (out & INT64_MAX);
        least = value < least ? value : least;
    }
    return least;
}

#endif
