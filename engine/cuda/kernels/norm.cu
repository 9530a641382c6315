// Adds a branch to the residual stream and normalises the sum by its root mean square (Zhang and Sennrich, 2019).

struct NormArguments {
    // [tokens][hidden], written unless rows are gathered.
    float *residual;
    // What is added: [tokens][hidden], or none; before that its bias and a norm of its own, where there are such.
    const float *branch;
    const float *branch_bias;
    const float *branch_norm;
    // Scale of the norm; none: nothing but the addition.
    const float *norm;
    // Which rows to read; none: row `i` is row `i`.
    const u32 *gather;
    Activations output;
    u32 hidden;
    float epsilon;
};

INLINE float branch_at(const NormArguments &arguments, u64 row, u32 column) {
    float value = arguments.branch[row * arguments.hidden + column];
    return arguments.branch_bias ? value + arguments.branch_bias[column] : value;
}

INLINE float summed_at(const NormArguments &arguments, u64 row, u32 column, float branch_scale) {
    float value = arguments.residual[row * arguments.hidden + column];
    if (!arguments.branch) {
        return value;
    }
    float branch = branch_at(arguments, row, column);
    if (arguments.branch_norm) {
        branch = branch * branch_scale * arguments.branch_norm[column];
    }
    return value + branch;
}

// A block for each row.
KERNEL(add_and_normalise, NormArguments, 256) {
    __shared__ float scratch[WARP];
    const u32 hidden = arguments.hidden;
    const u64 row = arguments.gather ? arguments.gather[blockIdx.x] : blockIdx.x;
    float branch_scale = 1.0f;
    if (arguments.branch && arguments.branch_norm) {
        float squares = 0.0f;
        for (u32 column = threadIdx.x; column < hidden; column += blockDim.x) {
            float value = branch_at(arguments, row, column);
            squares += value * value;
        }
        branch_scale = 1.0f / sqrtf(block_sum(squares, scratch) / (float)hidden + arguments.epsilon);
    }
    float squares = 0.0f;
    for (u32 column = threadIdx.x; column < hidden; column += blockDim.x) {
        float value = summed_at(arguments, row, column, branch_scale);
        squares += value * value;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / (float)hidden + arguments.epsilon);
    for (u32 column = threadIdx.x; column < hidden; column += blockDim.x) {
        // Computed a second time: cheaper than memory for it, and each thread reads only what itself writes.
        float value = summed_at(arguments, row, column, branch_scale);
        if (arguments.branch && !arguments.gather) {
            arguments.residual[row * hidden + column] = value;
        }
        if (arguments.norm) {
            write_activation(arguments.output, (u64)blockIdx.x * hidden + column, value * scale * arguments.norm[column]);
        }
    }
}
