# The waiting set of fill="skip", which asks for *every* request that fits: a treap in admission order. Each node knows
# the least cache held and the least length to come below it, so that a part of the line in which nobody can fit is
# passed over at once.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, realloc

from llmsched._heap cimport Entry, entry_less
from llmsched._random cimport splitmix64_next
from llmsched._request cimport NONE


cdef struct Node:
    # A waiting request; its number is the node's.
    Entry entry             # its place in the order
    int64_t held            # tokens of cache it needs for what it has: s + g
    int64_t length          # tokens that are believed to come; with hold="peak" prompt and all tokens, those it has too
    int64_t least_held      # of it and all below it
    int64_t least_length
    uint64_t priority       # none below it has a higher one
    int32_t left            # who goes before it, or NONE
    int32_t right


cdef struct Line:
    Node* nodes
    int64_t room
    int32_t first           # the root, or NONE
    int64_t operations      # nodes passed, for the work counters


cdef inline void line_init(Line* line) noexcept nogil:
    line.nodes = NULL
    line.room = line.operations = 0
    line.first = NONE


cdef inline void line_free(Line* line) noexcept nogil:
    free(line.nodes)
    line.nodes = NULL


cdef inline int line_add(Line* line, int32_t p, Entry entry, int64_t held, int64_t length) noexcept nogil:
    # 0, or -1 without memory.
    cdef Node* nodes
    cdef Node* node
    cdef uint64_t state = p
    if p >= line.room:
        nodes = <Node*>realloc(line.nodes, (2 * <int64_t>p + 64) * sizeof(Node))
        if nodes == NULL:
            return -1
        line.nodes = nodes
        line.room = 2 * <int64_t>p + 64
    node = &line.nodes[p]
    node.entry = entry
    node.held = held
    node.length = length
    node.priority = splitmix64_next(&state)
    node.left = node.right = NONE
    line.first = line_insert(line, line.first, p)
    return 0


cdef inline void line_refresh(const Line* line, Node* node) noexcept nogil:
    # After its children changed.
    cdef const Node* child
    node.least_held = node.held
    node.least_length = node.length
    if node.left != NONE:
        child = &line.nodes[node.left]
        node.least_held = min(node.least_held, child.least_held)
        node.least_length = min(node.least_length, child.least_length)
    if node.right != NONE:
        child = &line.nodes[node.right]
        node.least_held = min(node.least_held, child.least_held)
        node.least_length = min(node.least_length, child.least_length)


cdef inline int32_t line_insert(Line* line, int32_t root, int32_t p) noexcept nogil:
    # Returns the new root of this part.
    cdef Node* node
    cdef Node* new = &line.nodes[p]
    line.operations += 1
    if root == NONE:
        line_refresh(line, new)
        return p
    node = &line.nodes[root]
    if new.priority > node.priority:
        line_split(line, root, new.entry, &new.left, &new.right)
        line_refresh(line, new)
        return p
    if entry_less(new.entry, node.entry):
        node.left = line_insert(line, node.left, p)
    else:
        node.right = line_insert(line, node.right, p)
    node.least_held = min(node.least_held, new.held)  # its children need not be looked at
    node.least_length = min(node.least_length, new.length)
    return root


cdef inline void line_split(Line* line, int32_t root, Entry entry, int32_t* before, int32_t* after) noexcept nogil:
    cdef Node* node
    line.operations += 1
    if root == NONE:
        before[0] = after[0] = NONE
        return
    node = &line.nodes[root]
    if entry_less(node.entry, entry):
        line_split(line, node.right, entry, &node.right, after)
        before[0] = root
    else:
        line_split(line, node.left, entry, before, &node.left)
        after[0] = root
    line_refresh(line, node)


cdef inline int32_t line_join(Line* line, int32_t before, int32_t after) noexcept nogil:
    # One part of two; returns its root.
    cdef int32_t root
    line.operations += 1
    if before == NONE:
        return after
    if after == NONE:
        return before
    if line.nodes[before].priority > line.nodes[after].priority:
        root = before
        line.nodes[root].right = line_join(line, line.nodes[root].right, after)
    else:
        root = after
        line.nodes[root].left = line_join(line, before, line.nodes[root].left)
    line_refresh(line, &line.nodes[root])
    return root
