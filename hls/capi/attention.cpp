// A C interface to the attention kernel, for ctypes.
#include "attention.hpp"
#include "config.hpp"

using namespace hwattn;

typedef Attention<Config, HWATTN_HEAD_DIM, HWATTN_KEY_BLOCK> Kernel;

extern "C" void hwattn_attention(
    const int8_t* q,
    const int8_t* k,
    const int8_t* v,
    int8_t* result,
    const uint64_t* scaling,
    unsigned queries,
    unsigned keys,
    unsigned heads,
    unsigned p16) {
    typedef Kernel::word_t word_t;
    const AttentionShape shape = {queries, keys, heads};
    Kernel::run(
        reinterpret_cast<const word_t*>(q),
        reinterpret_cast<const word_t*>(k),
        reinterpret_cast<const word_t*>(v),
        reinterpret_cast<word_t*>(result),
        scaling,
        scaling,
        shape,
        p16 != 0);
}
