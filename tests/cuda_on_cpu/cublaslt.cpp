// A stand-in for cuBLASLt: the calls that rust/src/cuda/matmul.rs makes, computed in f64 when the stream is waited for.
// It is the same library as the stand-in for the driver, under the name libcublasLt.so.12. See docs/cuda.md.
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "cuda_on_cpu.h"
#include "stand_in.h"

using namespace stand_in;

namespace {

// cublasStatus_t
enum { NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { COMPUTE_32F = 68, R_32F = 0, R_16F = 2, R_16BF = 14, EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };

// Attributes by their number, each with the bytes that it has.
struct Attributes {
    std::map<int, size_t> known;
    std::map<int, uint64_t> values;

    int set(int which, const void* value, size_t bytes) {
        auto it = known.find(which);
        if (it == known.end() || it->second != bytes)
            return refuse(INVALID, "attribute " + std::to_string(which) + " of " + std::to_string(bytes) + " bytes");
        values[which] = 0;
        memcpy(&values[which], value, bytes);
        return SUCCESS;
    }
    uint64_t get(int which, uint64_t otherwise) const {
        auto it = values.find(which);
        return it == values.end() ? otherwise : it->second;
    }
};

enum { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8 };
struct Product : Attributes {
    Product() : Attributes{{{TRANSA, 4}, {TRANSB, 4}, {EPILOGUE, 4}, {BIAS_POINTER, 8}}, {}} {}
};

enum { MAX_WORKSPACE = 1, REDUCTION_SCHEME = 3, ALIGNMENT_A = 5, ALIGNMENT_D = 8 };
struct Preference : Attributes {
    Preference() : Attributes{{{MAX_WORKSPACE, 8}, {REDUCTION_SCHEME, 4}, {5, 4}, {6, 4}, {7, 4}, {8, 4}}, {}} {}
};

// By columns, `line` elements from one to the next.
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t line;

    size_t width() const { return type == R_32F ? 4 : 2; }
    size_t bytes() const { return (line * (cols - 1) + rows) * width(); }
    bool same(const Layout& o) const { return type == o.type && rows == o.rows && cols == o.cols && line == o.line; }
};

float read(uint64_t base, int type, size_t i) {
    if (type == R_32F) return reinterpret_cast<float*>(base)[i];
    if (type == R_16F) return __half2float(reinterpret_cast<__half*>(base)[i]);
    return __bfloat162float(reinterpret_cast<__nv_bfloat16*>(base)[i]);
}
void write(uint64_t base, int type, size_t i, float x) {
    if (type == R_32F) reinterpret_cast<float*>(base)[i] = x;
    else if (type == R_16F) reinterpret_cast<__half*>(base)[i] = __float2half_rn(x);
    else reinterpret_cast<__nv_bfloat16*>(base)[i] = __float2bfloat16_rn(x);
}

struct Operand {
    Layout layout;
    bool transposed;
    uint64_t at;

