// What the stand-ins for NVIDIA's libraries share: streams, the memory of the device, the variables that steer them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace stand_in {

// Of CUresult, what work in a stream ends with.
constexpr int SUCCESS = 0, ILLEGAL_ADDRESS = 700;

extern std::recursive_mutex mutex;

const char* variable(const char* name, const char* otherwise);
long number(const char* name, const char* otherwise);
void log(const std::string& line);
int refuse(int code, const std::string& why);

// Whether an allocation holds these bytes.
bool holds(uint64_t address, size_t bytes);

struct Stream {
    std::vector<std::function<int()>> queue;
};

// What every call needs but the first ones: a driver that was started here, and a context.
int ready();
// Work for when the stream is waited for; what it gives back is an error of the driver.
int in_stream(Stream* stream, std::function<int()> work);

}  // namespace stand_in

#define EXPORT extern "C" __attribute__((visibility("default"))) int
#define LOCKED std::lock_guard<std::recursive_mutex> lock(mutex)
