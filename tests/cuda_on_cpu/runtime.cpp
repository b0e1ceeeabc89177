// Fibers, their schedule, warp collectives, barriers and launches.
//
// A block runs at a time. A thread runs until it waits; who runs next is a matter of the seed: 0 takes the lowest
// thread that can run, 1 the highest, others draw. Blocks run in an order drawn likewise.
#include "runtime.h"

#include <csetjmp>
#include <cstdio>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "registry.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 128 << 10, SHARED_LIMIT = 227 << 10, STATIC_LIMIT = 48 << 10;

enum State { READY, AT_BARRIER, IN_COLLECTIVE, DONE };
const char* const NAMES[] = {"shuffle", "__ballot_sync", "__syncwarp", "an instruction on matrices"};

// A copy that copy_async has started.
struct Copy {
    void* to;
    const void* from;
    bool valid;
    unsigned group;
};

struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool started;
    State state;
    Place place;
    const char* barrier;
    Collective kind;
    unsigned mask;
    uint64_t value, result;
    int source;
    const void* mine;
    size_t bytes;
    std::vector<Copy> copies;
    unsigned group;
};

struct Warp {
    uint16_t time;
    alignas(16) char gathered[32 * 64];
};

Fiber fibers[MAX_THREADS];
Warp warps[MAX_THREADS / 32];
char* stacks;
bool fresh = true;  // fibers must be made anew: none yet, or an error left some inside a kernel
unsigned threads, current, done;
uint32_t block_number;
uint16_t block_time;
uint64_t ready[MAX_THREADS / 64];
uint64_t seed, state_of_random;
bool active;
const Entry* entry;
void** arguments;
jmp_buf main_jump;
std::string error;
struct Array {
    const void* key;
    size_t at, bytes;
};
alignas(1024) char static_memory[STATIC_LIMIT];
std::vector<Array> static_arrays;  // of the launch
std::vector<char> dynamic_memory;
char* dynamic_base;

uint64_t random_bits() {
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    return state_of_random ^= state_of_random << 17;
}

std::string text(uint3 p) {
    return "(" + std::to_string(p.x) + ", " + std::to_string(p.y) + ", " + std::to_string(p.z) + ")";
}

uint3 split(unsigned flat, uint3 size) { return {flat % size.x, flat / size.x % size.y, flat / (size.x * size.y)}; }

std::string text(Place place) {
    std::string file = place.file;
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line);
}

std::string waiting(unsigned t) {
    const Fiber& f = fibers[t];
    std::string who = "thread " + text(split(t, blockDim));
    if (f.state == DONE) return who + " has returned";
    if (f.state == READY) return who + " runs";
    return who + " waits in " + (f.state == AT_BARRIER ? f.barrier : NAMES[f.kind]) + " at " + text(f.place);
}

void set_ready(unsigned t, bool yes) {
    fibers[t].state = yes ? READY : fibers[t].state;
    uint64_t bit = uint64_t(1) << (t % 64);
    ready[t / 64] = yes ? ready[t / 64] | bit : ready[t / 64] & ~bit;
}

// The first thread at or after `from` that can run, going round; MAX_THREADS when none can.
unsigned next_ready(unsigned from) {
    constexpr unsigned WORDS = MAX_THREADS / 64;
    for (unsigned k = 0; k <= WORDS; k++) {
        unsigned w = (from / 64 + k) % WORDS;
        uint64_t bits = ready[w];
        if (k == 0) bits &= ~uint64_t(0) << (from % 64);
        if (k == WORDS) bits &= ~(~uint64_t(0) << (from % 64));
        if (bits) return w * 64 + __builtin_ctzll(bits);
    }
    return MAX_THREADS;
}

unsigned last_ready() {
    for (int w = MAX_THREADS / 64 - 1; w >= 0; w--)
        if (ready[w]) return w * 64 + 63 - __builtin_clzll(ready[w]);
    return MAX_THREADS;
}

