// Every memory access of a kernel, checked. The kernels are compiled with -fsanitize=thread, whose hooks are defined
// here instead of in the compiler's own library: that one knows pthreads, this one knows blocks, warps and barriers.
//
// - bounds: an address lies in a buffer of the launch, in shared memory or on the thread's own stack
// - rights: inputs are not written; outputs and shared memory are not read before they are written
// - races: two accesses of one place, one of them a write, by two threads with nothing between them that orders them:
//   neither a barrier of their block nor a __syncwarp of their warp
//
// The order of accesses is the schedule's, but the verdict is not: a missing barrier is seen under any schedule that
// reaches it.
#include <cstdlib>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include "registry.h"
#include "runtime.h"

namespace cuda_on_cpu {

namespace {
Entry* entries;
}
void add_entry(Entry* entry) {
    entry->next = entries;
    entries = entry;
}
const Entry* find_entry(const char* name) {
    for (Entry* e = entries; e; e = e->next)
        if (!std::strcmp(e->name, name)) return e;
    return nullptr;
}

namespace checker {
namespace {

// What was last done to two bytes. A stamp is 0 for never, else a thread + 1 and its time.
struct Cell {
    uint64_t write, read, other_read, atomic;
};
constexpr size_t GRAIN = 2;
constexpr int MAX_BUFFERS = 32;

struct Region {
    Range range;
    int kind;
    Cell* cells;
    const char* what;
};

Region regions[MAX_BUFFERS + 2];
int count, shared_count, last;
Range module;

uint64_t stamp(Moment m) { return uint64_t(m.thread + 1) << 32 | uint64_t(m.block_time) << 16 | m.warp_time; }
uint32_t thread_of(uint64_t s) { return uint32_t(s >> 32) - 1; }

bool ordered(uint64_t before, uint64_t after) {
    uint32_t a = thread_of(before), b = thread_of(after), n = threads_per_block();
    if (a == b) return true;
    if (a / n != b / n) return false;
    uint16_t barriers_a = before >> 16, barriers_b = after >> 16;
    if (barriers_a != barriers_b) return true;
    return a % n / 32 == b % n / 32 && uint16_t(before) != uint16_t(after);
}

int find_module(dl_phdr_info* info, size_t, void*) {
    auto inside = reinterpret_cast<uintptr_t>(&regions);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, end = begin + info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type == PT_LOAD && inside >= begin && inside < end) {
            module = {reinterpret_cast<char*>(info->dlpi_addr), reinterpret_cast<char*>(end)};
            return 1;
        }
    }
    return 0;
}

size_t cell_bytes(Range range) { return ((range.end - range.begin) / GRAIN + 2) * sizeof(Cell); }

// Pages come when they are touched: a buffer may be larger than the machine's memory.
Region make(Range range, int kind, const char* what) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* cells = mmap(nullptr, cell_bytes(range), PROT_READ | PROT_WRITE, flags, -1, 0);
    return {range, kind, cells == MAP_FAILED ? nullptr : static_cast<Cell*>(cells), what};
}

void clear_cells() {
    for (int i = 0; i < count; i++)
        if (regions[i].cells) munmap(regions[i].cells, cell_bytes(regions[i].range));
    count = 0;
}

[[noreturn]] void report(const std::string& kind, const char* verb, const Region* r, const void* p,
                         const std::string& more, void* from) {
    std::string where = r ? std::string(r->what) : "memory";
    if (r && r->what[0] == 'b') where += " " + std::to_string(r - regions - shared_count);
    if (r) where += " at byte " + std::to_string(static_cast<const char*>(p) - r->range.begin);
    Dl_info info;
    std::string at;
    if (dladdr(from, &info)) {
        char text[32];
        snprintf(text, sizeof(text), " [+0x%zx]",
                 size_t(static_cast<char*>(from) - static_cast<char*>(info.dli_fbase)));
        at = text;
    }
    fail(kind + ": " + me() + " " + verb + " " + where + more + at);
}

Region* find(const void* p) {
    if (last < count && regions[last].range.holds(p)) return &regions[last];
    for (last = 0; last < count; last++)
        if (regions[last].range.holds(p)) return &regions[last];
    return nullptr;
}

enum Kind { READ, WRITE, ATOMIC };
const char* const VERBS[] = {"reads", "writes", "changes"};

void expect_ordered(uint64_t before, uint64_t after, const char* past, Kind kind, const Region* r, const void* p,
                    void* from) {
    if (before && !ordered(before, after))
        report("race", VERBS[kind], r, p,
               ", which " + name(thread_of(before)) + " " + past + " with nothing between that orders them", from);
}

