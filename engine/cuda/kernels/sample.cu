// Chooses tokens: the most probable, or one at random by its probability.
//
// The largest of logit / temperature + Gumbel noise is distributed as the softmax (Gumbel, 1954; Maddison et al., 2014),
// so that one pass over the logits suffices. The noise is a function of the row's seed, its step and the token, by
// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

struct SampleArguments {
    // [rows][stride].
    const float *logits;
    // Of each row; 0 for the most probable token.
    const float *temperatures;
    // Of each row.
    const u64 *seeds;
    // Of each row: the number of the token to be chosen in its sequence.
    const u32 *steps;
    // The choice of each row; NO_TOKEN if no logit is a number.
    u32 *tokens;
    u32 stride, vocabulary;
};

#define NO_TOKEN 0xffffffffu
#define SAMPLE_THREADS 512

// Four random words.
INLINE void philox(u32 (&counter)[4], u64 seed) {
    u32 low_key = (u32)seed, high_key = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 first = counter[0], second = counter[2];
        const u32 next[4] = {__umulhi(0xcd9e8d57u, second) ^ counter[1] ^ low_key, 0xcd9e8d57u * second,
                             __umulhi(0xd2511f53u, first) ^ counter[3] ^ high_key, 0xd2511f53u * first};
        counter[0] = next[0];
        counter[1] = next[1];
        counter[2] = next[2];
        counter[3] = next[3];
        low_key += 0x9e3779b9u;
        high_key += 0xbb67ae85u;
    }
}

INLINE float gumbel(u32 word) {
    // Strictly between 0 and 1, also after rounding: 23 bits and a half.
    const float uniform = ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
    return -logf(-logf(uniform));
}

// The larger value; of equal ones the first.
INLINE void keep_larger(float &value, u32 &token, float other, u32 other_token) {
    if (other > value || (other == value && other_token < token)) {
        value = other;
        token = other_token;
    }
}

// A block for each row.
KERNEL(sample, SampleArguments, SAMPLE_THREADS) {
    __shared__ float values[SAMPLE_THREADS / WARP];
    __shared__ u32 tokens[SAMPLE_THREADS / WARP];
    const float *logits = arguments.logits + (u64)blockIdx.x * arguments.stride;
    const float temperature = arguments.temperatures[blockIdx.x];
    float value = -infinity();
    u32 token = NO_TOKEN;
    for (u32 four = threadIdx.x; four * 4 < arguments.vocabulary; four += SAMPLE_THREADS) {
        u32 words[4] = {four, arguments.steps[blockIdx.x], 0, 0};
        if (temperature > 0.0f) {
            philox(words, arguments.seeds[blockIdx.x]);
        }
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const u32 at = four * 4 + index;
            if (at < arguments.vocabulary) {
                float logit = logits[at];
                if (temperature > 0.0f) {
                    logit = logit / temperature + gumbel(words[index]);
                }
                // A comparison with what is no number is false.
                keep_larger(value, token, logit, at);
            }
        }
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, distance);
        const u32 other_token = __shfl_xor_sync(ALL_LANES, token, distance);
        keep_larger(value, token, other, other_token);
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = value;
        tokens[threadIdx.x / WARP] = token;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < SAMPLE_THREADS / WARP; warp++) {
            keep_larger(value, token, values[warp], tokens[warp]);
        }
        arguments.tokens[blockIdx.x] = token;
    }
}
