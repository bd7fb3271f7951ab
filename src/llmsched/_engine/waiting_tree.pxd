# The waiting set of fill="skip", which asks for *every* request that fits: a B+-tree in admission order. Each inner
# node knows the least cache held and the least demand in its children, so that a part of the tree in which nobody can
# fit is passed over at once.
#
# Where the demand alone says who fits, the tree itself chooses whom to admit: all it needs is the room there is. Who
# joined since is looked at there for the first time: some are chosen at once, the others take their places in the tree
# while the records of those who were chosen, far from the processor until then, are fetched.

from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.stdlib cimport free, realloc

from llmsched._engine.waiting_heap cimport Entry
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.allocation cimport enlarge, prefetch
from llmsched._engine.tree_node cimport (
    FANOUT, NOBODY, Item, Node, first_within, is_before, is_full, items_before, least_of, node_clear, node_move,
    node_put, node_take,
)
from llmsched._engine.request cimport NONE, Request
from llmsched._engine.status cimport NO_MEMORY, OK

cdef extern from "llmsched/_engine/portable.h" nogil:
    const int64_t ANY "LLMSCHED_ANY"    # room for every demand

cdef enum:
    LATE = 8


cdef struct WaitingTree:
    bint with_held      # who fits does not depend on the demand alone: what is held counts too
    int64_t block       # tokens in a block of cache
    int64_t size        # requests in it
    Item late[LATE]     # late[0:late_size], in order: who joined last, and has no place in the tree yet
    int64_t late_size
    Node* nodes
    int64_t nodes_allocated  # nodes in memory,
    int64_t nodes_made  # and those that were ever used
    int32_t vacant      # chain, by child[0], of those that are not in use again
    int32_t root        # or NONE
    int32_t height      # of the root above the leaves
    # the last choice
    int32_t* chosen     # chosen[0:chosen_size]: who is to be admitted, in order
    int64_t chosen_size
    int64_t chosen_allocated
    int64_t room        # tokens of cache that are free, or ANY
    int64_t room_beside  # what it is after the first one, if that was ANY
    int64_t places      # free ones in the batch
    int64_t late_seen   # those of late[] that were looked at,
    int64_t late_kept   # and not chosen: they are late[0:late_kept] now
    int64_t least_chosen  # least demand of those chosen
    int64_t least       # no demand in the tree was below that
    int64_t tests       # how often it was asked who fits
    int64_t operations  # nodes passed, for the work counters


cdef inline void tree_init(WaitingTree* tree, bint with_held, int64_t block) noexcept nogil:
    # Needs a tree of zeros.
    tree.with_held = with_held
    tree.block = block
    tree.root = tree.vacant = NONE


cdef inline void tree_free(WaitingTree* tree) noexcept nogil:
    free(tree.nodes)
    free(tree.chosen)


# The tree ------------------------------------------------------------------------------------------------------------


cdef inline int tree_reserve(WaitingTree* tree) noexcept nogil:
    # Memory for the nodes that one more request may take. OK or NO_MEMORY.
    cdef int64_t larger = 2 * tree.nodes_allocated + tree.height + 2
    cdef Node* nodes
    if tree.nodes_made + tree.height + 2 <= tree.nodes_allocated:
        return OK
    nodes = <Node*>enlarge(tree.nodes, tree.nodes_made * sizeof(Node), larger * sizeof(Node))
    if nodes == NULL:
        return NO_MEMORY
    tree.nodes = nodes
    tree.nodes_allocated = larger
    return OK


cdef inline int32_t tree_new_node(WaitingTree* tree) noexcept nogil:
    # An empty node, for which there is memory.
    cdef int32_t made = tree.vacant
    if made != NONE:
        tree.vacant = tree.nodes[made].child[0]
    else:
        made = <int32_t>tree.nodes_made
        tree.nodes_made += 1
    tree.nodes[made].size = 0
    node_clear(&tree.nodes[made], 0)
    return made


cdef inline void tree_vacate(WaitingTree* tree, int32_t which) noexcept nogil:
    tree.nodes[which].child[0] = tree.vacant
    tree.vacant = which


