// What the scheduler (runtime.cpp) and the checker (checker.cpp) know of each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

// A piece of global memory that a launch may touch.
struct Buffer {
    const void* at;
    size_t bytes;
    int kind;  // IN: only read.  OUT: written before it is read.  INOUT: anything.
};
enum { IN, OUT, INOUT };

// Threads are counted over the grid; time goes on in a block with each barrier, in a warp with each __syncwarp.
struct Moment {
    uint32_t thread;
    uint16_t block_time, warp_time;
};

// Ends the launch with an error; never returns.
[[noreturn]] void fail(const std::string& what);
bool running();
Moment now();
unsigned threads_per_block();
// "block (1, 0, 0) thread (3, 0, 0)".
std::string name(uint32_t thread);
std::string me();

struct Range {
    const char* begin;
    const char* end;
    bool holds(const void* p) const { return p >= begin && p < end; }
};
Range static_shared_range();
// Whether an access to static shared memory stays inside of one array.
bool in_one_array(const void* p, size_t bytes);
Range dynamic_shared_range();
Range all_stacks();
Range own_stack();

// What the emulation does for a thread.
void read_access(const void* at, size_t bytes);
void write_access(const void* at, size_t bytes);

namespace checker {
// Whether there is address space to watch the buffers.
bool begin_launch(const Buffer* buffers, int count);
void begin_block();
void end_launch();
}  // namespace checker

}  // namespace cuda_on_cpu
