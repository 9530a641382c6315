// Weights as files store them: the block formats of ggml, eight elements at a time.

enum ElementType { F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K };

// Four floats that are loaded at once.
struct alignas(16) Four {
    float values[4];
};

// Elements of a row: four from column `first` on, four from `second` on.
struct Eight {
    float values[8];
    u32 first, second;
};

// Blocks begin at even addresses, not at multiples of four.
INLINE u32 word_at(const u8 *bytes) {
    const u16 *halves = (const u16 *)bytes;
    return (u32)halves[0] | (u32)halves[1] << 16;
}

INLINE u32 byte_of(u32 word, int index) { return word >> (8 * index) & 255u; }

INLINE float signed_byte(u32 byte) { return (float)(signed char)byte; }

// Scale and minimum of a group of Q4_K: six bits each, out of the block's twelve bytes of them.
INLINE void group_of_q4_k(const u8 *packed, u32 group, float &scale, float &minimum) {
    if (group < 4) {
        scale = (float)(packed[group] & 63);
        minimum = (float)(packed[group + 4] & 63);
    } else {
        scale = (float)((packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4));
        minimum = (float)((packed[group + 4] >> 4) | (packed[group] >> 6 << 4));
    }
}

template <int TYPE> INLINE Eight eight_of(const u8 *row, u32 chunk) {
    Eight eight;
    eight.first = chunk * 8;
    eight.second = chunk * 8 + 4;
    if (TYPE == F32) {
        const Four *fours = (const Four *)row + chunk * 2;
#pragma unroll
        for (int index = 0; index < 4; index++) {
            eight.values[index] = fours[0].values[index];
            eight.values[index + 4] = fours[1].values[index];
        }
    } else if (TYPE == F16 || TYPE == BF16) {
        const u16 *bits = (const u16 *)row + chunk * 8;
#pragma unroll
        for (int index = 0; index < 8; index++) {
            eight.values[index] = TYPE == F16 ? half_to_float(bits[index]) : brain_to_float(bits[index]);
        }
    } else if (TYPE == Q4_0 || TYPE == Q4_1) {
        // Four bytes: their low nibbles are columns of the block's first half, the high ones of its second.
        const u32 quarter = chunk % 4;
        const u8 *block = row + chunk / 4 * (TYPE == Q4_0 ? 18 : 20);
        const float scale = half_to_float(*(const u16 *)block);
        const float minimum = TYPE == Q4_0 ? -8.0f * scale : half_to_float(*(const u16 *)(block + 2));
        const u32 word = word_at(block + (TYPE == Q4_0 ? 2 : 4) + quarter * 4);
        eight.first = chunk / 4 * 32 + quarter * 4;
        eight.second = eight.first + 16;
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const u32 byte = byte_of(word, index);
            eight.values[index] = scale * (float)(byte & 15) + minimum;
            eight.values[index + 4] = scale * (float)(byte >> 4) + minimum;
        }
    } else if (TYPE == Q8_0) {
        const u8 *block = row + chunk / 4 * 34;
        const float scale = half_to_float(*(const u16 *)block);
        const u32 low = word_at(block + 2 + chunk % 4 * 8), high = word_at(block + 6 + chunk % 4 * 8);
#pragma unroll
        for (int index = 0; index < 4; index++) {
            eight.values[index] = scale * signed_byte(byte_of(low, index));
            eight.values[index + 4] = scale * signed_byte(byte_of(high, index));
        }
    } else if (TYPE == Q4_K) {
        // Four bytes: their low nibbles are of one group, the high ones of the next.
        const u8 *block = row + chunk / 32 * 144;
        const u32 pair = chunk % 32 / 8, part = chunk % 8;
        const float scale = half_to_float(*(const u16 *)block), minimum = half_to_float(*(const u16 *)(block + 2));
        float low_scale, low_minimum, high_scale, high_minimum;
        group_of_q4_k(block + 4, pair * 2, low_scale, low_minimum);
        group_of_q4_k(block + 4, pair * 2 + 1, high_scale, high_minimum);
        const u32 word = word_at(block + 16 + pair * 32 + part * 4);
        eight.first = chunk / 32 * 256 + pair * 64 + part * 4;
        eight.second = eight.first + 32;
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const u32 byte = byte_of(word, index);
            eight.values[index] = scale * low_scale * (float)(byte & 15) - minimum * low_minimum;
            eight.values[index + 4] = scale * high_scale * (float)(byte >> 4) - minimum * high_minimum;
        }
    } else {
        // Of each half of a block, the bytes of low bits hold quarters 0 and 2, or 1 and 3.
        const u8 *block = row + chunk / 32 * 210;
        const u32 half = chunk % 32 / 16, quarter = chunk % 16 / 8, at = chunk % 8 * 4;
        const float scale = half_to_float(*(const u16 *)(block + 208));
        const u8 *scales = block + 192 + half * 8 + at / 16;
        const float low_scale = scale * signed_byte(scales[quarter * 2]);
        const float high_scale = scale * signed_byte(scales[quarter * 2 + 4]);
        const u32 low = word_at(block + half * 64 + quarter * 32 + at), high = word_at(block + 128 + half * 32 + at);
        eight.first = chunk / 32 * 256 + half * 128 + quarter * 32 + at;
        eight.second = eight.first + 64;
#pragma unroll
        for (int index = 0; index < 4; index++) {
            const u32 four_bits = byte_of(low, index), two_bits = byte_of(high, index) >> (2 * quarter);
            eight.values[index] = low_scale * ((float)((four_bits & 15) | (two_bits & 3) << 4) - 32.0f);
            eight.values[index + 4] = high_scale * ((float)(four_bits >> 4 | (two_bits >> 4 & 3) << 4) - 32.0f);
        }
    }
    return eight;
}