cdef inline void tree_refresh(WaitingTree* tree, Node* node, int64_t at) noexcept nogil:
    # After the child at this place changed.
    cdef const Node* child = &tree.nodes[node.child[at]]
    node.demand[at] = least_of(child.demand, 0, FANOUT)
    if tree.with_held:
        node.held[at] = least_of(child.held, 0, FANOUT)


cdef inline void tree_put_child(WaitingTree* tree, Node* node, int64_t at, int32_t which) noexcept nogil:
    # A node becomes the child at this place.
    cdef const Node* child = &tree.nodes[which]
    cdef Item item
    item.key = child.key[0]
    item.rest = child.rest[0]
    item.held = item.demand = 0
    node_put(node, at, &item, which, tree.with_held)
    tree_refresh(tree, node, at)


cdef inline void tree_drop(WaitingTree* tree, Node* node, int64_t at) noexcept nogil:
    # The child at this place is empty.
    tree_vacate(tree, node.child[at])
    node.demand[at] = NOBODY
    node.size -= 1
    node_move(node, at, node)


cdef inline void tree_split(WaitingTree* tree, Node* node, int64_t at, const Item* item) noexcept nogil:
    # The child at this place is full: the upper half of it becomes the next child. Or less, if the item that is to come
    # goes behind all in it: more of them will, and nothing before them.
    cdef int32_t made = tree_new_node(tree)
    cdef Node* child = &tree.nodes[node.child[at]]
    cdef bint behind = is_before(child.key[FANOUT - 1], child.rest[FANOUT - 1], item.key, item.rest)
    tree.operations += 1
    node_move(child, 0, child)
    node_move(child, child.used - 4 if behind else child.used // 2, &tree.nodes[made])
    tree_refresh(tree, node, at)
    tree_put_child(tree, node, at + 1, made)


cdef inline int tree_insert(WaitingTree* tree, const Item* item) noexcept nogil:
    # A request takes its place in the tree. OK or NO_MEMORY.
    cdef int64_t at
    cdef int32_t _level, root
    cdef Node* node
    if tree_reserve(tree) == NO_MEMORY:
        return NO_MEMORY
    if tree.root == NONE:
        tree.root = tree_new_node(tree)
        tree.height = 0
    elif is_full(&tree.nodes[tree.root]):
        root = tree_new_node(tree)
        tree_put_child(tree, &tree.nodes[root], 0, tree.root)
        tree_split(tree, &tree.nodes[root], 0, item)
        tree.root = root
        tree.height += 1
    node = &tree.nodes[tree.root]
    for _level in range(tree.height):
        tree.operations += 1
        at = items_before(node.key, node.rest, item.key, item.rest) - 1
        if at < 0:
            at = 0
            node.key[0] = item.key
            node.rest[0] = item.rest
        if is_full(&tree.nodes[node.child[at]]):
            tree_split(tree, node, at, item)
            at += is_before(node.key[at + 1], node.rest[at + 1], item.key, item.rest)
        node.demand[at] = min(node.demand[at], item.demand)
        if tree.with_held:
            node.held[at] = min(node.held[at], item.held)
        node = &tree.nodes[node.child[at]]
    tree.operations += 1
    node_put(node, items_before(node.key, node.rest, item.key, item.rest), item, NONE, tree.with_held)
    return OK


cdef inline bint tree_update(WaitingTree* tree, Node* node, int64_t at) noexcept nogil:
    # Requests left the child at this place. Returns whether it is another one now, or has more items: all who waited in
    # the next one, if both are next to empty.
    cdef Node* child = &tree.nodes[node.child[at]]
    cdef Node* after
    if child.size == 0:
        tree_drop(tree, node, at)
        return True
    if child.size < FANOUT // 4 and at + 1 < node.used:
        after = &tree.nodes[node.child[at + 1]]
        if child.size + after.size <= FANOUT * 3 // 4:
            node_move(child, 0, child)
            node_move(after, 0, child)
            tree_refresh(tree, node, at)
            tree_drop(tree, node, at + 1)
            return True
    tree_refresh(tree, node, at)
    return False


cdef inline void tree_shrink(WaitingTree* tree) noexcept nogil:
    # After requests left: a root of one child is not needed, nor one of nothing.
    cdef int32_t root = tree.root
    while root != NONE and tree.nodes[root].size <= (tree.height > 0):
        tree.root = tree.nodes[root].child[0] if tree.nodes[root].size > 0 else NONE
        tree.height = tree.height - 1 if tree.root != NONE else 0
        tree_vacate(tree, root)
        root = tree.root


cdef inline bint tree_least(
    const WaitingTree* tree, const Node* node, int64_t start, int64_t end, int64_t* held, int64_t* demand
) noexcept nogil:
    # The least that is held, 0 where the tree does not know, and the least demand among these items. Returns whether
    # any of them is there.
    held[0] = least_of(node.held, start, end) if tree.with_held else 0
    demand[0] = least_of(node.demand, start, end)
    return demand[0] < NOBODY


# Joining and leaving -------------------------------------------------------------------------------------------------


cdef inline int tree_add(WaitingTree* tree, Entry entry, int64_t held, int64_t demand) noexcept nogil:
    # A request joins. OK or NO_MEMORY.
    cdef int64_t key = entry.key, rest = <int64_t>entry.tie << 32 | entry.who, at
    cdef int32_t* chosen
    if tree.late_size == LATE and tree_settle(tree) == NO_MEMORY:
        return NO_MEMORY
    if tree.size == tree.chosen_allocated:
        chosen = <int32_t*>realloc(tree.chosen, (2 * tree.size + 64) * sizeof(int32_t))
        if chosen == NULL:
            return NO_MEMORY
        tree.chosen = chosen
        tree.chosen_allocated = 2 * tree.size + 64
    at = tree.late_size
    while at > 0 and is_before(key, rest, tree.late[at - 1].key, tree.late[at - 1].rest):
        tree.late[at] = tree.late[at - 1]
        at -= 1
    tree.late[at].key = key
    tree.late[at].rest = rest
    tree.late[at].held = held
    tree.late[at].demand = demand
    tree.late_size += 1
    tree.size += 1
    return OK


cdef inline int tree_settle(WaitingTree* tree) noexcept nogil:
    # Those that joined last take their places in the tree. OK or NO_MEMORY.
    cdef int64_t k
    for k in range(tree.late_size):
        if tree_insert(tree, &tree.late[k]) == NO_MEMORY:
            return NO_MEMORY
    tree.late_size = 0
    return OK


cdef inline void tree_remove(WaitingTree* tree, Node* leaf, int64_t at) noexcept nogil:
    # The request at this place of a leaf is admitted.
    node_take(leaf, at, tree.with_held)
    tree.size -= 1


cdef inline int32_t tree_first(const WaitingTree* tree) noexcept nogil:
    # The first of all that wait, who all have their places in the tree. Needs one.
    cdef const Node* node = &tree.nodes[tree.root]
    cdef int32_t _level
    cdef int64_t at = 0
    for _level in range(tree.height + 1):
        at = 0
        while node.demand[at] == NOBODY:
            at += 1
        if _level < tree.height:
            node = &tree.nodes[node.child[at]]
    return <int32_t>node.rest[at]


cdef inline int32_t tree_withdraw(WaitingTree* tree, const Request* requests, int32_t index) noexcept nogil:
    # The request with this index goes away, wherever it waits. Its number.
    cdef int64_t k, j
    cdef int32_t p
    for k in range(tree.late_size):
        p = <int32_t>tree.late[k].rest
        if requests[p].index == index:
            for j in range(k + 1, tree.late_size):
                tree.late[j - 1] = tree.late[j]
            tree.late_size -= 1
            tree.size -= 1
            return p
    p = withdraw_below(tree, requests, tree.root, tree.height, index)
    tree_shrink(tree)
    return p


cdef inline int32_t withdraw_below(
    WaitingTree* tree, const Request* requests, int32_t which, int32_t level, int32_t index
) noexcept nogil:
    # The same in a part of the tree; NONE: it is not there.
    cdef Node* node = &tree.nodes[which]
    cdef int64_t at
    cdef int32_t p
    for at in range(node.used):
        if node.demand[at] == NOBODY:
            continue
        if level > 0:
            p = withdraw_below(tree, requests, node.child[at], level - 1, index)
            if p != NONE:
                tree_update(tree, node, at)
                return p
        else:
            p = <int32_t>node.rest[at]
            if requests[p].index == index:
                tree_remove(tree, node, at)
                return p
    return NONE


# Choosing, where the demand alone decides --------------------------------------------------------------------------


cdef inline int tree_choose(
    WaitingTree* tree, const Request* requests, int64_t room, int64_t places, bint alone
) noexcept nogil:
    # Chooses, in order, whoever fits into that room, up to so many; they leave the tree. If there is nobody else
    # (`alone`), the first of all fits whatever it asks for. OK or NO_MEMORY.
    tree.chosen_size = tree.late_seen = tree.late_kept = tree.tests = 0
    tree.least_chosen = INT64_MAX
    tree.places = places
    tree.room = tree.room_beside = room
    if alone:
        tree.room = ANY
    if tree.root != NONE:
        tree.least = least_of(tree.nodes[tree.root].demand, 0, FANOUT)
        if some_may_fit(tree):
            choose_below(tree, requests, tree.root, tree.height)
            tree_shrink(tree)
    choose_late(tree, requests, INT64_MAX, INT64_MAX)
    tree.late_size = tree.late_kept
    return tree_settle(tree)


cdef inline bint some_may_fit(const WaitingTree* tree) noexcept nogil:
    # Of those in the tree.
    return tree.places > 0 and tree.room >= tree.least


cdef inline void choose(WaitingTree* tree, const Request* requests, int64_t rest, int64_t demand) noexcept nogil:
    prefetch(&requests[<int32_t>rest])
    tree.chosen[tree.chosen_size] = <int32_t>rest
    tree.chosen_size += 1
    tree.places -= 1
    tree.least_chosen = min(tree.least_chosen, demand)
    if tree.room == ANY:
        tree.room = tree.room_beside
    tree.room -= whole_blocks(demand, tree.block)


cdef inline void choose_late(WaitingTree* tree, const Request* requests, int64_t key, int64_t rest) noexcept nogil:
    # Among those that joined last and go before (key, rest).
    cdef const Item* item = &tree.late[tree.late_seen]
    while tree.late_seen < tree.late_size and is_before(item.key, item.rest, key, rest):
        if tree.places > 0 and item.demand <= tree.room:
            tree.size -= 1
            choose(tree, requests, item.rest, item.demand)
        else:
            tree.late[tree.late_kept] = item[0]
            tree.late_kept += 1
        tree.late_seen += 1
        tree.tests += 1
        item += 1


cdef inline void choose_below(WaitingTree* tree, const Request* requests, int32_t which, int32_t level) noexcept nogil:
    # In a part of the tree, and among those that joined last and go before one that fits.
    cdef Node* node = &tree.nodes[which]
    cdef int64_t at = next_within(tree, node, 0), after, chosen
    while at < FANOUT:
        if level > 0:
            chosen = tree.chosen_size
            choose_below(tree, requests, node.child[at], level - 1)
            # As long as nobody went who asked for the least, that stays as it was.
            if tree.chosen_size == chosen or tree.least_chosen > node.demand[at] or not tree_update(tree, node, at):
                at += 1
            at = next_within(tree, node, at)
            continue
        choose_late(tree, requests, node.key[at], node.rest[at])
        if tree.places <= 0 or node.demand[at] > tree.room:
            at = next_within(tree, node, at + 1)
            continue
        choose(tree, requests, node.rest[at], node.demand[at])
        after = next_within(tree, node, at + 1)  # before the node is written to: reading it then would take long
        tree_remove(tree, node, at)
        at = after


cdef inline int64_t next_within(WaitingTree* tree, const Node* node, int64_t start) noexcept nogil:
    # The first item from there on that fits, or may have one below it that does; beyond all where there is none.
    if not some_may_fit(tree):
        return FANOUT
    tree.tests += 1
    return first_within(node.demand, start, tree.room)
