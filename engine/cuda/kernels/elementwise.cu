// What is done to each element: the gate of the feed-forward network and the cap of the logits.

struct GateArguments {
    // [tokens][2 · width]: what goes through the gate's function, then what it is multiplied with.
    const float *branches;
    Activations output;
    u32 width;
    // GELU (Gemma), otherwise SiLU.
    u32 gelu;
};

// Hendrycks and Gimpel, 2016: the approximation by tanh that the Gemma families are trained with.
INLINE float gelu(float x) {
    const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

INLINE float silu(float x) { return x / (1.0f + expf(-x)); }

KERNEL(gate, GateArguments, 256) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= arguments.width) {
        return;
    }
    const float *branches = arguments.branches + (u64)blockIdx.y * 2 * arguments.width;
    const float first = branches[column], second = branches[arguments.width + column];
    const float gated = (arguments.gelu ? gelu(first) : silu(first)) * second;
    write_activation(arguments.output, (u64)blockIdx.y * arguments.width + column, gated);
}

struct CapArguments {
    float *values;
    u64 count;
    float cap;
};

KERNEL(cap, CapArguments, 256) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < arguments.count) {
        arguments.values[at] = arguments.cap * tanhf(arguments.values[at] / arguments.cap);
    }
}
