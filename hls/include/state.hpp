// Everything that instructions read and write, as sim/model/state.py; memories are arrays of words of `lanes` bytes.
#ifndef HWATTN_STATE_HPP
#define HWATTN_STATE_HPP
#include <cstdint>

#include "ap_int.h"
#include "isa.hpp"
#include "numbers.hpp"

namespace hwattn {

template <int LANES>
struct Word {
    int8_t byte[LANES];
};

// A word of zeros.
template <int LANES>
Word<LANES> zero_word() {
#pragma HLS INLINE
    Word<LANES> word;
    for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
        word.byte[lane] = 0;
    }
    return word;
}

// Requantization of one output channel.
struct Parameter {
    ap_int<32> bias;
    ap_uint<MULTIPLIER_BITS> multiplier;
    ap_uint<6> shift;
};

// An entry as the host writes it: bias, then multiplier and shift << 16.
inline Parameter parameter(const ap_uint<64>& entry) {
#pragma HLS INLINE
    Parameter found;
    found.bias = ap_uint<32>(entry.range(31, 0));
    found.multiplier = entry.range(32 + MULTIPLIER_BITS - 1, 32);
    found.shift = entry.range(53, 48);
    return found;
}

// delta(|x|) of the activation at the left knots, and to the right ones.
struct ActivationTable {
    ap_int<ACTIVATION_VALUE_BITS> value[ACTIVATION_INTERVALS];
    ap_int<ACTIVATION_DIFFERENCE_BITS> difference[ACTIVATION_INTERVALS];
    ap_uint<3> interval_shift;
};

// Running maximum, sum, and growth of the maximum in the last block, of one row.
struct SoftmaxRow {
    int16_t maximum;
    uint8_t growth;
    uint32_t total;
};

// The machine's memories. C has the fields of AcceleratorConfig.
template <class C>
struct State {
    typedef Word<C::lanes> word_t;
    static constexpr int act_total_words = C::act_banks * C::act_words;
    static constexpr int accumulator_columns = C::acc_banks * C::acc_columns;

    word_t act[act_total_words];
    word_t weight[C::weight_words];
    Parameter param[C::param_words];
    ap_uint<64> norm[C::norm_words];
    Encoded program[C::program_words];
    ActivationTable table;

    word_t slots[C::row_slots][C::rows][C::row_words];
    int32_t accumulators[C::rows][accumulator_columns];
    SoftmaxRow softmax[SOFTMAX_STATES][C::rows];

    uint16_t queue_token[C::experts][C::tokens];
    uint16_t queue_gate[C::experts][C::tokens];
    uint16_t queue_count[C::experts];
    uint8_t metaqueue[C::experts];
    uint16_t metaqueue_length;
};

// A word of the memory that an instruction names.
template <class C>
Word<C::lanes> read_word(const State<C>& state, int memory, unsigned address) {
#pragma HLS INLINE
    return memory == Memory::ACT ? state.act[address] : state.weight[address];
}

}  // namespace hwattn

#endif
