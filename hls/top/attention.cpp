// Top of the attention kernel: queries, keys and values in external memory, the result back to it.
#include "attention_top.hpp"

int hwattn_attention(
    const Kernel::word_t* q,
    const Kernel::word_t* k,
    const Kernel::word_t* v,
    Kernel::word_t* result,
    const uint64_t* score_scaling,
    const uint64_t* result_scaling,
    unsigned queries,
    unsigned keys,
    unsigned heads,
    bool p16) {
#pragma HLS INTERFACE mode=m_axi port=q bundle=queries offset=slave depth=ATTENTION_WORDS
#pragma HLS INTERFACE mode=m_axi port=k bundle=keys offset=slave depth=ATTENTION_WORDS
#pragma HLS INTERFACE mode=m_axi port=v bundle=values offset=slave depth=ATTENTION_WORDS
#pragma HLS INTERFACE mode=m_axi port=result bundle=result offset=slave depth=ATTENTION_WORDS
#pragma HLS INTERFACE mode=m_axi port=score_scaling bundle=queries offset=slave depth=ATTENTION_HEADS
#pragma HLS INTERFACE mode=m_axi port=result_scaling bundle=result offset=slave depth=ATTENTION_HEADS
#pragma HLS INTERFACE mode=s_axilite port=queries
#pragma HLS INTERFACE mode=s_axilite port=keys
#pragma HLS INTERFACE mode=s_axilite port=heads
#pragma HLS INTERFACE mode=s_axilite port=p16
#pragma HLS INTERFACE mode=s_axilite port=return
    if (queries == 0 || keys == 0 || heads == 0) return 1;
    const AttentionShape shape = {queries, keys, heads};
    Kernel::run(q, k, v, result, score_scaling, result_scaling, shape, p16);
    return 0;
}
