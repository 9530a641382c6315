// Runs kernels on the host, for tests: the threads of a block are fibers of one thread, blocks run one after the other.
//
// A fiber runs until it waits at a barrier, so that a forgotten one shows: every other block runs its threads in the
// reverse order. Shared memory holds no numbers at first. What a GPU would leave undefined ends the process.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define LEM_HOST 1

namespace emulator {

struct Extent {
    unsigned x, y, z;
};

struct Fiber {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    unsigned char *stack;
    Extent thread;
    bool ended;
};

struct Warp {
    unsigned arrived, generation, ended;
    // Two, in turn: nobody writes a word of the next exchange before all have read those of this one.
    uint32_t words[2][32][6];
};

const unsigned THREADS = 1024;
const size_t STACK = 128 * 1024;
const size_t SHARED = 228 * 1024;
const size_t GUARD = 256;

struct Block {
    Extent index, threads, grid;
    unsigned count, arrived, ended, generation;
    unsigned long progress;
    void (*body)(const void *);
    const void *arguments;
    Warp warps[THREADS / 32];
    Fiber fibers[THREADS];
    Fiber scheduler;
    unsigned char *shared;
};

thread_local Block *block = nullptr;
thread_local Fiber *fiber = nullptr;

[[noreturn]] inline void undefined(const char *what) {
    fprintf(stderr, "emulated kernel: %s (block %u %u %u, thread %u)\n", what, block->index.x, block->index.y,
            block->index.z, fiber ? fiber->thread.x : 0);
    abort();
}

#if defined(__x86_64__)
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void **from, void *to);
asm(".text\n"
    "emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");
#endif

__attribute__((noinline)) inline void change(Fiber *from, Fiber *to) {
    fiber = to == &block->scheduler ? nullptr : to;
#if defined(__x86_64__)
    emulator_switch(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
}

inline void yield() { change(fiber, &block->scheduler); }

inline void release_block() {
    if (block->arrived > 0 && block->arrived + block->ended == block->count) {
        block->arrived = 0;
        block->generation++;
        block->progress++;
    }
}

inline void entry() {
    block->body(block->arguments);
    fiber->ended = true;
    block->ended++;
    block->warps[fiber->thread.x / 32].ended++;
    block->progress++;
    release_block();
    yield();
    abort();
}

inline void prepare(Fiber *to) {
    if (!to->stack) {
        to->stack = (unsigned char *)aligned_alloc(64, STACK);
    }
    to->ended = false;
#if defined(__x86_64__)
    // Six registers, the entry, and a word that makes the stack as a call would leave it.
    void **top = (void **)(to->stack + STACK - 64) + 1;
    *top = nullptr;
    *--top = (void *)entry;
    for (int index = 0; index < 6; index++) {
        *--top = nullptr;
    }
    to->stack_pointer = top;
#else
    getcontext(&to->context);
    to->context.uc_stack.ss_sp = to->stack;
    to->context.uc_stack.ss_size = STACK;
    to->context.uc_link = nullptr;
    makecontext(&to->context, entry, 0);
#endif
}

inline void barrier() {
    unsigned generation = block->generation;
    block->arrived++;
    release_block();
    while (block->generation == generation) {
        yield();
    }
}

// Gives `count` words to the other lanes of the warp; what they gave is at the result, until the next exchange but one.
inline uint32_t (*exchange(const uint32_t *words, int count))[6] {
    Warp &warp = block->warps[fiber->thread.x / 32];
    if (warp.ended > 0) {
        undefined("lanes exchange words after one of them has ended");
    }
    unsigned generation = warp.generation;
    auto place = warp.words[generation % 2];
    memcpy(place[fiber->thread.x % 32], words, count * sizeof(uint32_t));
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.generation++;
        block->progress++;
    }
    while (warp.generation == generation) {
        yield();
    }
    return place;
}

struct Memory {
    Block *block;
    Memory() {
        block = (Block *)calloc(1, sizeof(Block));
        block->shared = (unsigned char *)aligned_alloc(256, SHARED + GUARD);
    }
    ~Memory() {
        for (Fiber &one : block->fibers) {
            free(one.stack);
        }
        free(block->shared);
        free(block);
    }
};

