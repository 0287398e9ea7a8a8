/* Philox4x32-10, a counter-based random number generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011, section 3.4 (the round constants are from their table 2 and section 3.3). */
enum { PHILOX_BLOCKS = 64 }; /* counters at a time; with 16, GCC 12 unrolls the loops below and does not vectorize */

/* bits[4 * i + word] for the counters block + i.  Always inlined, so that it is compiled with the flags of each ISA. */
FC_INLINE void philox(uint32_t *bits, uint64_t block, uint64_t seed)
{
    uint32_t c0[PHILOX_BLOCKS], c1[PHILOX_BLOCKS], c2[PHILOX_BLOCKS] = {0}, c3[PHILOX_BLOCKS] = {0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < PHILOX_BLOCKS; i++) {
        c0[i] = (uint32_t)(block + (uint64_t)i);
        c1[i] = (uint32_t)((block + (uint64_t)i) >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < PHILOX_BLOCKS; i++) {
            const uint64_t p0 = (uint64_t)c0[i] * 0xD2511F53u;
            const uint64_t p1 = (uint64_t)c2[i] * 0xCD9E8D57u;
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < PHILOX_BLOCKS; i++) {
        bits[4 * i] = c0[i];
        bits[4 * i + 1] = c1[i];
        bits[4 * i + 2] = c2[i];
        bits[4 * i + 3] = c3[i];
    }
}
