// Matrices from shared memory, with the banks that their rows meet.
#include "runtime.h"

namespace cuda_on_cpu {
namespace {

size_t bank_conflicts;

// Eight rows of 16 bytes, a matrix, are read at once: each 16 of the 128 bytes that the banks give must come once. The
// same row twice is one read.
void count_conflicts(const uint16_t* const* rows) {
    for (int first = 0; first < 32; first += 8)
        for (int i = first; i < first + 8; i++)
            for (int j = first; j < i; j++) {
                auto a = reinterpret_cast<uintptr_t>(rows[i]), b = reinterpret_cast<uintptr_t>(rows[j]);
                bank_conflicts += a != b && a / 16 % 8 == b / 16 % 8;
            }
}

}  // namespace

// Each lane reads what it gets, so that a race names the right one.
void load_matrices(unsigned (&pieces)[4], const void* row, bool transposed, Place place) {
    expect_aligned(row, 16);
    auto rows = static_cast<const uint16_t* const*>(gather(&row, sizeof(row), place));
    if (lane() == 0) count_conflicts(rows);
    int g = lane() / 4, c = lane() % 4 * 2;
    for (int r = 0; r < 4; r++) {
        const uint16_t* at[2];
        for (int k = 0; k < 2; k++) at[k] = transposed ? rows[8 * r + c + k] + g : rows[8 * r + g] + c + k;
        read_access(at[0], transposed ? 2 : 4);
        if (transposed) read_access(at[1], 2);
        pieces[r] = *at[0] | *at[1] << 16;
    }
}

}  // namespace cuda_on_cpu

// How often load_matrices has read a bank twice at once since the last call.
extern "C" __attribute__((visibility("default"))) size_t cuda_on_cpu_bank_conflicts() {
    size_t seen = cuda_on_cpu::bank_conflicts;
    cuda_on_cpu::bank_conflicts = 0;
    return seen;
}
