// Attention of the tokens of prompts over the paged cache, on tensor cores.
//
// A tile is 64 queries of one sequence that read the same key-value head: the GROUP query heads of a token, token after
// token, 16 to a warp. Blocks of the cache are brought to shared memory once for all of them; scores and weights stay
// in registers (Dao, "FlashAttention-2", 2023). Queries and weights are rounded to halves, as keys and values are.

#define TILE 64
#define PREFILL_THREADS 128
// Eight halves more than a head has: the words that the lanes of a fragment read lie in different banks.
#define ROW (HEAD + 8)
#define PREFILL_SHARED ((TILE + 2 * BLOCK_POSITIONS) * ROW * 2)

// Some queries of a sequence.
struct PrefillTile {
    // The sequence's first token in the step, and that token's position.
    u32 token, start;
    // The sequence's tokens in the step.
    u32 tokens;
    // Where its blocks begin in the table.
    u32 blocks;
    // The tile's first query: token · GROUP + head of the group.
    u32 first;
};

struct PrefillArguments {
    // [tokens][stride], normalised, rotated and scaled.
    const float *queries;
    // The layer's part.
    const u16 *cache;
    const PrefillTile *tiles;
    const u32 *table;
    // [tokens][query heads][HEAD].
    Activations output;
    u32 stride, key_heads;
    // Positions that a query sees at most, its own included; 0 for all.
    u32 window;
    float cap;
};

INLINE u32 word_of(const u16 *halves, int row, int column) { return *(const u32 *)(halves + row * ROW + column); }

// Over the four lanes that hold parts of the same row of a fragment.
INLINE float quad_maximum(float value) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

