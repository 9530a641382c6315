// Attention of rows of one token each over the paged cache: the positions of a row are split into spans, which are
// merged in their order.
//
// A block reads the keys and values of its span once for all query heads that share them. The softmax is computed
// online (Milakov and Gimelshein, 2018). How a row is split depends on its own length alone, so that its result does
// not depend on the rows beside it.

// Spans of a row at most, and positions of a span at least.
#define SPANS 32
#define SHORTEST_SPAN 128
// Query heads of a block.
#define HEADS (GROUP < 8 ? GROUP : 8)
#define HEAD_TILES ((GROUP + HEADS - 1) / HEADS)
// A span's result: the largest score, the sum of the weights, and the weighted values.
#define PARTIAL (HEAD + 2)

// A row of one token.
struct DecodeRow {
    // Which of the step's tokens it is.
    u32 token;
    // Its position: the last that it sees.
    u32 position;
    // Where the sequence's blocks begin in the table.
    u32 blocks;
};

struct Visible {
    u32 first, end, span;
};

INLINE u32 first_visible(u32 position, u32 window) {
    return window && position + 1 > window ? position + 1 - window : 0;
}

INLINE Visible visible_to(const DecodeRow &row, u32 window) {
    Visible visible;
    visible.first = first_visible(row.position, window);
    visible.end = row.position + 1;
    const u32 share = (visible.end - visible.first + SPANS - 1) / SPANS;
    const u32 span = (share + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS * BLOCK_POSITIONS;
    visible.span = span < SHORTEST_SPAN ? SHORTEST_SPAN : span;
    return visible;
}

// cap · tanh(score / cap), where there is a cap.
INLINE float capped(float score, float cap) { return cap > 0.0f ? cap * tanhf(score / cap) : score; }

struct DecodeArguments {
    // [tokens][stride], normalised, rotated and scaled.
    const float *queries;
    // The layer's part.
    const u16 *cache;
    const DecodeRow *rows;
    // Blocks of all sequences.
    const u32 *table;
    // [rows][query heads][SPANS][PARTIAL].
    float *partials;
    u32 stride, key_heads;
    // Positions that a query sees at most, its own included; 0 for all.
    u32 window;
    float cap;
};

#define DECODE_THREADS 128
#define WORDS (HEAD / 2)
// Threads that read the values of a position, and positions that are read at a time.
#define SIDE_BY_SIDE (DECODE_THREADS / WORDS)
// A word more than a row of keys has: lanes that read the same word of different rows use different banks.
#define KEY_WORDS (WORDS + 1)

// Blocks are (key-value head and tile of its query heads, row, span).
KERNEL(attend_decode, DecodeArguments, DECODE_THREADS) {
    __shared__ float query[HEADS][HEAD];
    __shared__ u32 keys[BLOCK_POSITIONS * KEY_WORDS];
    __shared__ float weights[HEADS][BLOCK_POSITIONS];
    __shared__ float factors[HEADS];
    __shared__ float gathered[SIDE_BY_SIDE][HEADS][HEAD];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int per_warp = (HEADS + DECODE_THREADS / WARP - 1) / (DECODE_THREADS / WARP);
    const DecodeRow row = arguments.rows[blockIdx.y];
    const Visible visible = visible_to(row, arguments.window);
    const u32 begin = visible.first + blockIdx.z * visible.span;
    if (begin >= visible.end) {
        return;
    }
    const u32 end = begin + visible.span < visible.end ? begin + visible.span : visible.end;
    const u32 key_head = blockIdx.x / HEAD_TILES, first_head = blockIdx.x % HEAD_TILES * HEADS;
    // The last tile of a group may have fewer heads.
    const int heads = GROUP - first_head < HEADS ? GROUP - first_head : HEADS;
    const float *queries = arguments.queries + (u64)row.token * arguments.stride + (key_head * GROUP + first_head) * HEAD;
    for (int at = threadIdx.x; at < heads * HEAD; at += DECODE_THREADS) {
        query[at / HEAD][at % HEAD] = queries[at];
    }
    // A warp has the softmax of every fourth head; a thread two elements of the values of all heads.
    float maximum[per_warp], total[per_warp], sums[HEADS][2];
#pragma unroll
    for (int index = 0; index < per_warp; index++) {
        maximum[index] = -infinity();
        total[index] = 0.0f;
    }
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        sums[head][0] = sums[head][1] = 0.0f;
    }
    const u32 word = threadIdx.x % WORDS, side = threadIdx.x / WORDS;
    for (u32 page = begin / BLOCK_POSITIONS; page <= (end - 1) / BLOCK_POSITIONS; page++) {
        const u32 block = arguments.table[row.blocks + page];
        const u32 *cached = (const u32 *)(arguments.cache + block_of_cache(block, key_head, arguments.key_heads));
        for (u32 at = threadIdx.x; at < BLOCK_POSITIONS * WORDS; at += DECODE_THREADS) {
            keys[at / WORDS * KEY_WORDS + at % WORDS] = cached[at];
        }
        __syncthreads();
        const u32 position = page * BLOCK_POSITIONS + lane;
        const bool seen = position >= begin && position < end;
#pragma unroll
        for (int index = 0; index < per_warp; index++) {
            const int head = index * (DECODE_THREADS / WARP) + warp;
            if (head >= heads) {
                continue;
            }
            float score = 0.0f;
            for (int at = 0; at < WORDS; at++) {
                const u32 pair = keys[lane * KEY_WORDS + at];
                score += query[head][at * 2] * half_to_float((u16)pair);
                score += query[head][at * 2 + 1] * half_to_float((u16)(pair >> 16));
            }
            // What was not written yet may be anything: it is dropped here, and not multiplied with zero below.
            score = seen ? capped(score, arguments.cap) : -infinity();
            const float largest = warp_maximum(score);
            const float next = largest > maximum[index] ? largest : maximum[index];
            const float factor = maximum[index] == -infinity() ? 0.0f : expf(maximum[index] - next);
            const float weight = seen ? expf(score - next) : 0.0f;
            total[index] = total[index] * factor + warp_sum(weight);
            maximum[index] = next;
            weights[head][lane] = weight;
            if (lane == 0) {
                factors[head] = factor;
            }
        }
        __syncthreads();
        if (side < SIDE_BY_SIDE) {
            const u32 from = page * BLOCK_POSITIONS < begin ? begin - page * BLOCK_POSITIONS : 0;
            const u32 to = end - page * BLOCK_POSITIONS < BLOCK_POSITIONS ? end - page * BLOCK_POSITIONS : BLOCK_POSITIONS;
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                if (head < heads) {
                    sums[head][0] *= factors[head];
                    sums[head][1] *= factors[head];
                }
            }
            for (u32 at = from + side; at < to; at += SIDE_BY_SIDE) {
                const u32 pair = cached[(BLOCK_POSITIONS + at) * WORDS + word];
                const float low = half_to_float((u16)pair), high = half_to_float((u16)(pair >> 16));
#pragma unroll
                for (int head = 0; head < HEADS; head++) {
                    if (head < heads) {
                        sums[head][0] += weights[head][at] * low;
                        sums[head][1] += weights[head][at] * high;
                    }
                }
            }
        }
    }
    if (side < SIDE_BY_SIDE) {
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            gathered[side][head][word * 2] = sums[head][0];
            gathered[side][head][word * 2 + 1] = sums[head][1];
        }
    }
    __syncthreads();
    const u64 first = ((u64)blockIdx.y * arguments.key_heads + key_head) * GROUP + first_head;
    float *partials = arguments.partials + (first * SPANS + blockIdx.z) * PARTIAL;