// All threads of a block have the same type: the branches cost nothing.
INLINE Eight any_eight_of(u32 type, const u8 *row, u32 chunk) {
    switch (type) {
    case F32:
        return eight_of<F32>(row, chunk);
    case F16:
        return eight_of<F16>(row, chunk);
    case BF16:
        return eight_of<BF16>(row, chunk);
    case Q4_0:
        return eight_of<Q4_0>(row, chunk);
    case Q4_1:
        return eight_of<Q4_1>(row, chunk);
    case Q8_0:
        return eight_of<Q8_0>(row, chunk);
    case Q4_K:
        return eight_of<Q4_K>(row, chunk);
    default:
        return eight_of<Q6_K>(row, chunk);
    }
}

struct EmbedArguments {
    const u32 *tokens;
    // The matrix, [vocabulary] rows of `row_bytes`.
    const u8 *embedding;
    // [tokens][hidden].
    float *residual;
    u64 row_bytes;
    u32 type, hidden;
    float scale;
};

// A block for each token.
KERNEL(embed, EmbedArguments, 128) {
    const u8 *row = arguments.embedding + arguments.tokens[blockIdx.x] * arguments.row_bytes;
    float *to = arguments.residual + (u64)blockIdx.x * arguments.hidden;
    for (u32 chunk = threadIdx.x; chunk < arguments.hidden / 8; chunk += blockDim.x) {
        const Eight eight = any_eight_of(arguments.type, row, chunk);
#pragma unroll
        for (int index = 0; index < 4; index++) {
            to[eight.first + index] = eight.values[index] * arguments.scale;
            to[eight.second + index] = eight.values[index + 4] * arguments.scale;
        }
    }
}

struct DequantiseArguments {
    const u8 *matrix;
    // [rows][columns] halves.
    u16 *output;
    u64 row_bytes;
    u32 type, columns;
};

// A block for each row of the matrix.
KERNEL(dequantise, DequantiseArguments, 128) {
    const u8 *row = arguments.matrix + blockIdx.x * arguments.row_bytes;
    u32 *to = (u32 *)(arguments.output + (u64)blockIdx.x * arguments.columns);
    for (u32 chunk = threadIdx.x; chunk < arguments.columns / 8; chunk += blockDim.x) {
        const Eight eight = any_eight_of(arguments.type, row, chunk);
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            to[eight.first / 2 + pair] = two_halves(eight.values[pair * 2], eight.values[pair * 2 + 1]);
            to[eight.second / 2 + pair] = two_halves(eight.values[pair * 2 + 4], eight.values[pair * 2 + 5]);
        }
    }
}

struct MultiplyArguments {
    const u8 *matrix;
    // [rows][columns].
    const float *input;
    // Output `n` of row `r` goes to element `r * stride + n`.
    float *output;
    u64 row_bytes;
    u32 type, outputs, columns, stride, rows;
};

// Products of a matrix with at most ROWS rows. A warp computes one output of all of them: each weight is unpacked once.
template <int TYPE, int ROWS> INLINE void multiply_typed(const MultiplyArguments &arguments, u32 output) {
    const u8 *weights = arguments.matrix + output * arguments.row_bytes;
    float sums[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        sums[row] = 0.0f;
    }
    for (u32 chunk = threadIdx.x % WARP; chunk < arguments.columns / 8; chunk += WARP) {
        const Eight eight = eight_of<TYPE>(weights, chunk);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (row < arguments.rows) {
                const float *input = arguments.input + (u64)row * arguments.columns;
                const Four low = *(const Four *)(input + eight.first), high = *(const Four *)(input + eight.second);
#pragma unroll
                for (int index = 0; index < 4; index++) {
                    sums[row] += eight.values[index] * low.values[index];
                    sums[row] += eight.values[index + 4] * high.values[index];
                }
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const float sum = warp_sum(sums[row]);
        if (threadIdx.x % WARP == 0 && row < arguments.rows) {
            arguments.output[(u64)row * arguments.stride + output] = sum;
        }
    }
}

template <int ROWS> INLINE void multiply_rows(const MultiplyArguments &arguments) {
    const u32 output = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (output >= arguments.outputs) {
        return;
    }
    switch (arguments.type) {
    case Q4_0:
        return multiply_typed<Q4_0, ROWS>(arguments, output);
    case Q4_1:
        return multiply_typed<Q4_1, ROWS>(arguments, output);
    case Q8_0:
        return multiply_typed<Q8_0, ROWS>(arguments, output);
    case Q4_K:
        return multiply_typed<Q4_K, ROWS>(arguments, output);
    default:
        return multiply_typed<Q6_K, ROWS>(arguments, output);
    }
}

KERNEL(multiply_1, MultiplyArguments, 128) { multiply_rows<1>(arguments); }
KERNEL(multiply_2, MultiplyArguments, 128) { multiply_rows<2>(arguments); }
KERNEL(multiply_4, MultiplyArguments, 128) { multiply_rows<4>(arguments); }
KERNEL(multiply_8, MultiplyArguments, 128) { multiply_rows<8>(arguments); }