inline void run_block(unsigned shared) {
    memset(block->shared, 0xff, shared);
    memset(block->shared + shared, 0xa5, GUARD);
    block->arrived = block->ended = 0;
    memset(block->warps, 0, sizeof(block->warps));
    for (unsigned index = 0; index < block->count; index++) {
        block->fibers[index].thread = {index, 0, 0};
        prepare(&block->fibers[index]);
    }
    bool reverse = (block->index.x + block->index.y + block->index.z) % 2;
    while (block->ended < block->count) {
        unsigned long before = block->progress;
        for (unsigned index = 0; index < block->count; index++) {
            Fiber *next = &block->fibers[reverse ? block->count - 1 - index : index];
            if (!next->ended) {
                change(&block->scheduler, next);
            }
        }
        if (block->progress == before) {
            undefined("threads wait for each other at different barriers");
        }
    }
    for (size_t index = 0; index < GUARD; index++) {
        if (block->shared[shared + index] != 0xa5) {
            undefined("shared memory was written beyond its end");
        }
    }
}

inline void run(void (*body)(const void *), const unsigned *grid, unsigned threads, unsigned shared,
                const void *arguments) {
    static thread_local Memory memory;
    block = memory.block;
    block->body = body;
    block->arguments = arguments;
    block->grid = {grid[0], grid[1], grid[2]};
    block->threads = {threads, 1, 1};
    block->count = threads;
    if (threads % 32 != 0 || threads > THREADS || shared > SHARED) {
        undefined("a launch of that many threads or that much shared memory");
    }
    for (block->index.z = 0; block->index.z < grid[2]; block->index.z++) {
        for (block->index.y = 0; block->index.y < grid[1]; block->index.y++) {
            for (block->index.x = 0; block->index.x < grid[0]; block->index.x++) {
                run_block(shared);
            }
        }
    }
}

} // namespace emulator

#define threadIdx (emulator::fiber->thread)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->threads)
#define gridDim (emulator::block->grid)
#define __shared__ static thread_local
#define __syncthreads() emulator::barrier()
#define INLINE static inline
#define DYNAMIC_SHARED(name) unsigned char *const name = emulator::block->shared

// Kernels are launched by the names of these functions, which have the structure's size beside them.
#define KERNEL(name, Arguments, most_threads)                                                                          \
    static void name##_body(const Arguments &arguments);                                                               \
    extern "C" unsigned name##_size() { return sizeof(Arguments); }                                                    \
    extern "C" void name(const unsigned *grid, unsigned threads, unsigned shared, const void *arguments) {             \
        if (threads > most_threads) {                                                                                  \
            fprintf(stderr, #name " is compiled for fewer threads than %u\n", threads);                               \
            abort();                                                                                                   \
        }                                                                                                              \
        emulator::run([](const void *arguments) { name##_body(*(const Arguments *)arguments); }, grid, threads,        \
                      shared, arguments);                                                                              \
    }                                                                                                                  \
    static void name##_body(const Arguments &arguments)

INLINE float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t __float_as_uint(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

INLINE float __shfl_xor_sync(uint32_t, float value, int distance) {
    uint32_t bits = __float_as_uint(value);
    return __uint_as_float(emulator::exchange(&bits, 1)[(threadIdx.x % 32) ^ distance][0]);
}

INLINE uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int distance) {
    return emulator::exchange(&value, 1)[(threadIdx.x % 32) ^ distance][0];
}

INLINE uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)(((uint64_t)a * b) >> 32); }

INLINE float half_to_float(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) {
        return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    }
    if (exponent == 0) {
        float value = (float)fraction / 16777216.0f;
        return sign ? -value : value;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

INLINE uint16_t round_to_half(float value) {
    uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    float magnitude = std::fabs(value);
    if (value != value) {
        return 0x7fff;
    }
    if (magnitude >= 65520.0f) {
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 6.103515625e-5f) {
        // The number of smallest steps, rounded to nearest even as the host's floats are.
        return (uint16_t)(sign | (uint32_t)std::nearbyint(magnitude * 16777216.0f));
    }
    uint32_t raised = (bits & 0x7fffffffu) + 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((raised >> 13) - (112u << 10)));
}

// As the tensor cores have it: see the comment in prelude.cu.
INLINE void multiply_tiles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    auto all = emulator::exchange(words, 6);
    auto half_of = [](uint32_t word, int index) { return half_to_float((uint16_t)(word >> (16 * index))); };
    int lane = threadIdx.x % 32;
    for (int index = 0; index < 4; index++) {
        int row = lane / 4 + index / 2 * 8, column = lane % 4 * 2 + index % 2;
        float sum = d[index];
        for (int k = 0; k < 16; k++) {
            int of_a = row % 8 * 4 + k % 8 / 2, of_b = column * 4 + k % 8 / 2;
            sum += half_of(all[of_a][row / 8 + k / 8 * 2], k % 2) * half_of(all[of_b][4 + k / 8], k % 2);
        }
        d[index] = sum;
    }
}
