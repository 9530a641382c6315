// Biases, norms and rotary positions of queries and keys, and keys and values into the cache.
//
// HEAD, the width of a head, and GROUP, the query heads that share a key-value head, are macros.
//
// A layer's cache has for each block and key-value head the keys [BLOCK_POSITIONS][HEAD], then the values the same, so
// that what a thread or a fragment of a tensor core reads lies side by side.

#define NO_SLOT 0xffffffffu

INLINE u64 block_of_cache(u32 block, u32 head, u32 heads) {
    return ((u64)block * heads + head) * (2 * BLOCK_POSITIONS * HEAD);
}

struct HeadsArguments {
    // [tokens][stride]: queries, keys and values. The queries are written back.
    float *projected;
    // Added to all of them, or none.
    const float *bias;
    // [HEAD] each, or none.
    const float *query_norm, *key_norm;
    // [positions][HEAD / 2] each, or none.
    const float *cosines, *sines;
    // Of each token.
    const u32 *positions;
    // Where each token's keys and values go: block · BLOCK_POSITIONS + the place in it, or NO_SLOT.
    const u32 *slots;
    // The layer's part.
    u16 *cache;
    u32 stride, query_heads, key_heads;
    float epsilon, query_scale;
};

// A warp for each head: queries, then keys, then values. Blocks are (token, four heads).
KERNEL(write_heads, HeadsArguments, 128) {
    const int half = HEAD / 2;
    const int most = (half + WARP - 1) / WARP;
    const u32 lane = threadIdx.x % WARP;
    const u32 index = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP;
    const u32 queries = arguments.query_heads, keys = arguments.key_heads;
    if (index >= queries + 2 * keys) {
        return;
    }
    const bool is_query = index < queries, is_value = index >= queries + keys;
    float *head = arguments.projected + (u64)blockIdx.x * arguments.stride + index * HEAD;
    const float *bias = arguments.bias ? arguments.bias + index * HEAD : nullptr;
    // Elements `i` and `i + half` are rotated together: a lane holds both.
    float low[most], high[most];
    float squares = 0.0f;
#pragma unroll
    for (int step = 0; step < most; step++) {
        const int at = step * WARP + lane;
        low[step] = high[step] = 0.0f;
        if (at < half) {
            low[step] = head[at] + (bias ? bias[at] : 0.0f);
            high[step] = head[half + at] + (bias ? bias[half + at] : 0.0f);
        }
        squares += low[step] * low[step] + high[step] * high[step];
    }
    const float *norm = is_value ? nullptr : is_query ? arguments.query_norm : arguments.key_norm;
    float scale = 1.0f;
    if (norm) {
        scale = 1.0f / sqrtf(warp_sum(squares) / (float)HEAD + arguments.epsilon);
    }
    const u64 angles = (u64)arguments.positions[blockIdx.x] * half;
    const float query_scale = is_query ? arguments.query_scale : 1.0f;
    const u32 slot = arguments.slots[blockIdx.x];
    const u32 key_head = is_value ? index - queries - keys : index - queries;
    u16 *cached = nullptr;
    if (!is_query && slot != NO_SLOT) {
        cached = arguments.cache + block_of_cache(slot / BLOCK_POSITIONS, key_head, keys) +
                 (slot % BLOCK_POSITIONS + (is_value ? BLOCK_POSITIONS : 0)) * HEAD;
    }
#pragma unroll
    for (int step = 0; step < most; step++) {
        const int at = step * WARP + lane;
        if (at >= half) {
            continue;
        }
        float first = low[step], second = high[step];
        if (norm) {
            first *= scale * norm[at];
            second *= scale * norm[half + at];
        }
        if (!is_value && arguments.cosines) {
            const float cosine = arguments.cosines[angles + at], sine = arguments.sines[angles + at];
            const float rotated = first * cosine - second * sine;
            second = second * cosine + first * sine;
            first = rotated;
        }
        if (is_query) {
            head[at] = first * query_scale;
            head[half + at] = second * query_scale;
        } else if (cached) {
            cached[at] = float_to_half(first);
            cached[half + at] = float_to_half(second);
        }
    }
}
