// Kernels by name, with their parameters taken apart. A generated file (see build.py) has one ENTRY a kernel.
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

namespace cuda_on_cpu {

struct Entry {
    const char* name;
    const char* signature;
    size_t struct_bytes;  // of all parameters that are structs
    void (*call)(void** args);
    Entry* next;
};

void add_entry(Entry* entry);
const Entry* find_entry(const char* name);

template <typename T> constexpr char letter() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_same<T, double>::value) return 'd';
    if (std::is_same<T, int>::value) return 'i';
    if (std::is_same<T, unsigned>::value) return 'u';
    if (std::is_class<T>::value) return 's';
    static_assert(std::is_class<T>::value || std::is_pointer<T>::value || sizeof(T) == 8 || sizeof(T) == 4,
                  "a parameter of 4 or 8 bytes");
    return 'z';
}

template <typename F> struct Unpack;
template <typename... A> struct Unpack<void (*)(A...)> {
    static constexpr char signature[] = {letter<A>()..., 0};
    static constexpr size_t struct_bytes = (size_t(0) + ... + (std::is_class<A>::value ? sizeof(A) : 0));
    // The arguments lie in memory of the launch, not of the kernel.
    template <void (*F)(A...), size_t... I>
    __attribute__((no_sanitize_thread)) static void call_with(void** args, std::index_sequence<I...>) {
        F(*static_cast<A*>(args[I])...);
    }
    template <void (*F)(A...)> __attribute__((no_sanitize_thread)) static void call(void** args) {
        call_with<F>(args, std::index_sequence_for<A...>());
    }
};

struct Adder {
    Entry entry;
    Adder(const char* name, const char* signature, size_t struct_bytes, void (*call)(void**))
        : entry{name, signature, struct_bytes, call, nullptr} {
        add_entry(&entry);
    }
};

}  // namespace cuda_on_cpu

#define ENTRY(kernel)                                                                                    \
    static cuda_on_cpu::Adder adder_##kernel(#kernel, cuda_on_cpu::Unpack<decltype(&kernel)>::signature, \
                                             cuda_on_cpu::Unpack<decltype(&kernel)>::struct_bytes,       \
                                             cuda_on_cpu::Unpack<decltype(&kernel)>::call<&kernel>);
