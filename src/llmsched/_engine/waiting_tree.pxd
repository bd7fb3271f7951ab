# The waiting set of fill="skip", which asks for *every* request that fits: a B+-tree in admission order. Each inner
# node knows the least cache held and the least length to come in its children, so that a part of the line in which
# nobody can fit is passed over at once.
#
# Where two numbers say who fits, the line itself chooses whom to admit: the room there is, and the length of each. Who
# joined since is looked at there for the first time: some are chosen at once, the others take their places in the tree
# while the records of those who were chosen, far from the processor until then, are fetched.

from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.stdlib cimport free, realloc

from llmsched._engine.waiting_heap cimport Entry
from llmsched._engine.allocation cimport enlarge, prefetch
from llmsched._engine.tree_node cimport (
    FANOUT, NOBODY, Item, Node, first_within, is_before, is_full, items_before, least_of, node_clear, node_move,
    node_put, node_take,
)
from llmsched._engine.request cimport NONE, Request

cdef enum:
    LATE = 8
    ANY = NOBODY - 1    # room for every length


cdef struct Line:
    bint wide           # who fits does not depend on lengths alone: what is held counts too
    int64_t block       # tokens in a block of cache
    int64_t size        # requests in it
    Item late[LATE]     # late[0:late_size], in order: who joined last, and has no place in the tree yet
    int64_t late_size
    Node* nodes
    int64_t room_made   # nodes in memory,
    int64_t made        # and those that were ever used
    int32_t vacant      # chain, by child[0], of those that are not in use again
    int32_t first       # the root, or NONE
    int32_t height      # of the root above the leaves
    # the last choice
    int32_t* chosen     # chosen[0:chosen_size]: who is to be admitted, in order
    int64_t chosen_size
    int64_t chosen_room
    int64_t room        # tokens that are left for others, or ANY
    int64_t room_beside  # what it is after the first one, if that was ANY
    int64_t places      # places that are left in the batch
    int64_t late_seen   # those of late[] that were looked at,
    int64_t late_left   # and not chosen: they are late[0:late_left] now
    int64_t shortest    # of the lengths chosen
    int64_t least       # no length in the tree was below that
    int64_t tests       # how often it was asked who fits
    int64_t operations  # nodes passed, for the work counters


cdef inline void line_init(Line* line, bint wide, int64_t block) noexcept nogil:
    # Needs a line of zeros.
    line.wide = wide
    line.block = block
    line.first = line.vacant = NONE


cdef inline void line_free(Line* line) noexcept nogil:
    free(line.nodes)
    free(line.chosen)


# The tree ------------------------------------------------------------------------------------------------------------


cdef inline int line_reserve(Line* line) noexcept nogil:
    # Room for the nodes that one more request may take. 0, or -1 without memory.
    cdef int64_t room = 2 * line.room_made + line.height + 2
    cdef Node* nodes
    if line.made + line.height + 2 <= line.room_made:
        return 0
    nodes = <Node*>enlarge(line.nodes, line.made * sizeof(Node), room * sizeof(Node))
    if nodes == NULL:
        return -1
    line.nodes = nodes
    line.room_made = room
    return 0


cdef inline int32_t line_node(Line* line) noexcept nogil:
    # An empty node, for which there is room.
    cdef int32_t made = line.vacant
    if made != NONE:
        line.vacant = line.nodes[made].child[0]
    else:
        made = <int32_t>line.made
        line.made += 1
    line.nodes[made].size = 0
    node_clear(&line.nodes[made], 0)
    return made


cdef inline void line_vacate(Line* line, int32_t which) noexcept nogil:
    line.nodes[which].child[0] = line.vacant
    line.vacant = which


cdef inline void line_refresh(Line* line, Node* node, int64_t at) noexcept nogil:
    # After the child at this place changed.
    cdef const Node* child = &line.nodes[node.child[at]]
    node.length[at] = least_of(child.length, 0, FANOUT)
    if line.wide:
        node.held[at] = least_of(child.held, 0, FANOUT)


cdef inline void line_put_child(Line* line, Node* node, int64_t at, int32_t which) noexcept nogil:
    # A node becomes the child at this place.
    cdef const Node* child = &line.nodes[which]
    cdef Item item
    item.key = child.key[0]
    item.rest = child.rest[0]
    item.held = item.length = 0
    node_put(node, at, &item, which, line.wide)
    line_refresh(line, node, at)