#pragma unroll
    for (int index = 0; index < per_warp; index++) {
        const int head = index * (DECODE_THREADS / WARP) + warp;
        if (head < heads && lane == 0) {
            partials[(u64)head * SPANS * PARTIAL] = maximum[index];
            partials[(u64)head * SPANS * PARTIAL + 1] = total[index];
        }
    }
    for (int at = threadIdx.x; at < heads * HEAD; at += DECODE_THREADS) {
        float sum = 0.0f;
        for (int of = 0; of < SIDE_BY_SIDE; of++) {
            sum += gathered[of][at / HEAD][at % HEAD];
        }
        partials[(u64)(at / HEAD) * SPANS * PARTIAL + 2 + at % HEAD] = sum;
    }
}

struct MergeArguments {
    const DecodeRow *rows;
    const float *partials;
    // [tokens][query heads][HEAD].
    Activations output;
    u32 query_heads, window;
};

// Blocks are (query head, row).
KERNEL(merge_spans, MergeArguments, 64) {
    const DecodeRow row = arguments.rows[blockIdx.y];
    const Visible visible = visible_to(row, arguments.window);
    const u32 spans = (visible.end - visible.first + visible.span - 1) / visible.span;
    const float *partials =
        arguments.partials + ((u64)blockIdx.y * arguments.query_heads + blockIdx.x) * SPANS * PARTIAL;
    float maximum = -infinity();
    for (u32 span = 0; span < spans; span++) {
        const float one = partials[span * PARTIAL];
        maximum = one > maximum ? one : maximum;
    }
    float total = 0.0f;
    for (u32 span = 0; span < spans; span++) {
        total += partials[span * PARTIAL + 1] * expf(partials[span * PARTIAL] - maximum);
    }
    const u64 to = ((u64)row.token * arguments.query_heads + blockIdx.x) * HEAD;
    for (u32 at = threadIdx.x; at < HEAD; at += blockDim.x) {
        float sum = 0.0f;
        for (u32 span = 0; span < spans; span++) {
            sum += partials[span * PARTIAL + 2 + at] * expf(partials[span * PARTIAL] - maximum);
        }
        write_activation(arguments.output, to + at, sum / total);
    }
}
