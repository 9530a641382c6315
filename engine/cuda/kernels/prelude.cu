// What all kernels share. No file here includes another: the run-time compiler has no headers, and the files are joined
// before they are compiled. With LEM_HOST the same text is C++ for the host, below emulator.hpp.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
// Positions in a block of the key-value cache.
#define BLOCK_POSITIONS 32

#ifndef LEM_HOST

// A kernel takes one structure, whose layout the host writes down a second time.
#define KERNEL(name, Arguments, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const Arguments arguments)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]
#define INLINE __device__ __forceinline__

INLINE float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

INLINE u16 round_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// d += a · b for a 16×16 tile of halves (rows), a 16×8 tile of halves (columns) and a 16×8 tile of floats. The lane
// `4 g + t` holds: of a rows g and g + 8, columns 2 t, 2 t + 1 and those plus 8; of b column g, the same as rows; of d
// rows g and g + 8, columns 2 t and 2 t + 1. Source: PTX ISA, "Matrix fragments for mma.m16n8k16".
INLINE void multiply_tiles(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

INLINE float infinity() { return __uint_as_float(0x7f800000u); }

// Rounds to the nearest half; what is beyond its range becomes its largest value, not infinity: one outlier of the
// activations would otherwise make a whole row into no numbers.
INLINE u16 float_to_half(float value) {
    value = value > 65504.0f ? 65504.0f : value;
    value = value < -65504.0f ? -65504.0f : value;
    return round_to_half(value);
}

INLINE float brain_to_float(u16 bits) { return __uint_as_float((u32)bits << 16); }

// Rounds to the nearest brain float, ties to even; what is no number stays none.
INLINE u16 float_to_brain(float value) {
    u32 bits = __float_as_uint(value);
    if (value != value) {
        return (u16)(bits >> 16 | 0x40u);
    }
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

INLINE u32 two_halves(float low, float high) { return (u32)float_to_half(low) | (u32)float_to_half(high) << 16; }

INLINE float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

INLINE float warp_maximum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over all threads of a block, the same in each. `scratch` has an element for each warp.
INLINE float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) {
        scratch[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    float total = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) {
        total += scratch[warp];
    }
    // The next sum writes to the same place.
    __syncthreads();
    return total;
}

// Where the inputs of products go: in each type that a matrix after it reads, none where the address is zero.
struct Activations {
    float *single;
    u16 *half;
    u16 *brain;
};

INLINE void write_activation(const Activations &to, u64 at, float value) {
    if (to.single) {
        to.single[at] = value;
    }
    if (to.half) {
        to.half[at] = float_to_half(value);
    }
    if (to.brain) {
        to.brain[at] = float_to_brain(value);
    }
}