INLINE float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// Blocks are (tile, key-value head).
KERNEL(attend_prefill, PrefillArguments, PREFILL_THREADS) {
    DYNAMIC_SHARED(memory);
    u16 *const query = (u16 *)memory;
    u16 *const keys = query + TILE * ROW;
    u16 *const values = keys + BLOCK_POSITIONS * ROW;
    const PrefillTile tile = arguments.tiles[blockIdx.x];
    const u32 key_head = blockIdx.y;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int of_group = lane / 4, in_group = lane % 4;
    const u32 queries = tile.tokens * GROUP;
    const u32 count = queries - tile.first < TILE ? queries - tile.first : TILE;
    const u32 last_position = tile.start + (tile.first + count - 1) / GROUP;
    for (int at = threadIdx.x; at < TILE * WORDS; at += PREFILL_THREADS) {
        // Rows beyond the last query compute with zeros, and are dropped.
        const u32 row = at / WORDS, column = at % WORDS * 2;
        float low = 0.0f, high = 0.0f;
        if (row < count) {
            const u32 index = tile.first + row;
            const float *from = arguments.queries + (u64)(tile.token + index / GROUP) * arguments.stride +
                                (key_head * GROUP + index % GROUP) * HEAD + column;
            low = from[0];
            high = from[1];
        }
        *(u32 *)(query + row * ROW + column) = two_halves(low, high);
    }
    // The two rows of the tile of which this lane holds parts.
    const int rows[2] = {(int)warp * 16 + of_group, (int)warp * 16 + of_group + 8};
    u32 first_seen[2], last_seen[2];
    float maximum[2], total[2];
    float sums[HEAD / 8][4];
#pragma unroll
    for (int side = 0; side < 2; side++) {
        const u32 row = rows[side] < count ? rows[side] : count - 1;
        last_seen[side] = tile.start + (tile.first + row) / GROUP;
        first_seen[side] = first_visible(last_seen[side], arguments.window);
        maximum[side] = -infinity();
        total[side] = 0.0f;
    }
#pragma unroll
    for (int part = 0; part < HEAD / 8; part++) {
#pragma unroll
        for (int index = 0; index < 4; index++) {
            sums[part][index] = 0.0f;
        }
    }
    const u32 first_page = first_visible(tile.start + tile.first / GROUP, arguments.window) / BLOCK_POSITIONS;
    for (u32 page = first_page; page <= last_position / BLOCK_POSITIONS; page++) {
        const u32 block = arguments.table[tile.blocks + page];
        const u32 *cached = (const u32 *)(arguments.cache + block_of_cache(block, key_head, arguments.key_heads));
        // The last page has been read by all.
        __syncthreads();
        for (int at = threadIdx.x; at < BLOCK_POSITIONS * WORDS; at += PREFILL_THREADS) {
            const int row = at / WORDS, column = at % WORDS * 2;
            *(u32 *)(keys + row * ROW + column) = cached[at];
            // What was not written yet may be no number, which a weight of zero would not remove.
            const bool written = page * BLOCK_POSITIONS + row <= last_position;
            *(u32 *)(values + row * ROW + column) = written ? cached[BLOCK_POSITIONS * WORDS + at] : 0;
        }
        __syncthreads();
        float scores[BLOCK_POSITIONS / 8][4];
#pragma unroll
        for (int part = 0; part < BLOCK_POSITIONS / 8; part++) {
#pragma unroll
            for (int index = 0; index < 4; index++) {
                scores[part][index] = 0.0f;
            }
        }
#pragma unroll
        for (int step = 0; step < HEAD / 16; step++) {
            const int column = step * 16 + in_group * 2;
            const u32 a[4] = {word_of(query, rows[0], column), word_of(query, rows[1], column),
                              word_of(query, rows[0], column + 8), word_of(query, rows[1], column + 8)};
#pragma unroll
            for (int part = 0; part < BLOCK_POSITIONS / 8; part++) {
                const int row = part * 8 + of_group;
                const u32 b[2] = {word_of(keys, row, column), word_of(keys, row, column + 8)};
                multiply_tiles(scores[part], a, b);
            }
        }
        float largest[2] = {-infinity(), -infinity()};
#pragma unroll
        for (int part = 0; part < BLOCK_POSITIONS / 8; part++) {
#pragma unroll
            for (int index = 0; index < 4; index++) {
                const int side = index / 2;
                const u32 position = page * BLOCK_POSITIONS + part * 8 + in_group * 2 + index % 2;
                const bool seen = position >= first_seen[side] && position <= last_seen[side];
                const float score = seen ? capped(scores[part][index], arguments.cap) : -infinity();
                scores[part][index] = score;
                largest[side] = score > largest[side] ? score : largest[side];
            }
        }
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const float of_page = quad_maximum(largest[side]);
            const float next = of_page > maximum[side] ? of_page : maximum[side];
            const float factor = maximum[side] == -infinity() ? 0.0f : expf(maximum[side] - next);
            maximum[side] = next;
            total[side] *= factor;
#pragma unroll
            for (int part = 0; part < HEAD / 8; part++) {
                sums[part][side * 2] *= factor;
                sums[part][side * 2 + 1] *= factor;
            }
#pragma unroll
            for (int part = 0; part < BLOCK_POSITIONS / 8; part++) {
#pragma unroll
                for (int index = side * 2; index < side * 2 + 2; index++) {
                    const float score = scores[part][index];
                    // Positions that are not seen, before any that is: their difference would be no number.
                    const float weight = score == -infinity() ? 0.0f : expf(score - next);
                    scores[part][index] = weight;
                    total[side] += weight;
                }
            }
        }
        // Scores lie in the registers as the left side of a product has to.
#pragma unroll
        for (int step = 0; step < BLOCK_POSITIONS / 16; step++) {
            const float(&low)[4] = scores[step * 2], (&high)[4] = scores[step * 2 + 1];
            const u32 a[4] = {two_halves(low[0], low[1]), two_halves(low[2], low[3]), two_halves(high[0], high[1]),
                              two_halves(high[2], high[3])};
            const int row = step * 16 + in_group * 2;
#pragma unroll
            for (int part = 0; part < HEAD / 8; part++) {
                const u16 *from = values + row * ROW + part * 8 + of_group;
                const u32 b[2] = {(u32)from[0] | (u32)from[ROW] << 16,
                                  (u32)from[8 * ROW] | (u32)from[9 * ROW] << 16};
                multiply_tiles(sums[part], a, b);
            }
        }
    }
#pragma unroll
    for (int side = 0; side < 2; side++) {
        const float inverse = 1.0f / quad_sum(total[side]);
        if (rows[side] >= count) {
            continue;
        }
        const u32 index = tile.first + rows[side];
        const u64 head = (u64)(tile.token + index / GROUP) * arguments.key_heads * GROUP + key_head * GROUP + index % GROUP;
#pragma unroll
        for (int part = 0; part < HEAD / 8; part++) {
#pragma unroll
            for (int of = 0; of < 2; of++) {
                const u64 at = head * HEAD + part * 8 + in_group * 2 + of;
                write_activation(arguments.output, at, sums[part][side * 2 + of] * inverse);
            }
        }
    }
}