cdef inline void line_drop(Line* line, Node* node, int64_t at) noexcept nogil:
    # The child at this place is empty.
    line_vacate(line, node.child[at])
    node.length[at] = NOBODY
    node.size -= 1
    node_move(node, at, node)


cdef inline void line_split(Line* line, Node* node, int64_t at, const Item* item) noexcept nogil:
    # The child at this place is full: the upper half of it becomes the next child. Or less, if the item that is to come
    # goes behind all in it: more of them will, and nothing before them.
    cdef int32_t made = line_node(line)
    cdef Node* child = &line.nodes[node.child[at]]
    cdef bint behind = is_before(child.key[FANOUT - 1], child.rest[FANOUT - 1], item.key, item.rest)
    line.operations += 1
    node_move(child, 0, child)
    node_move(child, child.used - 4 if behind else child.used // 2, &line.nodes[made])
    line_refresh(line, node, at)
    line_put_child(line, node, at + 1, made)


cdef inline int line_place(Line* line, const Item* item) noexcept nogil:
    # A request takes its place in the tree. 0, or -1 without memory.
    cdef int64_t at
    cdef int32_t _level, root
    cdef Node* node
    if line_reserve(line) < 0:
        return -1
    if line.first == NONE:
        line.first = line_node(line)
        line.height = 0
    elif is_full(&line.nodes[line.first]):
        root = line_node(line)
        line_put_child(line, &line.nodes[root], 0, line.first)
        line_split(line, &line.nodes[root], 0, item)
        line.first = root
        line.height += 1
    node = &line.nodes[line.first]
    for _level in range(line.height):
        line.operations += 1
        at = items_before(node.key, node.rest, item.key, item.rest) - 1
        if at < 0:
            at = 0
            node.key[0] = item.key
            node.rest[0] = item.rest
        if is_full(&line.nodes[node.child[at]]):
            line_split(line, node, at, item)
            at += is_before(node.key[at + 1], node.rest[at + 1], item.key, item.rest)
        node.length[at] = min(node.length[at], item.length)
        if line.wide:
            node.held[at] = min(node.held[at], item.held)
        node = &line.nodes[node.child[at]]
    line.operations += 1
    node_put(node, items_before(node.key, node.rest, item.key, item.rest), item, NONE, line.wide)
    return 0


cdef inline bint line_update(Line* line, Node* node, int64_t at) noexcept nogil:
    # Requests left the child at this place. Returns whether it is another one now, or has more items: all who waited in
    # the next one, if both are next to empty.
    cdef Node* child = &line.nodes[node.child[at]]
    cdef Node* after
    if child.size == 0:
        line_drop(line, node, at)
        return True
    if child.size < FANOUT // 4 and at + 1 < node.used:
        after = &line.nodes[node.child[at + 1]]
        if child.size + after.size <= FANOUT * 3 // 4:
            node_move(child, 0, child)
            node_move(after, 0, child)
            line_refresh(line, node, at)
            line_drop(line, node, at + 1)
            return True
    line_refresh(line, node, at)
    return False


cdef inline void line_shrink(Line* line) noexcept nogil:
    # After requests left: a root of one child is not needed, nor one of nothing.
    cdef int32_t root = line.first
    while root != NONE and line.nodes[root].size <= (line.height > 0):
        line.first = line.nodes[root].child[0] if line.nodes[root].size > 0 else NONE
        line.height = line.height - 1 if line.first != NONE else 0
        line_vacate(line, root)
        root = line.first


cdef inline bint line_least(
    const Line* line, const Node* node, int64_t start, int64_t end, int64_t* held, int64_t* length
) noexcept nogil:
    # The least that is held, 0 where the line does not know, and the least length among these items. Returns whether
    # any of them is there.
    held[0] = least_of(node.held, start, end) if line.wide else 0
    length[0] = least_of(node.length, start, end)
    return length[0] < NOBODY


# Joining and leaving -------------------------------------------------------------------------------------------------


cdef inline int line_add(Line* line, Entry entry, int64_t held, int64_t length) noexcept nogil:
    # A request joins. 0, or -1 without memory.
    cdef int64_t key = entry.key, rest = <int64_t>entry.tie << 32 | entry.who, at
    cdef int32_t* chosen
    if line.late_size == LATE and line_settle(line) < 0:
        return -1
    if line.size == line.chosen_room:
        chosen = <int32_t*>realloc(line.chosen, (2 * line.size + 64) * sizeof(int32_t))
        if chosen == NULL:
            return -1
        line.chosen = chosen
        line.chosen_room = 2 * line.size + 64
    at = line.late_size
    while at > 0 and is_before(key, rest, line.late[at - 1].key, line.late[at - 1].rest):
        line.late[at] = line.late[at - 1]
        at -= 1
    line.late[at].key = key
    line.late[at].rest = rest
    line.late[at].held = held
    line.late[at].length = length
    line.late_size += 1
    line.size += 1
    return 0


cdef inline int line_settle(Line* line) noexcept nogil:
    # Those that joined last take their places in the tree. 0, or -1 without memory.
    cdef int64_t k
    for k in range(line.late_size):
        if line_place(line, &line.late[k]) < 0:
            return -1
    line.late_size = 0
    return 0


cdef inline void line_remove(Line* line, Node* leaf, int64_t at) noexcept nogil:
    # The request at this place of a leaf is admitted.
    node_take(leaf, at, line.wide)
    line.size -= 1


# Choosing, where the line is not wide --------------------------------------------------------------------------------


cdef inline int line_choose(
    Line* line, const Request* requests, int64_t room, int64_t places, bint alone
) noexcept nogil:
    # Chooses, in order, whoever fits into that room, up to so many; they leave the line. If there is nobody else
    # (`alone`), the first of all fits whatever its length. 0, or -1 without memory.
    line.chosen_size = line.late_seen = line.late_left = line.tests = 0
    line.shortest = INT64_MAX
    line.places = places
    line.room = line.room_beside = room
    if alone:
        line.room = ANY
    if line.first != NONE:
        line.least = least_of(line.nodes[line.first].length, 0, FANOUT)
        if some_may_fit(line):
            choose_below(line, requests, line.first, line.height)
            line_shrink(line)
    choose_late(line, requests, INT64_MAX, INT64_MAX)
    line.late_size = line.late_left
    return line_settle(line)


cdef inline bint some_may_fit(const Line* line) noexcept nogil:
    # Of those in the tree.
    return line.places > 0 and line.room >= line.least


cdef inline void choose(Line* line, const Request* requests, int64_t rest, int64_t length) noexcept nogil:
    prefetch(&requests[<int32_t>rest])
    line.chosen[line.chosen_size] = <int32_t>rest
    line.chosen_size += 1
    line.places -= 1
    line.shortest = min(line.shortest, length)
    if line.room == ANY:
        line.room = line.room_beside
    line.room -= length if line.block == 1 else (length + line.block - 1) // line.block * line.block


cdef inline void choose_late(Line* line, const Request* requests, int64_t key, int64_t rest) noexcept nogil:
    # Among those that joined last and go before (key, rest).
    cdef const Item* item = &line.late[line.late_seen]
    while line.late_seen < line.late_size and is_before(item.key, item.rest, key, rest):
        if line.places > 0 and item.length <= line.room:
            line.size -= 1
            choose(line, requests, item.rest, item.length)
        else:
            line.late[line.late_left] = item[0]
            line.late_left += 1
        line.late_seen += 1
        line.tests += 1
        item += 1


cdef inline void choose_below(Line* line, const Request* requests, int32_t which, int32_t level) noexcept nogil:
    # In a part of the tree, and among those that joined last and go before one that fits.
    cdef Node* node = &line.nodes[which]
    cdef int64_t at = next_within(line, node, 0), after, chosen
    while at < FANOUT:
        if level > 0:
            chosen = line.chosen_size
            choose_below(line, requests, node.child[at], level - 1)
            # As long as nobody went who had the least to come, that stays as it was.
            if line.chosen_size == chosen or line.shortest > node.length[at] or not line_update(line, node, at):
                at += 1
            at = next_within(line, node, at)
            continue
        choose_late(line, requests, node.key[at], node.rest[at])
        if line.places <= 0 or node.length[at] > line.room:
            at = next_within(line, node, at + 1)
            continue
        choose(line, requests, node.rest[at], node.length[at])
        after = next_within(line, node, at + 1)  # before the node is written to: reading it then would take long
        line_remove(line, node, at)
        at = after


cdef inline int64_t next_within(Line* line, const Node* node, int64_t start) noexcept nogil:
    # The first item from there on that fits, or may have one below it that does; beyond all where there is none.
    if not some_may_fit(line):
        return FANOUT
    line.tests += 1
    return first_within(node.length, start, line.room)
