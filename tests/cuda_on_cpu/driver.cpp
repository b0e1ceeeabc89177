// A stand-in for NVIDIA's driver: the calls that rust/src/cuda makes, over the emulation of the kernels. The library is
// named libcuda.so.1; nothing of the Rust code knows of it. See docs/cuda.md.
//
// What is asked for in a stream happens when the stream is waited for, not earlier. Memory of the device is closed to
// the host in between. Environment variables (CUDA_ON_CPU_*, below) choose the device and what goes wrong.
#include <cstdio>
#include <cstdlib>
#include <elf.h>
#include <map>
#include <regex>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "registry.h"
#include "runtime.h"
#include "stand_in.h"

using namespace stand_in;

extern "C" int cuda_on_cpu_launch(const char* kernel, const unsigned* grid, const unsigned* block, size_t shared,
                                  void** args, const cuda_on_cpu::Buffer* buffers, int buffer_count, uint64_t seed,
                                  char* message, size_t message_size);

namespace {

// CUresult
enum Result {
    INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_FAILED = 719,
};
// CUdevice_attribute
enum Attribute { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, MEMORY_POOLS = 115 };

int devices() { return number("CUDA_ON_CPU_DEVICES", "1"); }
// 90 for compute capability 9.0.
int capability() { return number("CUDA_ON_CPU_CAPABILITY", "90"); }

pid_t owner;    // the process that started the driver: in a child of it nothing works
int sticky;     // the error of a kernel: everything afterwards fails with it
int contexts;   // one a device, the address of an element
thread_local int* current;
int handles[16];

// --- memory

constexpr size_t ALIGNMENT = 256, ADDRESSES = size_t(4) << 30;

size_t limit() { return strtoul(variable("CUDA_ON_CPU_MEMORY", "268435456"), nullptr, 10); }

struct Memory {
    char* base = nullptr;
    std::map<size_t, size_t> live;  // offset: bytes
    size_t used = 0, next = 0;
};
Memory memory;

// While this lives the device's memory can be touched.
struct Open {
    Open() {
        if (!memory.base)
            memory.base = static_cast<char*>(
                mmap(nullptr, ADDRESSES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        set(PROT_READ | PROT_WRITE);
    }
    ~Open() { set(PROT_NONE); }
    static void set(int rights) { mprotect(memory.base, (memory.next + 4095) / 4096 * 4096 + 4096, rights); }
};

// The allocation that holds an address.
std::map<size_t, size_t>::iterator find(uint64_t address) {
    size_t offset = address - reinterpret_cast<uint64_t>(memory.base);
    auto after = memory.live.upper_bound(offset);
    if (!memory.base || after == memory.live.begin()) return memory.live.end();
    auto it = std::prev(after);
    return offset < it->first + it->second ? it : memory.live.end();
}

// --- streams

std::set<Stream*> streams;

int drain(Stream* stream) {
    Open open;
    std::vector<std::function<int()>> queue;
    queue.swap(stream->queue);
    for (auto& work : queue) {
        if (sticky) break;
        sticky = work();
    }
    return sticky;
}

// --- modules

struct Module {
    std::string target;
    std::set<std::string> kernels;
};
struct Function {
    std::string name;
    unsigned shared = 48 << 10;  // what a launch may ask for
};
std::set<Module*> modules;
std::set<Function*> functions;

// Machine code: the architecture stands in the flags, a section a kernel.
bool read_elf(const char* image, Module& m, int& arch) {
    Elf64_Ehdr head;
    memcpy(&head, image, sizeof(head));
    if (head.e_machine != 190) return false;
    arch = head.e_flags & 0xff;
    m.target = "sm_" + std::to_string(arch);
    Elf64_Shdr names, section;
    memcpy(&names, image + head.e_shoff + head.e_shstrndx * sizeof(names), sizeof(names));
    for (int i = 0; i < head.e_shnum; i++) {
        memcpy(&section, image + head.e_shoff + i * sizeof(section), sizeof(section));
        std::string name = image + names.sh_offset + section.sh_name;
        if (name.rfind(".text.", 0) == 0) m.kernels.insert(name.substr(6));
    }
    return true;
}

bool read_ptx(const std::string& text, Module& m, int& arch) {
    std::smatch found;
    if (!std::regex_search(text, found, std::regex("\\.target sm_(\\d+)"))) return false;
    arch = std::stoi(found[1]);
    m.target = "compute_" + std::to_string(arch);
    for (size_t at = 0; (at = text.find(".visible .entry ", at)) != std::string::npos;) {
        at += 16;
        m.kernels.insert(text.substr(at, text.find('(', at) - at));
    }
    return true;
}

// "kernel:code" of a variable, if it is this kernel.
int planned(const char* name, const std::string& kernel) {
    std::string plan = variable(name, "");
    size_t colon = plan.find(':');
    return colon != std::string::npos && plan.substr(0, colon) == kernel ? std::stoi(plan.substr(colon + 1)) : 0;
}

struct Launch {
    std::string kernel;
    unsigned grid[3], block[3], shared;
    std::vector<uint64_t> values;     // 0 for a struct
    std::vector<unsigned> structure;  // no kernel takes two
};

// A mistake of the host, put in where its calls arrive: "KERNEL swap 3 4", "KERNEL set 3 5", "KERNEL grid 1 1",
// "KERNEL block 32 1"; "KERNEL word 48 5" in a struct.
void plant(Launch& l) {
    char kernel[100], what[20];
    unsigned a, b;
    if (sscanf(variable("CUDA_ON_CPU_PLANT", ""), "%99s %19s %u %u", kernel, what, &a, &b) != 4 || l.kernel != kernel)
        return;
    log("planted");
    if (!strcmp(what, "swap")) std::swap(l.values.at(a), l.values.at(b));
    if (!strcmp(what, "set")) l.values.at(a) = b;
    if (!strcmp(what, "word")) l.structure.at(a) = b;
    if (!strcmp(what, "grid")) l.grid[0] = a, l.grid[1] = b;
    if (!strcmp(what, "block")) l.block[0] = a, l.block[1] = b;
}

int execute(const Launch& l) {
    if (int code = planned("CUDA_ON_CPU_FAIL_LATER", l.kernel)) return code;
    std::string signature = cuda_on_cpu::find_entry(l.kernel.c_str())->signature;
    std::vector<cuda_on_cpu::Buffer> buffers;
    std::set<size_t> seen;
    std::vector<void*> args;
    for (size_t i = 0; i < signature.size(); i++) {
        args.push_back(signature[i] == 's' ? const_cast<unsigned*>(l.structure.data())
                                           : static_cast<void*>(const_cast<uint64_t*>(&l.values[i])));
        if (signature[i] != 'p' || !l.values[i]) continue;
        auto it = find(l.values[i]);
        if (it == memory.live.end())
            return refuse(ILLEGAL_ADDRESS, l.kernel + ": argument " + std::to_string(i) + " is no memory of the device");
        if (seen.insert(it->first).second)
            buffers.push_back({memory.base + it->first, it->second, cuda_on_cpu::INOUT});
    }
    char message[1000];
    int failed = cuda_on_cpu_launch(l.kernel.c_str(), l.grid, l.block, l.shared, args.data(), buffers.data(),
                                    buffers.size(), number("CUDA_ON_CPU_SEED", "2"), message, sizeof(message));
    if (!failed) return SUCCESS;
    std::string text = message;
    return refuse(text.rfind("out of bounds", 0) == 0 ? ILLEGAL_ADDRESS : int(LAUNCH_FAILED), l.kernel + ": " + text);
}

}  // namespace

namespace stand_in {

std::recursive_mutex mutex;

const char* variable(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}
long number(const char* name, const char* otherwise) { return strtol(variable(name, otherwise), nullptr, 10); }

void log(const std::string& line) {
    if (const char* path = variable("CUDA_ON_CPU_LOG", nullptr)) {
        if (FILE* file = fopen(path, "a")) {
            fprintf(file, "%s\n", line.c_str());
            fclose(file);
        }
    }
}

int refuse(int code, const std::string& why) {
    log("refused: " + why);
    return code;
}

bool holds(uint64_t address, size_t bytes) {
    auto it = find(address);
    return it != memory.live.end() &&
           address - reinterpret_cast<uint64_t>(memory.base) + bytes <= it->first + it->second;
}

int ready() {
    if (owner != getpid()) return NOT_INITIALIZED;
    if (sticky) return sticky;
    return current ? SUCCESS : refuse(INVALID_CONTEXT, "no context is current");
}

int in_stream(Stream* stream, std::function<int()> work) {
    if (!streams.count(stream)) return refuse(INVALID_HANDLE, "no such stream");
    stream->queue.push_back(std::move(work));
    return number("CUDA_LAUNCH_BLOCKING", "0") ? drain(stream) : SUCCESS;
}

}  // namespace stand_in

#define READY \
    LOCKED;   \
    if (int code = ready()) return code

EXPORT cuDriverGetVersion(int* version) {
    *version = number("CUDA_ON_CPU_DRIVER", "12000");
    return SUCCESS;
}

EXPORT cuInit(unsigned flags) {
    LOCKED;
    if (flags) return INVALID_VALUE;
    if (devices() == 0) return NO_DEVICE;
    owner = getpid();
    return SUCCESS;
}

EXPORT cuDeviceGetCount(int* count) {
    if (owner != getpid()) return NOT_INITIALIZED;
    *count = devices();
    return SUCCESS;
}

EXPORT cuDeviceGet(int* device, int ordinal) {
    if (owner != getpid()) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= devices()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

EXPORT cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, length, "Stand-in %d", device);
    return SUCCESS;
}

EXPORT cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device < 0 || device >= devices()) return INVALID_DEVICE;
    switch (attribute) {
        // One, so that blocks take several rows.
        case MULTIPROCESSORS: *value = 1; return SUCCESS;
        case MAJOR: *value = capability() / 10; return SUCCESS;
        case MINOR: *value = capability() % 10; return SUCCESS;
        case MEMORY_POOLS: *value = number("CUDA_ON_CPU_POOLS", "1"); return SUCCESS;
    }
    return refuse(INVALID_VALUE, "an attribute that the stand-in does not have");
}