// All wait. At one barrier: on they go. Else nobody ever will.
void release_barrier() {
    unsigned first = threads, odd = threads;
    for (unsigned t = 0; t < threads; t++) {
        if (first == threads && fibers[t].state == AT_BARRIER) first = t;
    }
    for (unsigned t = 0; t < threads && odd == threads; t++) {
        const Fiber &a = fibers[t], &b = fibers[first == threads ? 0 : first];
        bool same = a.state == AT_BARRIER && a.place.line == b.place.line && !strcmp(a.place.file, b.place.file);
        if (!same) odd = t;
    }
    if (odd < threads) {
        std::string other = first == threads ? "" : "; " + waiting(first);
        fail("divergence: block " + text(blockIdx) + ": " + waiting(odd) + other);
    }
    for (unsigned t = 0; t < threads; t++) set_ready(t, true);
    block_time++;
}

unsigned pick() {
    unsigned t = seed == 0 ? next_ready(0) : seed == 1 ? last_ready() : next_ready(random_bits() % MAX_THREADS);
    if (t == MAX_THREADS && done < threads) {
        release_barrier();
        return pick();
    }
    return t;
}

#if defined(__SANITIZE_ADDRESS__)
ucontext_t main_context;
const void* main_stack;
size_t main_stack_size;

void enter(Fiber* from, Fiber* to) {
    void* fake = nullptr;
    const void* bottom = to ? stacks + (to - fibers) * STACK : main_stack;
    __sanitizer_start_switch_fiber(&fake, bottom, to ? STACK : main_stack_size);
    swapcontext(from ? &from->context : &main_context, to ? &to->context : &main_context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
#else
// Fibers begin by setcontext and go on by longjmp, which spares the system call of swapcontext.
void enter(Fiber* from, Fiber* to) {
    if (_setjmp(from ? from->jump : main_jump)) return;
    if (!to) _longjmp(main_jump, 1);
    if (to->started) _longjmp(to->jump, 1);
    to->started = true;
    setcontext(&to->context);
}
#endif

void run_next() {
    unsigned from = current, to = pick();
    if (to == from) return;
    if (to == MAX_THREADS) return enter(&fibers[from], nullptr);
    current = to;
    threadIdx = split(to, blockDim);
    enter(&fibers[from], &fibers[to]);
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!main_stack) main_stack = bottom, main_stack_size = size;
#endif
    for (;;) {
        entry->call(arguments);
        fibers[current].state = DONE;
        set_ready(current, false);
        done++;
        run_next();
    }
}

bool make_fibers() {
    if (!stacks) {
        // One mapping: pages between the stacks would soon be more than a process may have, and the checker sees it
        // when a thread leaves its own.
        void* at = mmap(nullptr, MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return false;
        stacks = static_cast<char*>(at);
    }
    for (unsigned t = 0; t < MAX_THREADS; t++) {
        getcontext(&fibers[t].context);
        fibers[t].context.uc_stack.ss_sp = stacks + t * STACK;
        fibers[t].context.uc_stack.ss_size = STACK;
        fibers[t].context.uc_link = nullptr;
        fibers[t].started = false;
        makecontext(&fibers[t].context, fiber_main, 0);
    }
    fresh = false;
    return true;
}

void run_block(unsigned number) {
    block_number = number;
    blockIdx = split(number, gridDim);
    block_time = 0;
    done = 0;
    for (Warp& warp : warps) warp.time = 0;
    // 0xff bytes: NaN in every float type, -1 in integers.
    memset(static_memory, 0xff, sizeof(static_memory));
    if (!dynamic_memory.empty()) memset(dynamic_memory.data(), 0xff, dynamic_memory.size());
    checker::begin_block();
    memset(ready, 0, sizeof(ready));
    for (unsigned t = 0; t < threads; t++) {
        set_ready(t, true);
        fibers[t].copies.clear();
        fibers[t].group = 0;
    }
    current = pick();
    threadIdx = split(current, blockDim);
    enter(nullptr, &fibers[current]);
}

void run_grid() {
    size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z;
    std::vector<unsigned> order(blocks);
    for (size_t b = 0; b < blocks; b++) order[b] = seed == 1 ? blocks - 1 - b : b;
    for (size_t b = blocks; seed > 1 && b > 1; b--) std::swap(order[b - 1], order[random_bits() % b]);
    for (size_t b = 0; b < blocks && error.empty(); b++) run_block(order[b]);
}

}  // namespace

void fail(const std::string& what) {
    error = what;
    fresh = true;
#if defined(__SANITIZE_ADDRESS__)
    fprintf(stderr, "cuda_on_cpu: %s\n", what.c_str());
    abort();
#else
    _longjmp(main_jump, 1);
#endif
}

bool running() { return active; }
unsigned threads_per_block() { return threads; }
int lane() { return current % 32; }
Moment now() { return {block_number * threads + current, block_time, warps[current / 32].time}; }

std::string name(uint32_t thread) {
    return "block " + text(split(thread / threads, gridDim)) + " thread " + text(split(thread % threads, blockDim));
}
std::string me() { return name(now().thread); }

void* static_shared(const void* key, size_t bytes) {
    for (const Array& a : static_arrays)
        if (a.key == key) return static_memory + a.at;
    size_t at = static_arrays.empty() ? 0 : (static_arrays.back().at + static_arrays.back().bytes + 31) / 16 * 16;
    if (at + bytes > STATIC_LIMIT) fail("more than 48 KiB of static shared memory");
    static_arrays.push_back({key, at, bytes});
    return static_memory + at;
}
bool in_one_array(const void* p, size_t bytes) {
    size_t at = static_cast<const char*>(p) - static_memory;
    for (const Array& a : static_arrays)
        if (at >= a.at && at + bytes <= a.at + a.bytes) return true;
    return false;
}
void* dynamic_shared() { return dynamic_base; }
Range static_shared_range() { return {static_memory, static_memory + STATIC_LIMIT}; }
Range dynamic_shared_range() {
    return dynamic_base ? Range{dynamic_base, dynamic_memory.data() + dynamic_memory.size()} : Range{nullptr, nullptr};
}
Range all_stacks() { return {stacks, stacks + MAX_THREADS * STACK}; }
Range own_stack() {
    const char* bottom = stacks + current * STACK;
    return {bottom, bottom + STACK};
}

void expect_aligned(const void* at, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(at) % alignment)
        fail("misaligned: " + me() + " takes a vector of " + std::to_string(alignment) +
             " bytes at an address that is no multiple");
}

