"""Which sequences own each KV block, and which free blocks still hold a prefix that can be reused.

A full block is identified by the digest of all tokens up to its end. Freed blocks keep their digest and can be found
by it until they are allocated again: blocks without a digest go first, then the least recently used.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b


def root_digest(cache_salt: str = "", computed_with: tuple[object, ...] = ()) -> bytes:
    """The digest of the empty prefix, from which all others follow.

    Prefixes with different salts never match, nor do those that were computed with something else: other experts or
    another adapter. What `computed_with` holds is told apart by its `repr`.
    """
    root = f"{computed_with} {cache_salt}".encode("utf-8", "surrogatepass")
    return blake2b(root, digest_size=16, person=b"prefix root").digest()


def block_digest(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """The digest of a prefix that ends with this block. 128 bits: a collision would show one user another's text."""
    return blake2b(previous + array("q", token_ids).tobytes(), digest_size=16).digest()


def extend_digests(digests: list[bytes], token_ids: Sequence[int], block_size: int) -> None:
    """Append the digests of the full blocks of `token_ids` that `digests` lacks. It starts with the root digest."""
    for end in range(len(digests) * block_size, len(token_ids) + 1, block_size):
        digests.append(block_digest(digests[-1], token_ids[end - block_size : end]))


class BlockManager:
    """Reference counts of `num_blocks` blocks, and the free blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._refs = [0] * num_blocks
        self._digests: dict[int, bytes] = {}
        self._blocks: dict[bytes, int] = {}
        self._blank = list(range(num_blocks - 1, -1, -1))  # free, without a digest: a stack, so that memory stays warm
        self._reusable: dict[int, None] = {}  # free, with a digest: least recently used first

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._reusable)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def match(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks of the leading digests that are still there. Valid until the next allocation."""
        found = []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def can_allocate(self, count: int, *, shared: Sequence[int] = (), spare: int = 0) -> bool:
        """Whether `count` new blocks are free beside the `shared` ones, with `spare` left for running sequences."""
        kept = sum(1 for block in shared if not self._refs[block])
        return self.num_free - kept >= count + spare

    def share(self, blocks: Sequence[int]) -> None:
        """Add an owner to blocks that `match` found."""
        for block in blocks:
            self._reusable.pop(block, None)
            self._refs[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks. Call `can_allocate` first."""
        assert self.num_free >= count, "allocation without can_allocate"
        return [self._take() for _ in range(count)]

    def free(self, blocks: Sequence[int]) -> None:
        """Remove one owner of each. The last blocks are reused first: more requests share the start of a prefix."""
        for block in reversed(blocks):
            assert self._refs[block] > 0, "a block was freed twice"
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if block in self._digests:
                self._reusable[block] = None
            else:
                self._blank.append(block)

    def register(self, block: int, digest: bytes) -> None:
        """Let `match` find this owned, full block, unless another block has the same content."""
        assert self._refs[block] > 0, "only an owned block can be registered"
        if digest not in self._blocks and block not in self._digests:
            self._blocks[digest] = block
            self._digests[block] = digest

    def forget(self) -> None:
        """Drop all digests, so that nothing computed so far is reused."""
        self._blank.extend(reversed(self._reusable))
        self._reusable.clear()
        self._digests.clear()
        self._blocks.clear()

    def _take(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block = next(iter(self._reusable))
            del self._reusable[block]
            del self._blocks[self._digests.pop(block)]
        self._refs[block] = 1
        return block
