"""Numbers stirred: hashes of what peers choose, with a seed they do not know, and chance that need not be secret."""

from libc.stdint cimport uint64_t


cdef inline uint64_t mixed(uint64_t x) noexcept:
    # SplitMix64's finalizer (Steele, Lea and Flood, 2014): every bit of the result depends on all of x.
    x = (x ^ x >> 30) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ x >> 27) * <uint64_t>0x94d049bb133111eb
    return x ^ x >> 31


cdef inline uint64_t next_chance(uint64_t* state) noexcept:
    # xorshift128+. state: two numbers, not both 0.
    cdef uint64_t x = state[0], y = state[1]
    state[0] = y
    x ^= x << 23
    state[1] = x ^ y ^ (x >> 17) ^ (y >> 26)
    return state[1] + y