EXPORT cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = limit();
    return SUCCESS;
}

EXPORT cuDevicePrimaryCtxRetain(void** context, int device) {
    LOCKED;
    if (owner != getpid()) return NOT_INITIALIZED;
    *context = &handles[device];
    contexts++;
    return SUCCESS;
}

EXPORT cuCtxSetCurrent(void* context) {
    LOCKED;
    if (owner != getpid()) return NOT_INITIALIZED;
    int* handle = static_cast<int*>(context);
    if (!contexts || handle < handles || handle >= handles + devices())
        return refuse(INVALID_CONTEXT, "no such context");
    current = handle;
    return SUCCESS;
}

// --- memory

struct PoolProperties {
    int allocation, handles, location, device;
    void* security;
    size_t most;
    unsigned short usage;
    unsigned char reserved[54];
};

EXPORT cuMemPoolCreate(void** pool, const PoolProperties* p) {
    LOCKED;
    // Pinned memory of a device, and zero where the driver of 12.0 has only reserved bytes.
    bool rest = p->security || p->most || p->usage;
    for (unsigned char byte : p->reserved) rest |= byte != 0;
    if (p->allocation != 1 || p->handles || p->location != 1 || p->device >= devices() || rest)
        return refuse(INVALID_VALUE, "properties of a pool");
    *pool = &memory;
    return SUCCESS;
}

