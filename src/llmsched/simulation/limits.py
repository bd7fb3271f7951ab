"""Numbers that bound every run, for all who simulate."""

#: A run is stopped in which õ would pass this (62 doublings): 64 bits hold it, and no request is as long.
LARGEST_BOUND = 2**62
#: A run is stopped after so many rounds, or admissions, and a hundred attempts of everybody, that came to nothing.
STALL_START, STALL_FACTOR = 1000, 100
#: So many draws of random eviction, in a row and in whole passes, that name nobody end a run, within a second.
MOST_VAIN_DRAWS = 2**18
#: Tokens in a block of cache; real ones have 16 or so, and the engine counts requests by their place in the block.
LARGEST_BLOCK = 1024
LARGEST_POOL = 2**30  # blocks of a cache that remembers what they hold
