/* Philox4x32-10, a counter-based random number generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011, section 3.4 (the round constants are from their table 2 and section 3.3). */

/* Its 32-bit words stand in the lower halves of 64-bit lanes; the upper halves hold what is left of products. */
enum {
    PHILOX_LANES = FC_VECTOR_BYTES / 8,
    PHILOX_VECTORS = 2, /* in turn: one round waits for the one before */
    PHILOX_BLOCKS = 64, /* counters at a time, of four words each */
};

/* bits[4 * i + word] for the counters block + i, of which PHILOX_VECTORS vectors hold all. */
FC_INLINE void philox_vectors(uint32_t *bits, uint64_t block, uint64_t seed)
{
    lanes64 c0[PHILOX_VECTORS], c1[PHILOX_VECTORS], c2[PHILOX_VECTORS], c3[PHILOX_VECTORS], lane;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int j = 0; j < PHILOX_LANES; j++)
        lane[j] = (uint64_t)j;
#pragma GCC unroll 2
    for (int i = 0; i < PHILOX_VECTORS; i++) {
        c0[i] = splat64(block + (uint64_t)(i * PHILOX_LANES)) + lane;
        c1[i] = c0[i] >> 32;
        c2[i] = c3[i] = (lanes64){0};
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
#pragma GCC unroll 2
        for (int i = 0; i < PHILOX_VECTORS; i++) {
            const lanes64 p0 = halves_product(c0[i], 0xD2511F53u), p1 = halves_product(c2[i], 0xCD9E8D57u);
            c0[i] = (p1 >> 32) ^ c1[i] ^ splat64(k0);
            c1[i] = p1;
            c2[i] = (p0 >> 32) ^ c3[i] ^ splat64(k1);
            c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    /* Two words at a time: as single ones they made dropout take 1.4 times as long (Zen 4). */
#pragma GCC unroll 2
    for (int i = 0; i < PHILOX_VECTORS; i++) {
        const lanes64 first = (c0[i] & splat64(0xFFFFFFFFu)) | c1[i] << 32, last = (c2[i] & splat64(0xFFFFFFFFu)) | c3[i] << 32;
        uint64_t pairs[2 * PHILOX_LANES]; /* (little-endian) */
        for (int j = 0; j < PHILOX_LANES; j++) {
            pairs[2 * j] = first[j];
            pairs[2 * j + 1] = last[j];
        }
        memcpy(bits + 4 * i * PHILOX_LANES, pairs, sizeof(pairs));
    }
}

/* bits[4 * i + word] for the counters block + i, i < PHILOX_BLOCKS. */
FC_INLINE void philox(uint32_t *bits, uint64_t block, uint64_t seed)
{
    for (int i = 0; i < PHILOX_BLOCKS; i += PHILOX_VECTORS * PHILOX_LANES)
        philox_vectors(bits + 4 * i, block + (uint64_t)i, seed);
}