EXPORT cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
    if (pool != &memory || attribute != 4 || *static_cast<uint64_t*>(value) != ~uint64_t(0))
        return refuse(INVALID_VALUE, "an attribute of a pool");
    return SUCCESS;
}

EXPORT cuMemAllocFromPoolAsync(uint64_t* address, size_t bytes, void* pool, Stream* stream) {
    READY;
    if (!bytes || pool != &memory || !streams.count(stream)) return refuse(INVALID_VALUE, "an allocation");
    if (memory.used + bytes > limit()) drain(stream);
    if (memory.used + bytes > limit()) return OUT_OF_MEMORY;
    // Addresses are not used again: what is read after it was freed is no memory of the device.
    size_t offset = memory.next, step = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    if (offset + step + 8192 > ADDRESSES) return refuse(OUT_OF_MEMORY, "the stand-in has no addresses left");
    memory.next += step;
    memory.live[offset] = bytes;
    memory.used += bytes;
    Open open;
    memset(memory.base + offset, 0xff, bytes);
    *address = reinterpret_cast<uint64_t>(memory.base + offset);
    return SUCCESS;
}

EXPORT cuMemFreeAsync(uint64_t address, Stream* stream) {
    READY;
    return in_stream(stream, [=] {
        auto it = find(address);
        if (it == memory.live.end() || address != reinterpret_cast<uint64_t>(memory.base + it->first))
            return refuse(INVALID_VALUE, "freed what is no allocation");
        memset(memory.base + it->first, 0xff, it->second);
        memory.used -= it->second;
        memory.live.erase(it);
        return SUCCESS;
    });
}

EXPORT cuMemGetInfo_v2(size_t* free, size_t* total) {
    READY;
    *total = limit();
    *free = limit() - memory.used;
    return SUCCESS;
}

EXPORT cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, Stream* stream) {
    READY;
    return in_stream(stream, [=] {
        if (!holds(address, bytes)) return refuse(ILLEGAL_ADDRESS, "memory is filled that is not there");
        memset(reinterpret_cast<void*>(address), value, bytes);
        return SUCCESS;
    });
}