    uint64_t rows() const { return transposed ? layout.cols : layout.rows; }
    uint64_t cols() const { return transposed ? layout.rows : layout.cols; }
    double get(size_t r, size_t c) const {
        return read(at, layout.type, transposed ? r * layout.line + c : c * layout.line + r);
    }
};

struct Call {
    Operand a, b, c, d;
    uint64_t bias, workspace, workspace_bytes;
    float alpha, beta;
};

// An algorithm holds what it was found for, so that it cannot serve anything else.
struct Algorithm {
    uint64_t mark, shape, needed;
    uint8_t alignments[4];
    uint64_t rest[4];
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");
constexpr uint64_t MARK = 0x6d61746d756c6c74;

struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

uint64_t shape_of(const Product& p, const Layout* const (&layouts)[4]) {
    std::string all = std::to_string(p.get(TRANSA, 0)) + std::to_string(p.get(TRANSB, 0)) + std::to_string(p.get(EPILOGUE, 1));
    for (auto l : layouts)
        for (uint64_t n : {uint64_t(l->type), l->rows, l->cols, uint64_t(l->line)}) all += " " + std::to_string(n);
    return std::hash<std::string>()(all);
}

// Whether the descriptions fit each other.
int expect_fit(const Product& p, const Layout* const (&l)[4]) {
    if (p.get(TRANSA, 0) > 1 || p.get(TRANSB, 0) > 1) return refuse(INVALID, "an operation");
    for (auto layout : l)
        if (!layout->rows || !layout->cols || layout->line < int64_t(layout->rows)) return refuse(INVALID, "a layout");
    Operand a = {*l[0], p.get(TRANSA, 0) == 1, 0}, b = {*l[1], p.get(TRANSB, 0) == 1, 0};
    if (a.cols() != b.rows() || a.rows() != l[3]->rows || b.cols() != l[3]->cols || !l[2]->same(*l[3]))
        return refuse(INVALID, "extents of a product");
    if (l[0]->type != l[1]->type || (l[3]->type != l[0]->type && l[3]->type != R_32F))
        return refuse(NOT_SUPPORTED, "types of a product");
    uint64_t epilogue = p.get(EPILOGUE, EPILOGUE_DEFAULT);
    if (epilogue != EPILOGUE_DEFAULT && epilogue != EPILOGUE_BIAS) return refuse(NOT_SUPPORTED, "an epilogue");
    if ((epilogue == EPILOGUE_BIAS) != (p.get(BIAS_POINTER, 0) != 0)) return refuse(INVALID, "a bias");
    return SUCCESS;
}

// A mistake of the host, put in where its call arrives: "matmul beta", "matmul bias", ...
void plant(Call& call) {
    std::string what = variable("CUDA_ON_CPU_PLANT", "");
    if (what.rfind("matmul ", 0) != 0) return;
    log("planted");
    what = what.substr(7);
    if (what == "beta") call.beta = 1.0f - call.beta;
    if (what == "alpha") call.alpha *= 1.001f;
    if (what == "bias") call.bias = 0;
    if (what == "swap") std::swap(call.a.at, call.b.at);
    if (what == "transposed" && call.a.layout.rows == call.a.layout.cols) call.a.transposed = !call.a.transposed;
    if (what == "line" && call.a.layout.cols > 1) call.a.layout.line--;
    if (what == "type") call.d.layout.type = call.d.layout.type == R_16F ? R_16BF : call.d.layout.type;
}

int execute(const Call& call) {
    for (const Operand* o : {&call.a, &call.b, &call.c, &call.d})
        if (!holds(o->at, o->layout.bytes())) return refuse(ILLEGAL_ADDRESS, "a matrix is not in one allocation");
    const Layout& out = call.d.layout;
    if (call.bias && !holds(call.bias, out.rows * out.width())) return refuse(ILLEGAL_ADDRESS, "a bias is too short");
    if (call.workspace_bytes && !holds(call.workspace, call.workspace_bytes))
        return refuse(ILLEGAL_ADDRESS, "a workspace is not there");
    if (call.workspace_bytes) memset(reinterpret_cast<void*>(call.workspace), 0xff, call.workspace_bytes);
    for (size_t r = 0; r < out.rows; r++)
        for (size_t c = 0; c < out.cols; c++) {
            double sum = 0.0;
            for (size_t k = 0; k < call.a.cols(); k++) sum += call.a.get(r, k) * call.b.get(k, c);
            sum *= call.alpha;
            if (call.beta != 0.0f) sum += call.beta * call.c.get(r, c);
            if (call.bias) sum += read(call.bias, out.type, r);
            write(call.d.at, out.type, c * out.line + r, float(sum));
        }
    return SUCCESS;
}

int handle;

}  // namespace

EXPORT cublasLtCreate(void** made) {
    LOCKED;
    if (ready() != SUCCESS) return NOT_INITIALIZED;
    if (int code = number("CUDA_ON_CPU_BLAS", "0")) return code;
    *made = &handle;
    return SUCCESS;
}

EXPORT cublasLtMatmulDescCreate(Product** made, int compute, int scale) {
    if (compute != COMPUTE_32F || scale != R_32F) return refuse(INVALID, "a product is not computed in f32");
    *made = new Product;
    return SUCCESS;
}
EXPORT cublasLtMatmulDescSetAttribute(Product* p, int which, const void* value, size_t bytes) {
    return p->set(which, value, bytes);
}
EXPORT cublasLtMatmulDescDestroy(Product* p) {
    delete p;
    return SUCCESS;
}

EXPORT cublasLtMatrixLayoutCreate(Layout** made, int type, uint64_t rows, uint64_t cols, int64_t line) {
    if (type != R_32F && type != R_16F && type != R_16BF) return refuse(INVALID, "a dtype");
    *made = new Layout{type, rows, cols, line};
    return SUCCESS;
}
EXPORT cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

EXPORT cublasLtMatmulPreferenceCreate(Preference** made) {
    *made = new Preference;
    return SUCCESS;
}
EXPORT cublasLtMatmulPreferenceSetAttribute(Preference* p, int which, const void* value, size_t bytes) {
    return p->set(which, value, bytes);
}
EXPORT cublasLtMatmulPreferenceDestroy(Preference* p) {
    delete p;
    return SUCCESS;
}

EXPORT cublasLtMatmulAlgoGetHeuristic(void* of, Product* p, Layout* a, Layout* b, Layout* c, Layout* d, Preference* wish,
                                      int most, Found* found, int* count) {
    LOCKED;
    if (of != &handle || most < 1) return refuse(INVALID, "no such handle");
    const Layout* layouts[4] = {a, b, c, d};
    if (int code = expect_fit(*p, layouts)) return code;
    // Pieces of a sum may be kept apart only in f32, not added in place or in the output's dtype.
    if (wish->get(REDUCTION_SCHEME, 7) & ~2ull) return refuse(INVALID, "a sum in an order or a dtype of chance");
    *found = {};
    Algorithm& algorithm = found->algorithm;
    algorithm.mark = MARK;
    algorithm.shape = shape_of(*p, layouts);
    // An odd size, and none for the smallest products.
    algorithm.needed = d->rows * d->cols < 64 ? 0 : std::min<uint64_t>(wish->get(MAX_WORKSPACE, 0), 4100);
    for (int i = 0; i < 4; i++) {
        uint64_t alignment = wish->get(ALIGNMENT_A + i, 256);
        algorithm.alignments[i] = alignment == 256 ? 0 : alignment;
    }
    found->workspace = algorithm.needed;
    *count = 1;
    std::string types = std::to_string(a->type) + " " + std::to_string(d->type);
    log("heuristic " + types + " " + std::to_string(d->rows) + " " + std::to_string(d->cols));
    return SUCCESS;
}

EXPORT cublasLtMatmul(void* of, Product* p, const float* alpha, uint64_t a, Layout* of_a, uint64_t b, Layout* of_b,
                      const float* beta, uint64_t c, Layout* of_c, uint64_t d, Layout* of_d, const Algorithm* algorithm,
                      uint64_t workspace, size_t workspace_bytes, Stream* stream) {
    LOCKED;
    if (ready() != SUCCESS) return EXECUTION_FAILED;
    if (of != &handle) return refuse(INVALID, "no such handle");
    const Layout* layouts[4] = {of_a, of_b, of_c, of_d};
    if (int code = expect_fit(*p, layouts)) return code;
    if (algorithm->mark != MARK || algorithm->shape != shape_of(*p, layouts))
        return refuse(INVALID, "an algorithm that was found for another product");
    if (workspace_bytes < algorithm->needed || (algorithm->needed && (!workspace || workspace % 16)))
        return refuse(INVALID, "a workspace");
    uint64_t addresses[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        unsigned promised = algorithm->alignments[i] ? algorithm->alignments[i] : 256;
        if (!addresses[i] || addresses[i] % promised) return refuse(INVALID, "an address is less aligned than promised");
    }
    if (c != d) return refuse(INVALID, "a product that is not in place");
    Call call = {{*of_a, p->get(TRANSA, 0) == 1, a}, {*of_b, p->get(TRANSB, 0) == 1, b}, {*of_c, false, c},
                 {*of_d, false, d}, p->get(BIAS_POINTER, 0), workspace, workspace_bytes, *alpha, *beta};
    plant(call);
    return in_stream(stream, [call] { return execute(call); }) == SUCCESS ? SUCCESS : int(EXECUTION_FAILED);
}