void check_cell(Region* r, Cell& c, const void* p, Kind kind, uint64_t t, void* from) {
    if (kind == READ && r->kind == OUT && !c.write && !c.atomic)
        report("uninitialised", "reads", r, p, ", which nobody has written", from);
    expect_ordered(c.write, t, "wrote", kind, r, p, from);
    if (kind != ATOMIC) expect_ordered(c.atomic, t, "changed", kind, r, p, from);
    if (kind != READ) {
        expect_ordered(c.read, t, "read", kind, r, p, from);
        expect_ordered(c.other_read, t, "read", kind, r, p, from);
    }
    if (kind == WRITE) c = {t, 0, 0, 0};
    if (kind == ATOMIC) c.atomic = t;
    if (kind == READ) (!c.read || thread_of(c.read) == thread_of(t) ? c.read : c.other_read) = t;
}

void check(const void* p, size_t bytes, Kind kind, void* from) {
    if (!running() || own_stack().holds(p)) return;
    Region* r = find(p);
    if (!r) {
        if (module.holds(p) && kind == READ) return;
        report("out of bounds", VERBS[kind], nullptr, p,
               all_stacks().holds(p) ? " of another thread's stack" : " outside of every buffer", from);
    }
    const char* end = static_cast<const char*>(p) + bytes;
    if (end > r->range.end || (r == regions && !in_one_array(p, bytes)))
        report("out of bounds", VERBS[kind], r, p, ", beyond its end", from);
    if (kind != READ && r->kind == IN) report("read-only", VERBS[kind], r, p, ", which is an input", from);
    uint64_t t = stamp(now());
    size_t first = (static_cast<const char*>(p) - r->range.begin) / GRAIN, n = (bytes + GRAIN - 1) / GRAIN;
    for (size_t i = first; i < first + n; i++) check_cell(r, r->cells[i], p, kind, t, from);
}

}  // namespace

bool begin_launch(const Buffer* buffers, int n) {
    if (!module.begin) dl_iterate_phdr(find_module, nullptr);
    clear_cells();
    last = 0;
    regions[count++] = make(static_shared_range(), OUT, "shared memory");
    if (dynamic_shared_range().begin) regions[count++] = make(dynamic_shared_range(), OUT, "dynamic shared memory");
    shared_count = count;
    for (int i = 0; i < n && i < MAX_BUFFERS; i++) {
        auto begin = static_cast<const char*>(buffers[i].at);
        regions[count++] = make({begin, begin + buffers[i].bytes}, buffers[i].kind, "buffer");
    }
    for (int i = 0; i < count; i++)
        if (!regions[i].cells) return false;
    return true;
}

void begin_block() {
    for (int i = 0; i < shared_count; i++) {
        Region& r = regions[i];
        memset(r.cells, 0, cell_bytes(r.range));
    }
}

void end_launch() { clear_cells(); }

}  // namespace checker

void atomic_access(const void* at, size_t bytes) {
    checker::check(at, bytes, checker::ATOMIC, __builtin_return_address(0));
}

void read_access(const void* at, size_t bytes) {
    checker::check(at, bytes, checker::READ, __builtin_return_address(0));
}
void write_access(const void* at, size_t bytes) {
    checker::check(at, bytes, checker::WRITE, __builtin_return_address(0));
}

}  // namespace cuda_on_cpu

// The names that -fsanitize=thread calls.
#define HOOK extern "C" __attribute__((visibility("hidden"), used)) void
#define ACCESS(name, bytes, kind)                                                                       \
    HOOK name(void* p) {                                                                                \
        cuda_on_cpu::checker::check(p, bytes, cuda_on_cpu::checker::kind, __builtin_return_address(0)); \
    }
#define SIZE(n)                                 \
    ACCESS(__tsan_read##n, n, READ)             \
    ACCESS(__tsan_write##n, n, WRITE)           \
    ACCESS(__tsan_unaligned_read##n, n, READ)   \
    ACCESS(__tsan_unaligned_write##n, n, WRITE) \
    ACCESS(__tsan_volatile_read##n, n, READ)    \
    ACCESS(__tsan_volatile_write##n, n, WRITE)
SIZE(1)
SIZE(2)
SIZE(4)
SIZE(8)
SIZE(16)
HOOK __tsan_read_range(void* p, size_t n) {
    cuda_on_cpu::checker::check(p, n, cuda_on_cpu::checker::READ, __builtin_return_address(0));
}
HOOK __tsan_write_range(void* p, size_t n) {
    cuda_on_cpu::checker::check(p, n, cuda_on_cpu::checker::WRITE, __builtin_return_address(0));
}
HOOK __tsan_init() {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit() {}