void barrier(const char* what, Place place) {
    Fiber& f = fibers[current];
    f.state = AT_BARRIER;
    f.place = place;
    f.barrier = what;
    set_ready(current, false);
    run_next();
}

namespace {

// Every lane has come: give each its result.
void finish(unsigned first, unsigned mask) {
    Fiber* warp = fibers + first;
    for (int l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) continue;
        Fiber& f = warp[l];
        f.result = f.value;
        if (f.kind == SHUFFLE && f.source >= 0) f.result = warp[f.source].value;
        if (f.kind == MATRIX) memcpy(warps[first / 32].gathered + l * f.bytes, f.mine, f.bytes);
        if (f.kind == BALLOT) {
            f.result = 0;
            for (int k = 0; k < 32; k++)
                if (mask >> k & 1) f.result |= warp[k].value << k;
        }
    }
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) set_ready(first + l, true);
    if (warp[__builtin_ctz(mask)].kind == SYNCWARP && mask == 0xffffffffu) warps[first / 32].time++;
}

void expect_same(unsigned other, const Fiber& f) {
    const Fiber& o = fibers[other];
    bool wrong = o.state == DONE || o.state == AT_BARRIER;
    if (o.state == IN_COLLECTIVE)
        wrong = o.kind != f.kind || o.mask != f.mask || o.place.line != f.place.line ||
                (o.place.file != f.place.file && strcmp(o.place.file, f.place.file));
    if (wrong) fail("divergence: block " + text(blockIdx) + ": " + waiting(current) + ", where " + waiting(other));
}

}  // namespace

uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source, Place place) {
    Fiber& f = fibers[current];
    unsigned first = current / 32 * 32, own = current % 32;
    f.state = IN_COLLECTIVE;
    f.kind = kind, f.mask = mask, f.value = value, f.source = source, f.place = place;
    set_ready(current, false);
    if (!(mask >> own & 1))
        fail("illegal mask: block " + text(blockIdx) + ": " + waiting(current) + " and is not in its mask");
    if (source >= 0 && !(mask >> source & 1))
        fail("illegal shuffle: block " + text(blockIdx) + ": " + waiting(current) + " for lane " +
             std::to_string(source) + ", which is not in the mask");
    bool all = true;
    for (unsigned l = 0; l < 32; l++) {
        if (!(mask >> l & 1) || l == own) continue;
        expect_same(first + l, f);
        all &= fibers[first + l].state == IN_COLLECTIVE;
    }
    if (all) finish(first, mask);
    run_next();
    return f.result;
}

