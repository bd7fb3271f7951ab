"""The blocks of a cache that remembers what they hold, readable (model.md, section 7): vLLM's block pool."""

from __future__ import annotations

#: Whose block it is: a name that requests share, or (request, j).
Name = int | tuple[int, int]


class Block:
    """A block of the cache: by how many requests it is held, and its name, if it has one."""

    __slots__ = ("holders", "name")

    def __init__(self) -> None:
        self.holders = 1
        self.name: Name | None = None


class BlockPool:
    """The blocks of a cache."""

    def __init__(self, blocks: int) -> None:
        self.nameless = blocks  # free ones, all alike
        self.named_free: dict[Block, None] = {}  # free ones with a name, in the order in which they were freed
        self.called: dict[Name, list[Block]] = {}  # of the blocks with a name the first is the one that was named first
        self.held = 0

    def find(self, name: Name) -> Block | None:
        """The block of that name, of several the one that was named first."""
        blocks = self.called.get(name)
        return blocks[0] if blocks else None

    def take(self) -> Block:
        """A free block: one without a name, else the one that was freed first, which forgets its name."""
        self.held += 1
        if self.nameless:
            self.nameless -= 1
            return Block()
        block = next(iter(self.named_free))
        del self.named_free[block]
        assert block.name is not None
        self.called[block.name].remove(block)
        block.name = None
        block.holders = 1
        return block

    def hold(self, block: Block) -> None:
        """One more request holds it."""
        if block.holders == 0:
            del self.named_free[block]
            self.held += 1
        block.holders += 1

    def call(self, block: Block, name: Name) -> None:
        """It is full, and has a name from now on."""
        block.name = name
        self.called.setdefault(name, []).append(block)

    def give_back(self, block: Block) -> None:
        """One request less holds it."""
        block.holders -= 1
        if block.holders:
            return
        self.held -= 1
        if block.name is None:
            self.nameless += 1
        else:
            self.named_free[block] = None