// The source is read at once, as the driver does with pageable memory.
EXPORT cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    READY;
    auto begin = static_cast<const char*>(from);
    std::vector<char> copy(begin, begin + bytes);
    return in_stream(stream, [to, copy] {
        if (!holds(to, copy.size())) return refuse(ILLEGAL_ADDRESS, "a copy to memory that is not there");
        memcpy(reinterpret_cast<void*>(to), copy.data(), copy.size());
        return SUCCESS;
    });
}

// Until the stream is waited for the result is NaN.
EXPORT cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    READY;
    memset(to, 0xff, bytes);
    return in_stream(stream, [=] {
        if (!holds(from, bytes)) return refuse(ILLEGAL_ADDRESS, "a copy from memory that is not there");
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
}

// --- streams

EXPORT cuStreamCreate(Stream** stream, unsigned flags) {
    READY;
    if (flags != 1) return refuse(INVALID_VALUE, "a stream that waits for the default one");
    *stream = new Stream;
    streams.insert(*stream);
    return SUCCESS;
}

EXPORT cuStreamSynchronize(Stream* stream) {
    READY;
    return streams.count(stream) ? drain(stream) : refuse(INVALID_HANDLE, "no such stream");
}

EXPORT cuStreamDestroy_v2(Stream* stream) {
    LOCKED;
    if (!streams.count(stream)) return refuse(INVALID_HANDLE, "no such stream");
    int code = drain(stream);
    streams.erase(stream);
    delete stream;
    log("alive " + std::to_string(memory.live.size()));
    return code;
}

// --- kernels

EXPORT cuModuleLoadData(Module** module, const void* image) {
    READY;
    auto m = new Module;
    const char* bytes = static_cast<const char*>(image);
    int arch = 0, own = capability();
    bool elf = !memcmp(bytes, ELFMAG, SELFMAG);
    if (!(elf ? read_elf(bytes, *m, arch) : read_ptx(bytes, *m, arch))) return refuse(INVALID_IMAGE, "no image");
    if (elf && (arch / 10 != own / 10 || arch % 10 > own % 10 || number("CUDA_ON_CPU_NO_BINARY", "0")))
        return refuse(NO_BINARY_FOR_GPU, m->target);
    if (!elf && (arch > own || number("CUDA_ON_CPU_NO_PTX", "0"))) return refuse(UNSUPPORTED_PTX_VERSION, m->target);
    modules.insert(m);
    *module = m;
    log("module " + m->target + " " + *m->kernels.begin());
    return SUCCESS;
}

EXPORT cuModuleGetFunction(Function** function, Module* module, const char* name) {
    READY;
    if (!modules.count(module)) return refuse(INVALID_HANDLE, "no such module");
    if (!module->kernels.count(name) || !cuda_on_cpu::find_entry(name)) return NOT_FOUND;
    functions.insert(*function = new Function{name});
    return SUCCESS;
}

EXPORT cuFuncSetAttribute(Function* function, int attribute, int value) {
    READY;
    // The most that a block may have on a GPU of compute capability 8.6: less than on others.
    if (!functions.count(function) || attribute != 8 || value < 0 || value > 99 << 10)
        return refuse(INVALID_VALUE, "an attribute of a function");
    function->shared = value;
    return SUCCESS;
}

EXPORT cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, Stream* stream, void** params, void** extra) {
    READY;
    if (!functions.count(function) || shared > function->shared || extra) return refuse(INVALID_VALUE, "a launch");
    Launch l = {function->name, {gx, gy, gz}, {bx, by, bz}, shared, {}, {}};
    const cuda_on_cpu::Entry* entry = cuda_on_cpu::find_entry(l.kernel.c_str());
    for (const char* letter = entry->signature; *letter; letter++) {
        const void* from = params[l.values.size()];
        uint64_t value = 0;
        if (*letter == 's') {
            l.structure.resize(entry->struct_bytes / 4);
            memcpy(l.structure.data(), from, entry->struct_bytes);
        } else {
            memcpy(&value, from, strchr("fiu", *letter) ? 4 : 8);
        }
        l.values.push_back(value);
    }
    char line[200];
    snprintf(line, sizeof(line), "launch %s grid %u %u block %u %u", l.kernel.c_str(), gx, gy, bx, by);
    log(line);
    plant(l);
    const unsigned *g = l.grid, *b = l.block;
    if (!g[0] || g[0] > 0x7fffffff || !g[1] || g[1] > 65535 || g[2] != 1 || !b[0] || !b[1] || b[2] != 1 ||
        b[0] * b[1] > 1024)
        return refuse(INVALID_VALUE, l.kernel + ": grid or block");
    if (int code = planned("CUDA_ON_CPU_FAIL", l.kernel)) return code;
    return in_stream(stream, [l] { return execute(l); });
}
