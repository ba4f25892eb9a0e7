// The attention kernel that attention.cpp makes of the library: `rows` queries resident, heads of ATTENTION_HEAD_DIM features.
#ifndef HWATTN_ATTENTION_TOP_HPP
#define HWATTN_ATTENTION_TOP_HPP
#include "attention.hpp"
#include "config.hpp"
#include "model.hpp"

using namespace hwattn;

typedef Attention<Config, ATTENTION_HEAD_DIM, ATTENTION_KEY_BLOCK> Kernel;

// Attention of every head: result = softmax(q k^T) v. Pointers as attention.hpp lays memory out, and one scaling entry for each head,
// read at two ports. Returns 0, or 1 for a shape with nothing in it.
extern "C" int hwattn_attention(
    const Kernel::word_t* q,
    const Kernel::word_t* k,
    const Kernel::word_t* v,
    Kernel::word_t* result,
    const uint64_t* score_scaling,
    const uint64_t* result_scaling,
    unsigned queries,
    unsigned keys,
    unsigned heads,
    bool p16);

#endif