const void* gather(const void* mine, size_t bytes, Place place) {
    Fiber& f = fibers[current];
    f.mine = mine, f.bytes = bytes;
    collective(MATRIX, 0xffffffffu, 0, -1, place);
    return warps[current / 32].gathered;
}

void copy_async(void* shared, const void* global, bool valid) {
    expect_aligned(shared, 16);
    expect_aligned(global, 16);
    if (!static_shared_range().holds(shared) && !dynamic_shared_range().holds(shared))
        fail("copy_async: " + me() + " copies to memory that is not shared");
    Fiber& f = fibers[current];
    write_access(shared, 16);
    memset(shared, 0xff, 16);
    f.copies.push_back({shared, global, valid, f.group});
}

void commit_copies() { fibers[current].group++; }

void wait_copies(unsigned groups) {
    Fiber& f = fibers[current];
    std::vector<Copy> left;
    for (const Copy& c : f.copies) {
        if (c.group + groups >= f.group) {
            left.push_back(c);
            continue;
        }
        if (c.valid) read_access(c.from, 16);
        write_access(c.to, 16);
        if (c.valid) memcpy(c.to, c.from, 16);
        else memset(c.to, 0, 16);
    }
    f.copies = left;
}

}  // namespace cuda_on_cpu

unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
    cuda_on_cpu::atomic_access(at, 8);
    unsigned long long old = *at;
    if (value < old) *at = value;
    return old;
}

int atomicAdd(int* at, int value) {
    cuda_on_cpu::atomic_access(at, 4);
    int old = *at;
    *at = old + value;
    return old;
}

using namespace cuda_on_cpu;

extern "C" __attribute__((visibility("default"))) int cuda_on_cpu_launch(const char* kernel, const unsigned* grid,
                                                                         const unsigned* block, size_t shared,
                                                                         void** args, const Buffer* buffers,
                                                                         int buffer_count, uint64_t seed_,
                                                                         char* message, size_t message_size) {
    error.clear();
    entry = find_entry(kernel);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    size_t count = size_t(block[0]) * block[1] * block[2];
    if (!entry) error = std::string("no kernel ") + kernel;
    // Not CUDA's rule but ours: the kernels' shuffles take whole warps.
    else if (count == 0 || count > MAX_THREADS || count % 32) error = "a block has 32 to 1024 threads, whole warps";
    else if (shared > SHARED_LIMIT) error = "more shared memory than a block can have";
    else if (fresh && !make_fibers()) error = "no memory for the stacks of the threads";
    if (error.empty()) {
        static_arrays.clear();
        threads = count, seed = seed_, arguments = args;
        state_of_random = seed_ * 0x9e3779b97f4a7c15ull + 1;
        dynamic_memory.assign(shared ? shared + 1024 : 0, 0);
        dynamic_base = nullptr;
        if (shared) {
            uintptr_t base = (reinterpret_cast<uintptr_t>(dynamic_memory.data()) + 1023) / 1024 * 1024;
            dynamic_base = reinterpret_cast<char*>(base);
            dynamic_memory.resize(dynamic_base - dynamic_memory.data() + shared);
        }
        if (checker::begin_launch(buffers, buffer_count)) {
            active = true;
            run_grid();
            active = false;
        } else {
            error = "no address space to watch the buffers";
        }
        checker::end_launch();
    }
    snprintf(message, message_size, "%s", error.c_str());
    return error.empty() ? 0 : 1;
}

// One letter a parameter: p pointer, f float, d double, i int, u unsigned, s struct, z size_t or another 8 bytes.
extern "C" __attribute__((visibility("default"))) const char* cuda_on_cpu_signature(const char* kernel) {
    const Entry* e = find_entry(kernel);
    return e ? e->signature : nullptr;
}

extern "C" __attribute__((visibility("default"))) size_t cuda_on_cpu_struct_bytes(const char* kernel) {
    const Entry* e = find_entry(kernel);
    return e ? e->struct_bytes : 0;
}
