"""What `_engine/portable.h` says with an instruction, and what it writes out in C11, are the same numbers."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls

SOURCE = """
#include "llmsched/_engine/portable.h"
int lowest_bit(uint64_t bits) { return llmsched_lowest_bit(bits); }
uint32_t bits_up_to(uint32_t most) { return llmsched_bits_up_to(most); }
void product(const uint64_t *a, const uint64_t *b, uint64_t *result) {
    llmsched_wide x = {a[0], a[1]}, y = {b[0], b[1]}, wide = llmsched_wide_product(x, y);
    result[0] = wide.high; result[1] = wide.low;
}
void sum(const uint64_t *a, const uint64_t *b, uint64_t *result) {
    llmsched_wide x = {a[0], a[1]}, y = {b[0], b[1]}, wide = llmsched_wide_sum(x, y);
    result[0] = wide.high; result[1] = wide.low;
}
double to_double(const uint64_t *a) { llmsched_wide x = {a[0], a[1]}; return llmsched_wide_to_double(x); }
int entry_less(const void *a, const void *b) { return llmsched_entry_less(a, b); }
int memory_works(void) { /* memory of every size can be written and freed */
    for (size_t bytes = 1; bytes < (size_t)1 << 24; bytes *= 3) {
        unsigned char *block = llmsched_allocate(bytes), *larger;
        if (block == NULL) return 0;
        memset(block, 7, bytes);
        larger = llmsched_enlarge(block, bytes, 2 * bytes);
        if (larger == NULL || larger[bytes - 1] != 7) return 0;
        free(larger);
    }
    llmsched_prefetch(NULL);
    llmsched_prefetch_to_write(NULL);
    return 1;
}
"""


class Entry(ctypes.Structure):
    """As in waiting_heap.pxd."""

    _fields_ = (("who", ctypes.c_int32), ("tie", ctypes.c_int32), ("key", ctypes.c_int64))


@pytest.fixture(scope="module", params=["instructions", "plain C11"])
def portable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The header's functions, compiled with and without what GCC and Clang know."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if os.name != "posix" or shutil.which(compiler[0]) is None:
        pytest.skip("there is no C compiler here")
    place: Path = tmp_path_factory.mktemp("portable")
    (place / "portable.c").write_text(SOURCE)
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ls.get_include()}"]
    if request.param != "instructions":
        options += ["-DLLMSCHED_PLAIN_C", "-std=c11", "-Wpedantic", "-Wvla"]
    subprocess.run([*compiler, *options, "-o", "portable.so", "portable.c", "-lm"], cwd=place, check=True)
    library = ctypes.CDLL(str(place / "portable.so"))
    library.lowest_bit.argtypes = [ctypes.c_uint64]
    library.bits_up_to.argtypes, library.bits_up_to.restype = [ctypes.c_uint32], ctypes.c_uint32
    library.to_double.restype = ctypes.c_double
    return library


def words(number: int) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * 2)(number >> 64, number & (2**64 - 1))


wide = (
    st.integers(0, 2**128 - 1) | st.integers(0, 127).map(lambda k: 2**k) | st.integers(0, 128).map(lambda k: 2**k - 1)
)


@given(bits=st.integers(1, 2**64 - 1) | st.integers(0, 63).map(lambda k: 2**k))
def test_the_lowest_bit_is_found(portable, bits):
    assert portable.lowest_bit(bits) == (bits & -bits).bit_length() - 1


@given(most=st.integers(1, 2**32 - 1) | st.integers(0, 31).map(lambda k: 2**k))
def test_a_mask_covers_a_number_and_no_more(portable, most):
    assert portable.bits_up_to(most) == 2 ** most.bit_length() - 1


@given(a=wide, b=wide)
def test_sums_and_products_of_128_bits_are_those_of_integers(portable, a, b):
    result = (ctypes.c_uint64 * 2)()
    for function, expected in ((portable.product, a * b), (portable.sum, a + b)):
        function(words(a), words(b), result)
        assert result[0] << 64 | result[1] == expected % 2**128


@given(a=wide | st.tuples(st.integers(53, 127), st.integers(0, 73), st.integers(-1, 1)).map(
    lambda t: (2 ** t[0] + 2 ** min(t[1], t[0] - 1) + t[2]) % 2**128))  # fmt: skip
def test_a_number_of_128_bits_is_rounded_once(portable, a):
    assert portable.to_double(words(a)) == float(a)


@given(st.data())
def test_entries_of_the_heap_are_ordered_by_key_then_tie_then_number(portable, data):
    small = st.integers(-2, 2)
    key = small | st.integers(-(2**63), 2**63 - 1)
    tie = st.integers(0, 2) | st.integers(0, 2**31 - 1)
    (a, b) = (
        (data.draw(key), data.draw(tie), data.draw(small | st.integers(-(2**31), 2**31 - 1)) % 2**32) for _ in "ab"
    )
    entries = [Entry(ctypes.c_int32(who).value, tie, key) for key, tie, who in (a, b)]
    assert bool(portable.entry_less(*map(ctypes.byref, entries))) == (a < b)


def test_memory_can_be_written_enlarged_and_freed(portable):
    assert portable.memory_works() == 1


def test_what_msvc_does_not_know_is_in_the_portable_header_alone():
    """Nor may a constant of an enum need more than 32 bits: MSVC cuts it off."""
    for path in (ROOT / "src").rglob("*.[ph]*"):
        if path.suffix not in (".pyx", ".pxd", ".h") or path.name == "portable.h":
            continue
        text = path.read_text(encoding="utf-8")
        guarded = {"__attribute__((target_clones"} if path.name == "memory_profile.h" else set()
        for word in re.findall(r"__builtin_\w+|__attribute__\(\(\w+|__int128|__asm__|\baligned_alloc\b|sys/mman", text):
            assert word in guarded, f"{path}: {word}"
        for block in re.findall(r"^ *(?:cdef )?enum\b[^\n]*:\n((?: +[^\n]*\n)+)", text, re.MULTILINE):
            for value in re.findall(r"= *(-?(?:0x[0-9A-Fa-f_]+|[0-9][0-9_]*))", block):
                assert abs(int(value, 0)) < 2**31, f"{path}: {value}"
