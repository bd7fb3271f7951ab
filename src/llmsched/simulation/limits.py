"""Numbers that bound every run, for all who simulate."""

#: õ stops rising here (62 doublings): no believed length can see the difference, and 64 bits hold it.
LARGEST_BOUND = 2**62
#: A run is stopped after so many rounds, or admissions, and a hundred attempts of everybody, that came to nothing.
STALL_START, STALL_FACTOR = 1000, 100
#: Tokens in a block of cache; real ones have 16 or so, and the engine counts requests by their place in the block.
LARGEST_BLOCK = 1024
LARGEST_POOL = 2**30  # blocks of a cache that remembers what they hold
