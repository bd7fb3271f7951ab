# A node of the waiting tree (see waiting_tree.pxd): so many items in order, each array on cache lines of its own.

from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.string cimport memmove

from llmsched._engine.request cimport NONE

cdef extern from "llmsched/_engine/tree_node.h" nogil:
    enum:
        FANOUT "LLMSCHED_FANOUT"
    int64_t items_before(const int64_t* keys, const int64_t* rests, int64_t key, int64_t rest) noexcept
    int64_t first_within(const int64_t* values, int64_t start, int64_t most) noexcept
    int64_t least_of(const int64_t* values, int64_t start, int64_t end) noexcept

cdef extern from "llmsched/_engine/portable.h" nogil:
    const int64_t NOBODY "LLMSCHED_NOBODY"  # what no request holds or asks for


cdef struct Item:
    # A waiting request, or a child with what is least below it.
    int64_t key         # Entry.key; of a child, no greater than any in it and greater than any in the one before
    int64_t rest        # what decides among equal keys: Entry.tie and Entry.who
    int64_t held        # tokens of cache it needs for what it has: s + g
    int64_t demand      # tokens that are believed to come; with hold="peak" prompt and all tokens, those it has too


cdef struct Node:
    # The items of a leaf are requests, those of an inner node its children. A request that leaves a leaf leaves a gap,
    # which keeps its key and has the demand NOBODY. Behind the last item there are such demands, and keys of INT64_MAX.
    int64_t key[FANOUT]
    int64_t rest[FANOUT]
    int64_t demand[FANOUT]
    int64_t held[FANOUT]    # of use only in a tree with_held
    int32_t child[FANOUT]   # of an inner node
    int64_t used            # items, gaps too
    int64_t size            # without gaps
    int64_t unused[6]       # up to whole cache lines


cdef inline bint is_before(int64_t key, int64_t rest, int64_t other_key, int64_t other_rest) noexcept nogil:
    return key < other_key or (key == other_key and rest < other_rest)


cdef inline void node_clear(Node* node, int64_t start) noexcept nogil:
    # There is nothing from this place on.
    cdef int64_t k
    node.used = start
    for k in range(start, FANOUT):
        node.key[k] = node.rest[k] = INT64_MAX
        node.held[k] = node.demand[k] = NOBODY


cdef inline void node_put(Node* node, int64_t at, const Item* item, int32_t child, bint with_held) noexcept nogil:
    # A new item at this place, before the one that is there, of a node that is not full. Next to a gap nothing moves.
    cdef int64_t behind = node.used - at
    if at > 0 and node.demand[at - 1] == NOBODY:
        at -= 1
    elif behind == 0 or node.demand[at] != NOBODY:
        memmove(&node.key[at + 1], &node.key[at], behind * sizeof(int64_t))
        memmove(&node.rest[at + 1], &node.rest[at], behind * sizeof(int64_t))
        memmove(&node.demand[at + 1], &node.demand[at], behind * sizeof(int64_t))
        if with_held:
            memmove(&node.held[at + 1], &node.held[at], behind * sizeof(int64_t))
        if child != NONE:
            memmove(&node.child[at + 1], &node.child[at], behind * sizeof(int32_t))
        node.used += 1
    node.key[at] = item.key
    node.rest[at] = item.rest
    node.demand[at] = item.demand
    if with_held:
        node.held[at] = item.held
    if child != NONE:
        node.child[at] = child
    node.size += 1


cdef inline void node_take(Node* leaf, int64_t at, bint with_held) noexcept nogil:
    # The request at this place leaves.
    leaf.demand[at] = NOBODY
    if with_held:
        leaf.held[at] = NOBODY
    leaf.size -= 1


cdef inline void node_move(Node* node, int64_t start, Node* to) noexcept nogil:
    # What is from place `start` on, but for gaps, goes behind the items of another node, or of this one before `start`.
    cdef int64_t used = node.used, k
    node_cut(node, start)
    for k in range(start, used):
        if node.demand[k] != NOBODY:
            to.key[to.used] = node.key[k]
            to.rest[to.used] = node.rest[k]
            to.held[to.used] = node.held[k]
            to.demand[to.used] = node.demand[k]
            to.child[to.used] = node.child[k]
            to.used += 1
            to.size += 1
    node_clear(node, node.used)


cdef inline void node_cut(Node* node, int64_t start) noexcept nogil:
    # What is from this place on counts no more.
    cdef int64_t k
    for k in range(start, node.used):
        node.size -= node.demand[k] != NOBODY
    node.used = start


cdef inline bint is_full(Node* node) noexcept nogil:
    # Whether there is no place in it, or hardly any were its gaps closed; else they are, if there is none.
    if node.used < FANOUT:
        return False
    if node.size > FANOUT * 3 // 4:
        return True
    node_move(node, 0, node)
    return False
